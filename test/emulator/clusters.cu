// Blocks that reach each other's shared memory. Launched with clusters of 2.
#include "conformance.h"

#include "ptx/cluster.h"
#include "ptx/fence.h"
#include "ptx/mbarrier.h"
#include "ptx/memory.h"
#include "ptx/tma.h"

// Each block writes 64 words: what it found in its own memory and in the other's.
FB_KERNEL(reach, probe, 32, 1) {
    FB_SHARED(uint4, own, [8]);
    FB_SHARED(uint4, received, [8]);
    FB_SHARED(uint64_t, barriers, [2]);
    const uint32_t rank = cluster_rank(), other = rank ^ 1, lane = threadIdx.x;
    const uint32_t base = shared_address(own), barrier = shared_address(barriers);
    reinterpret_cast<uint32_t*>(own)[lane] = 1000 * blockIdx.x + lane;
    if (lane == 0) {
        mbarrier_init(barrier, 2);     // one arrival from each block
        mbarrier_init(barrier + 8, 1); // bytes
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier + 8, 16 + 4 + 8 + 64);
    }
    cluster_sync();
    uint32_t* out = words_out(p) + blockIdx.x * 128;
    const uint32_t theirs = map_shared(base, other);
    out[lane] = load_cluster_4(theirs + lane * 4);
    if (lane < 8) reinterpret_cast<uint4*>(out)[8 + lane] = load_cluster_16(theirs + lane * 16);
    cluster_sync();
    store_cluster_4(theirs + lane * 4, 5000 + 1000 * blockIdx.x + lane);
    if (lane == 0) {
        for (uint32_t r = 0; r < cluster_size(); ++r)
            mbarrier_arrive_cluster(map_shared(barrier, r));
    }
    mbarrier_wait_cluster(barrier, 0);
    cluster_sync();
    out[64 + lane] = reinterpret_cast<uint32_t*>(own)[lane];
    cluster_sync();
    const uint32_t target = map_shared(shared_address(received), other);
    const uint32_t counted = map_shared(barrier + 8, other);
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
        store_async_16(target, make_uint4(rank, rank + 10, rank + 20, rank + 30), counted);
        store_async_4(target + 16, rank + 40, counted);
        store_async_8(target + 24, make_float2(float(rank), float(rank + 50)), counted);
        bulk_share(target + 32, base, 64, counted);
    }
    mbarrier_wait_cluster(barrier + 8, 0);
    // Word 5 receives nothing, nor do those from 24 on.
    const bool written = lane != 5 && lane < 24;
    out[96 + lane] = written ? reinterpret_cast<uint32_t*>(received)[lane] : 0;
    if (lane == 31) out[127] = rank | cluster_size() << 8;
    cluster_sync();
}

// Rank 0 loads a row for both, rank 1 a tile for both: numbers[0] bytes each.
FB_KERNEL(multicast, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    FB_SHARED(uint64_t, barriers, [1]);
    const uint32_t bytes = uint32_t(p.numbers[0]), barrier = shared_address(barriers);
    const uint32_t tile = shared_address(memory);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier, 2 * bytes);
    }
    cluster_sync();
    if (threadIdx.x == 0) {
        if (cluster_rank() == 0)
            bulk_load_multicast(tile, words_in(p), bytes, barrier, 3);
        else
            tensor_load_multicast(tile + bytes, &p.maps[0], barrier, {0, 0}, 3);
    }
    mbarrier_wait(barrier, 0);
    const uint32_t words = bytes / 2;
    for (uint32_t i = threadIdx.x; i < words; i += 32)
        words_out(p)[cluster_rank() * words + i] = reinterpret_cast<const uint32_t*>(memory)[i];
    cluster_sync();
}
