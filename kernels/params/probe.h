// Ceilings of a device, time and faults to order.
#pragma once
#include "types.h"

// Probes for ceilings and tests: a timed spin, a read of memory, a chain of multiply-adds.
struct fb_probe_params {
    uint64_t data;
    uint64_t bytes;
    uint64_t out;      // f64 [grid]
    int32_t microseconds;
    int32_t iterations;
    int32_t fail;      // not 0: the kernel reports a failure, for fault injection
    int32_t reserved;
};
