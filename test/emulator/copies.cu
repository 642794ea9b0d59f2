// Asynchronous copies, the barriers that count them, and tiles of tensors.
#include "conformance.h"

#include "ptx/cp_async.h"
#include "ptx/fence.h"
#include "ptx/mbarrier.h"
#include "ptx/memory.h"
#include "ptx/tma.h"

// Thread t copies 64 bytes in pieces; of each piece it reads numbers[0] bytes at most. Two groups.
FB_KERNEL(by_threads, probe, 32, 1) {
    FB_SHARED(uint4, buffer, [128]);
    const char* in = reinterpret_cast<const char*>(p.in) + threadIdx.x * 64;
    const uint32_t mine = shared_address(buffer) + threadIdx.x * 64;
    const uint32_t most = uint32_t(p.numbers[0]);
    cp_async_16(mine, in, min(most, 16u));
    cp_async_16_l2_256(mine + 16, in + 16, min(most, 16u));
    cp_async_commit();
    cp_async_16(mine + 32, in + 32, min(most, 16u));
    cp_async_8(mine + 48, in + 48, min(most, 8u));
    cp_async_4(mine + 56, in + 56, min(most, 4u));
    cp_async_4(mine + 60, in + 60, min(most, 4u));
    cp_async_commit();
    uint4* out = reinterpret_cast<uint4*>(p.out) + threadIdx.x * 4;
    cp_async_wait<1>();
    out[0] = buffer[threadIdx.x * 4];
    out[1] = buffer[threadIdx.x * 4 + 1];
    cp_async_wait_all();
    out[2] = buffer[threadIdx.x * 4 + 2];
    out[3] = buffer[threadIdx.x * 4 + 3];
}

// Phases of a barrier of 33 arrivals: 32 threads and a later one; cp.async arrivals in the second.
FB_KERNEL(phases, probe, 64, 1) {
    FB_SHARED(uint64_t, barriers, [2]);
    FB_SHARED(uint32_t, word, [32]);
    const uint32_t barrier = shared_address(barriers), copied = shared_address(barriers + 1);
    uint32_t* out = words_out(p);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 33);
        mbarrier_init(copied, 32);
        fence_mbarrier_init();
        out[0] = mbarrier_test_wait(barrier, 1); // the phase before the first has ended
        out[1] = mbarrier_test_wait(barrier, 0);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
        mbarrier_arrive(barrier);
        cp_async_4(shared_address(word + threadIdx.x), words_in(p) + threadIdx.x);
        cp_async_mbarrier_arrive(copied);
    }
    __syncthreads();
    if (threadIdx.x == 32) {
        out[2] = mbarrier_test_wait(barrier, 0);
        mbarrier_arrive(barrier);
        mbarrier_wait(barrier, 0);
        out[3] = mbarrier_test_wait(barrier, 0);
        out[4] = mbarrier_test_wait(barrier, 1);
    }
    if (threadIdx.x >= 32) {
        mbarrier_wait(copied, 0);
        out[8 + threadIdx.x - 32] = word[63 - threadIdx.x];
    }
    cp_async_wait_all();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_invalidate(barrier);
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_expect(barrier, 16);
        mbarrier_arrive(barrier);
        out[5] = mbarrier_test_wait(barrier, 0); // sixteen bytes are missing
        bulk_load(shared_address(word), words_in(p) + 4, 16, barrier);
        mbarrier_wait(barrier, 0);
        out[6] = word[1];
    }
}

// numbers[0] bytes through shared memory and back: store, then add.
FB_KERNEL(bulk, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    FB_SHARED(uint64_t, barriers, [1]);
    const uint32_t bytes = uint32_t(p.numbers[0]), tile = shared_address(memory);
    const uint32_t barrier = shared_address(barriers);
    float* words = reinterpret_cast<float*>(memory);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier, 2 * bytes);
        bulk_load(tile, words_in(p), bytes, barrier);
        bulk_load_policy(tile + bytes, words_in(p), bytes, barrier, policy_evict_last());
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += 32) words[i] += words[i + bytes / 4];
    fence_proxy_async_shared();
    __syncthreads();
    if (threadIdx.x == 0) {
        bulk_store(words_out(p), tile, bytes);
        bulk_commit();
        bulk_wait<0>();
        bulk_add_f32(words_out(p), tile, bytes);
        bulk_commit();
        bulk_wait_read<0>();
    }
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += 32) words[i] = -1;
}

#ifndef FB_RANK
#define FB_RANK 2
#endif
#if FB_RANK == 1
#define FB_AT {n[0]}
#elif FB_RANK == 2
#define FB_AT {n[0], n[1]}
#elif FB_RANK == 3
#define FB_AT {n[0], n[1], n[2]}
#elif FB_RANK == 4
#define FB_AT {n[0], n[1], n[2], n[3]}
#else
#define FB_AT {n[0], n[1], n[2], n[3], n[4]}
#endif

// The tile of numbers[6] bytes at coordinates numbers[0..], as it lies in numbers[8] bytes of
// shared memory that were zero before.
FB_KERNEL(tensor_in, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    FB_SHARED(uint64_t, barriers, [1]);
    const uint32_t bytes = uint32_t(p.numbers[6]), barrier = shared_address(barriers);
    const int* n = p.numbers;
    uint32_t* words = reinterpret_cast<uint32_t*>(memory);
    for (int i = int(threadIdx.x); i < n[8] / 4; i += 32) words[i] = 0;
    fence_proxy_async_shared();
    __syncthreads();
    if (threadIdx.x == 0) {
        tensor_prefetch(&p.maps[0]);
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        mbarrier_arrive_expect(barrier, bytes);
        if (n[7])
            tensor_load_policy(shared_address(memory), &p.maps[0], barrier, FB_AT,
                               policy_evict_first());
        else
            tensor_load(shared_address(memory), &p.maps[0], barrier, FB_AT);
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
    for (int i = int(threadIdx.x); i < n[8] / 4; i += 32) words_out(p)[i] = words[i];
}

// The other way: what is given lies in shared memory and goes to the tile, stored or added.
FB_KERNEL(tensor_out, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    const uint32_t bytes = uint32_t(p.numbers[6]);
    const int* n = p.numbers;
    for (uint32_t i = threadIdx.x; i < bytes / 4; i += 32)
        reinterpret_cast<uint32_t*>(memory)[i] = words_in(p)[i];
    fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
        if (n[7])
            tensor_add(&p.maps[0], FB_AT, shared_address(memory));
        else
            tensor_store(&p.maps[0], FB_AT, shared_address(memory));
        bulk_commit();
        bulk_wait_read<0>();
    }
}
