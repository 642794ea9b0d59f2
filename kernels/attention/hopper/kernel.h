// The kernel: who does what. compute_rows() is that of the source that includes this.
#pragma once
#include "change.h"
#include "load.h"

FB_KERNEL(attention_hopper, fb_attention_map_params, FB_THREADS, FB_MIN_BLOCKS) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, *reinterpret_cast<Shared*>(memory)};
    if (threadIdx.x == 0) {
        tensor_prefetch(&p.k);
        tensor_prefetch(&p.v);
        init_barriers(b.shared);
    }
    if constexpr (rotates)
        begin_rotation(p.attention, *rotation_of(b.shared), row_stride(FB_KV_TILE, 128));
    if (FB_CLUSTER > 1) cluster_sync();
    else __syncthreads();
    begin_beside(p.attention);
    if (uniform(thread_now() / 128) == 0) {
        registers_decrease<loading_registers>();
        const int warp = uniform(thread_now() / 32);
        if (warp < 2) load_tasks(b);
        else if (warp == 2) load_tiles<KeySide>(b);
        else load_tiles<ValueSide>(b);
    } else if (changing_groups > 0 && uniform(thread_now() / 128) == 1) {
        if constexpr (changing_groups > 0) {
            registers_decrease<changing_registers>();
            Changer{b}.run();
        }
    } else {
        compute_rows(b);
    }
    end_beside(p.attention);
    if (FB_CLUSTER > 1) cluster_sync(); // nobody leaves while others may still arrive here
}
