// Named barriers 0 to 15 of a block (0 is __syncthreads) and the registers of a warpgroup.
#pragma once
#include "base.h"

// `threads` counts all who take part, a multiple of 32.
FB_DEVICE void barrier_sync(uint32_t id, uint32_t threads) {
#ifdef FB_EMULATED
    emu::barrier(id, threads, true);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Counts without waiting.
FB_DEVICE void barrier_arrive(uint32_t id, uint32_t threads) {
#ifdef FB_EMULATED
    emu::barrier(id, threads, false);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Once per warpgroup, right after the roles split: multiples of 8 from 24 to 256.
template <int count>
FB_DEVICE void registers_increase() {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256,
                  "setmaxnreg takes multiples of 8 from 24 to 256");
#ifndef FB_EMULATED
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
#endif
}

template <int count>
FB_DEVICE void registers_decrease() {
    static_assert(count % 8 == 0 && count >= 24 && count <= 256,
                  "setmaxnreg takes multiples of 8 from 24 to 256");
#ifndef FB_EMULATED
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
#endif
}
