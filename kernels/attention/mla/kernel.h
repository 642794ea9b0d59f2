// The kernel: who does what. Scores, and what is done with sums, are those of the source that
// includes this.
#pragma once
#include "load.h"

FB_KERNEL(attention_mla, fb_attention_map_params, FB_THREADS, 1) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, p.attention, *reinterpret_cast<Memory*>(memory), shared_address(memory)};
    if (threadIdx.x == 0) {
        b.memory.by_page = divider_of(uint32_t(b.p.page_size));
        init_barriers(b);
        tensor_prefetch(&p.q);
        tensor_prefetch(&p.k);
        if (FB_KEY_TAIL > 0) tensor_prefetch(&p.v);
    }
    const int role = __shfl_sync(~0u, int(threadIdx.x) / 128, 0);
    // On its way while the barriers are made.
    int32_t first = 0;
    if (int(threadIdx.x) / 32 == dispatch_warp) first = record_word(b, cluster_index());
    if (FB_CLUSTER == 1) __syncthreads();
    else cluster_sync();
    if (role > score_group) {
        registers_decrease<load_registers>();
        const int warp = int(threadIdx.x) / 32;
        if (warp == load_warp && threadIdx.x % 32 == 0) load(b);
        if (warp >= gather_warp) find_keys(b);
        if (warp == dispatch_warp) dispatch(b, first);
    } else if (role == score_group) {
        registers_increase<score_registers>();
        score(b);
    } else {
        registers_increase<value_registers>();
        multiply_values(b, role);
    }
    if (FB_CLUSTER == 2) cluster_sync(); // the other block may still arrive at barriers here
}
