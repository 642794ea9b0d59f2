// Programmatic dependent launch. Before sm_90, and launched without the attribute, both do nothing.
#pragma once
#include "base.h"

// Before the first read of what earlier kernels write: returns when they are done and their writes
// are visible.
FB_DEVICE void pdl_wait() {
#ifdef FB_EMULATED
    emu::pdl_wait();
#elif FB_ARCH >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may start as soon as every block has said so.
FB_DEVICE void pdl_launch_dependents() {
#if !defined(FB_EMULATED) && FB_ARCH >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
