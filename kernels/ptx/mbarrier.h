// Barriers in shared memory, eight aligned bytes each (sm_90). A phase ends when as many threads
// have arrived as mbarrier_init said and as many bytes as were expected; then the next one begins.
// Phases are distinguished by parity: the first has 0, and waiting for 1 on a new barrier returns.
#pragma once
#include "base.h"

// Then fence_mbarrier_init (fence.h) and a barrier, before anybody else uses it.
FB_DEVICE void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
#ifdef FB_EMULATED
    emu::mbarrier_init(barrier, arrivals);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals)
                 : "memory");
#endif
}

// Before the memory serves for something else.
FB_DEVICE void mbarrier_invalidate(uint32_t barrier) {
#ifdef FB_EMULATED
    emu::mbarrier_invalidate(barrier);
#else
    asm volatile("mbarrier.inval.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

FB_DEVICE void mbarrier_arrive(uint32_t barrier) {
#ifdef FB_EMULATED
    emu::mbarrier_arrive(barrier, 1);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
#endif
}

// As so many threads.
FB_DEVICE void mbarrier_arrive_many(uint32_t barrier, uint32_t count) {
#ifdef FB_EMULATED
    emu::mbarrier_arrive(barrier, count);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count)
                 : "memory");
#endif
}

// On a barrier of any block of the cluster, by its mapped address.
FB_DEVICE void mbarrier_arrive_cluster(uint32_t mapped) {
#ifdef FB_EMULATED
    emu::mbarrier_arrive(mapped, 1);
#else
    asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(mapped)
                 : "memory");
#endif
}

// The same for a thread that has only read, by products or loads that are done: it orders nothing
// that was written for other blocks. With release.cluster an arrival took about 1000 clocks on an
// H200.
FB_DEVICE void mbarrier_arrive_cluster_read(uint32_t mapped) {
#ifdef FB_EMULATED
    emu::mbarrier_arrive(mapped, 1);
#else
    asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(mapped) : "memory");
#endif
}

// Arrives, and lets the phase wait for so many bytes more.
FB_DEVICE void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
#ifdef FB_EMULATED
    emu::mbarrier_expect(barrier, bytes);
    emu::mbarrier_arrive(barrier, 1);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
#endif
}

FB_DEVICE void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
#ifdef FB_EMULATED
    emu::mbarrier_expect(barrier, bytes);
#else
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier),
                 "r"(bytes)
                 : "memory");
#endif
}

// Whether the phase of this parity has ended; waits a while before it says no.
FB_DEVICE bool mbarrier_try_wait(uint32_t barrier, uint32_t parity) {
#ifdef FB_EMULATED
    return emu::mbarrier_test(barrier, parity, true);
#else
    uint32_t ended;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(ended)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return ended != 0;
#endif
}

// The same without waiting.
FB_DEVICE bool mbarrier_test_wait(uint32_t barrier, uint32_t parity) {
#ifdef FB_EMULATED
    return emu::mbarrier_test(barrier, parity, false);
#else
    uint32_t ended;
    asm volatile("{ .reg .pred p; mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2; "
                 "selp.u32 %0, 1, 0, p; }"
                 : "=r"(ended)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return ended != 0;
#endif
}

FB_DEVICE void mbarrier_wait(uint32_t barrier, uint32_t parity) {
    while (!mbarrier_try_wait(barrier, parity)) {
    }
}

// Where other blocks of the cluster arrive with what they have written.
FB_DEVICE void mbarrier_wait_cluster(uint32_t barrier, uint32_t parity) {
#ifdef FB_EMULATED
    while (!emu::mbarrier_test(barrier, parity, true)) {
    }
#else
    uint32_t ended = 0;
    while (!ended)
        asm volatile("{ .reg .pred p; "
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2; "
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(ended)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#endif
}

// Arrives when this thread's cp.async copies so far have landed; counts among the arrivals that
// mbarrier_init said.
FB_DEVICE void cp_async_mbarrier_arrive(uint32_t barrier) {
#ifdef FB_EMULATED
    emu::cp_async_mbarrier_arrive(barrier, true);
#else
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}
