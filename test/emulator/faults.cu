// Kernels that do one thing wrong each, or time things. For the emulated GPU alone.
#include "conformance.h"

#include "ptx/barrier.h"
#include "ptx/cluster.h"
#include "ptx/cp_async.h"
#include "ptx/fence.h"
#include "ptx/ldmatrix.h"
#include "ptx/mbarrier.h"
#include "ptx/memory.h"
#include "ptx/pdl.h"
#include "ptx/special.h"
#include "ptx/tma.h"
#include "ptx/wgmma.h"

FB_WGMMA(bf16, 8)

FB_KERNEL(add_one, probe, 32, 1) {
    if (blockIdx.x == 0 && threadIdx.x == 0) words_out(p)[0] += uint32_t(p.numbers[0]);
}
FB_KERNEL(copy_word, probe, 32, 1) {
    if (threadIdx.x == 0) words_out(p)[0] = words_in(p)[0];
}
FB_KERNEL(spin, probe, 32, 1) {
    const uint64_t end = global_timer() + uint64_t(p.numbers[0]) * 1000;
    while (global_timer() < end) spin_pause();
    if (threadIdx.x == 0 && p.out) words_out(p)[0] = uint32_t(p.numbers[1]);
}

// --- memory

FB_KERNEL(store_at, probe, 32, 1) {
    if (threadIdx.x == 5) words_out(p)[p.numbers[0]] = 1;
}
FB_KERNEL(load_at, probe, 32, 1) {
    if (threadIdx.x == 6) words_out(p)[0] = words_out(p)[p.numbers[0]];
}
FB_KERNEL(poisoned_pointer, probe, 32, 1) {
    FB_SHARED(uint32_t*, pointer, );
    if (threadIdx.x == 0) *pointer = 1;
}
FB_KERNEL(misaligned_store, probe, 32, 1) { store_16(words_out(p) + 1, make_uint4(0, 0, 0, 0)); }
FB_KERNEL(past_dynamic, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    memory[p.numbers[0]] = 1;
}
FB_KERNEL(past_static, probe, 32, 1) {
    FB_SHARED(uint32_t, a, [8]);
    a[p.numbers[0]] = 1;
}
FB_KERNEL(past_shared_by_copy, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    cp_async_16(shared_address(memory) + 96, words_out(p));
    cp_async_wait_all();
}
FB_KERNEL(deep_stack, probe, 32, 1) {
    volatile char much[80000];
    much[p.numbers[0]] = 1;
    words_out(p)[0] = uint32_t(much[1]);
}
FB_KERNEL(divide, probe, 32, 1) { words_out(p)[0] = uint32_t(7 / p.numbers[0]); }
FB_KERNEL(trapped, probe, 32, 1) {
    if (threadIdx.x == 3) trap();
}

// --- waits

FB_KERNEL(no_wait, probe, 32, 1) {
    FB_SHARED(uint4, a, [32]);
    cp_async_16(shared_address(a + threadIdx.x), words_in(p));
    cp_async_commit();
    words_out(p)[threadIdx.x] = a[threadIdx.x].x;
    cp_async_wait_all();
}
FB_KERNEL(no_barrier, probe, 64, 1) {
    FB_SHARED(uint4, a, [64]);
    cp_async_16(shared_address(a + threadIdx.x), words_in(p));
    cp_async_wait_all();
    words_out(p)[threadIdx.x] = a[63 - threadIdx.x].x;
}
FB_KERNEL(never_waits, probe, 32, 1) {
    FB_SHARED(uint4, a, [32]);
    cp_async_16(shared_address(a + threadIdx.x), words_in(p));
}
FB_KERNEL(load_never_awaited, probe, 32, 1) {
    FB_SHARED(uint4, a, [8]);
    FB_SHARED(uint64_t, barrier, );
    if (threadIdx.x > 0) return;
    mbarrier_init(shared_address(&barrier), 1);
    mbarrier_arrive_expect(shared_address(&barrier), 16);
    bulk_load(shared_address(a), words_in(p), 16, shared_address(&barrier));
}
FB_KERNEL(store_never_awaited, probe, 32, 1) {
    FB_SHARED(uint4, a, [8]);
    if (threadIdx.x > 0) return;
    a[0] = make_uint4(1, 2, 3, 4);
    bulk_store(words_out(p), shared_address(a), 16);
    bulk_commit();
}
FB_KERNEL(written_before_read, probe, 32, 1) {
    FB_SHARED(uint4, a, [8]);
    if (threadIdx.x > 0) return;
    a[0] = make_uint4(1, 2, 3, 4);
    fence_proxy_async();
    bulk_store(words_out(p), shared_address(a), 16);
    bulk_commit();
    a[0] = make_uint4(9, 9, 9, 9);
    bulk_wait_read<0>();
}
FB_KERNEL(no_pdl_wait, probe, 32, 1) { words_out(p)[0] = 1; }

FB_KERNEL(stored_at, probe, 32, 1) {
    FB_DYNAMIC_SHARED(memory);
    if (threadIdx.x > 0) return;
    for (int i = 0; i < 128; ++i) memory[i] = 0;
    fence_proxy_async();
    tensor_store(&p.maps[0], {p.numbers[0], p.numbers[1]}, shared_address(memory));
    bulk_commit();
    bulk_wait<0>();
}

// --- threads that do not agree

FB_KERNEL(missing_at_barrier, probe, 64, 1) {
    if (threadIdx.x < 32) barrier_sync(3, 64);
}
FB_KERNEL(split_warp, probe, 32, 1) {
    if (threadIdx.x % 2)
        words_out(p)[0] = __shfl_sync(~0u, 1u, 0);
    else
        words_out(p)[1] = __ballot_sync(~0u, 1);
}
FB_KERNEL(different_counts, probe, 64, 1) { barrier_sync(1, threadIdx.x < 32 ? 64 : 32); }
FB_KERNEL(spins_for_nothing, probe, 32, 1) {
    while (load_acquire_4(words_out(p)) != 12345) spin_pause();
}
FB_KERNEL(too_few_bytes, probe, 32, 1) {
    FB_SHARED(uint4, a, [8]);
    FB_SHARED(uint64_t, barrier, );
    if (threadIdx.x == 0) {
        mbarrier_init(shared_address(&barrier), 1);
        mbarrier_arrive_expect(shared_address(&barrier), 32);
        bulk_load(shared_address(a), words_in(p), 16, shared_address(&barrier));
    }
    __syncthreads();
    mbarrier_wait(shared_address(&barrier), 0);
}
FB_KERNEL(no_init, probe, 32, 1) {
    FB_SHARED(uint64_t, barrier, );
    mbarrier_arrive(shared_address(&barrier));
}
FB_KERNEL(barrier_overwritten, probe, 32, 1) {
    FB_SHARED(uint64_t, barrier, );
    if (threadIdx.x > 0) return;
    mbarrier_init(shared_address(&barrier), 1);
    barrier = 5;
    mbarrier_arrive(shared_address(&barrier));
}
FB_KERNEL(block_gone, probe, 32, 1) {
    FB_SHARED(uint32_t, word, );
    word = 0;
    cluster_sync();
    if (cluster_rank() == 1) return;
    for (int i = 0; i < 100; ++i) spin_pause();
    store_cluster_4(map_shared(shared_address(&word), 1), 1);
}
FB_KERNEL(no_wgmma_fence, probe, 128, 1) {
    FB_DYNAMIC_SHARED(memory);
    const uint64_t a = wgmma_operand(shared_address(memory), 32, 0, 256);
    float d[4] = {};
    wgmma_bf16<0, 0>(d, a, a, true);
    wgmma_commit();
    wgmma_wait<0>();
}
FB_KERNEL(no_wgmma_wait, probe, 128, 1) {
    FB_DYNAMIC_SHARED(memory);
    for (uint32_t i = threadIdx.x; i < 2048; i += 128) memory[i] = 0;
    fence_proxy_async_shared();
    __syncthreads();
    const uint64_t a = wgmma_operand(shared_address(memory), 32, 0, 256);
    float d[4] = {};
    wgmma_fence();
    wgmma_bf16<0, 0>(d, a, a, true);
    wgmma_commit();
    words_out(p)[threadIdx.x] = __float_as_uint(d[0]);
    wgmma_wait<0>();
}
