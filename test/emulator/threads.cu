// Threads, warps and blocks.
#include "conformance.h"

#include "ptx/barrier.h"
#include "ptx/memory.h"

FB_KERNEL(places, probe, 96, 1) {
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    words_out(p)[i] = threadIdx.x | blockIdx.x << 8 | blockDim.x << 16 | gridDim.x << 24;
}

// Sixteen words for each lane, from its value.
FB_KERNEL(warps, probe, 32, 1) {
    const uint32_t lane = threadIdx.x, v = words_in(p)[lane];
    uint32_t* out = words_out(p) + lane * 16;
    out[0] = __shfl_sync(~0u, v, 5);
    out[1] = __shfl_sync(~0u, v, int(lane) + 3, 8);
    out[2] = __shfl_up_sync(~0u, v, 2);
    out[3] = __shfl_down_sync(~0u, v, 4, 16);
    out[4] = __shfl_xor_sync(~0u, v, 16);
    out[5] = __float_as_uint(__shfl_xor_sync(~0u, float(v), 1));
    out[6] = __ballot_sync(~0u, v & 1);
    out[7] = uint32_t(__any_sync(~0u, v == 1000)) | uint32_t(__all_sync(~0u, v < 1000)) << 1;
    out[8] = __match_any_sync(~0u, v % 5);
    out[9] = __reduce_add_sync(~0u, v);
    out[10] = __reduce_max_sync(~0u, v);
    out[11] = __reduce_min_sync(~0u, v);
    if (lane < 8)
        out[12] = __shfl_xor_sync(0xffu, v, 1);
    else
        out[12] = __ballot_sync(0xffffff00u, lane == 9);
    __syncwarp();
    out[13] = uint32_t(__shfl_sync(~0u, uint64_t(v) << 32 | lane, 7) >> 32);
    out[14] = __popc(v) | uint32_t(__clz(int(v))) << 8 | uint32_t(__ffs(int(v))) << 16;
    out[15] = __byte_perm(v, ~v, 0x7140);
}

// Warp 0 produces for warp 1 and hears when the box is empty: barriers 1 and 2.
FB_KERNEL(named_barriers, probe, 64, 1) {
    FB_SHARED(uint32_t, box, [32]);
    const uint32_t lane = threadIdx.x % 32;
    uint32_t sum = 0;
    for (int round = 0; round < 5; ++round) {
        if (threadIdx.x < 32) {
            if (round > 0) barrier_sync(2, 64);
            box[lane] = uint32_t(round) * 100 + lane;
            barrier_arrive(1, 64);
        } else {
            barrier_sync(1, 64);
            sum += box[31 - lane];
            if (round < 4) barrier_arrive(2, 64);
        }
    }
    if (threadIdx.x >= 32) words_out(p)[lane] = sum;
}

FB_KERNEL(block_votes, probe, 96, 1) {
    uint32_t* out = words_out(p) + threadIdx.x * 3;
    out[0] = uint32_t(__syncthreads_count(threadIdx.x % 3 == 0));
    out[1] = uint32_t(__syncthreads_or(threadIdx.x == 95));
    out[2] = uint32_t(__syncthreads_and(threadIdx.x < 95));
}

FB_KERNEL(atomics, probe, 96, 1) {
    uint32_t* out = words_out(p);
    atomicAdd(out, 1u);
    atomicMax(out + 1, threadIdx.x);
    atomicMin(out + 2, threadIdx.x);
    atomicOr(out + 3, 1u << threadIdx.x % 32);
    atomicAnd(out + 4, ~(1u << threadIdx.x % 32));
    if (atomicCAS(out + 5, 0u, threadIdx.x + 1) == 0) atomicExch(out + 6, threadIdx.x + 1);
    atomicAdd(reinterpret_cast<float*>(out + 7), 0.25f);
}
