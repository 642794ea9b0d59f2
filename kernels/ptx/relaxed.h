// Reads of shared memory that others may write at the same time, by atomic operations.
#pragma once
#include "memory.h"

// Some value that was there: no older than what a barrier has made visible.
FB_DEVICE uint32_t load_shared_relaxed_4(const uint32_t* p) {
#ifdef FB_EMULATED
    return __atomic_load_n(p, __ATOMIC_RELAXED);
#else
    uint32_t v;
    asm volatile("ld.relaxed.cta.shared.b32 %0, [%1];"
                 : "=r"(v)
                 : "r"(shared_address(p))
                 : "memory");
    return v;
#endif
}
