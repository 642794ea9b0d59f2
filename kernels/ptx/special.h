// Special registers and the choice of one lane.
#pragma once
#include "base.h"

// Nanoseconds since some moment, the same clock on the whole GPU.
FB_DEVICE uint64_t global_timer() {
#ifdef FB_EMULATED
    return emu::global_timer();
#else
    uint64_t t;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)::"memory");
    return t;
#endif
}

FB_DEVICE uint32_t lane_index() {
#ifdef FB_EMULATED
    return threadIdx.x % 32;
#else
    uint32_t lane;
    asm("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
#endif
}

// True in exactly one lane of a whole warp (sm_90).
FB_DEVICE bool elect_one() {
#ifdef FB_EMULATED
    return emu::elect_one();
#else
    uint32_t elected;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }"
                 : "=r"(elected)::"memory");
    return elected != 0;
#endif
}

// Ends the kernel with a fault: the device is lost to its process.
FB_DEVICE void trap() {
#ifdef FB_EMULATED
    emu::trap();
#else
    asm volatile("trap;");
#endif
}

// The same value, of which the compiler knows nothing: what is computed from it is computed again
// in every turn of a loop, not kept in registers across it.
FB_DEVICE int recomputed(int x) {
#ifndef FB_EMULATED
    asm volatile("" : "+r"(x));
#endif
    return x;
}
