// Probes: ceilings of this device for benchmarks, and time and failures to order for tests.
#include "../ptx/base.h"
#include "../params/probe.h"
#include "../ptx/memory.h"
#include "../ptx/special.h"

// ---- facts

#define SPIN_THREADS 32
#define READ_THREADS 256
#define FMA_THREADS 256

// 16-byte loads that a thread has in flight.
#define READ_UNROLL 4
// Independent multiply-adds of a thread.
#define FMA_CHAINS 8

// ---- the kernels

// Busy for `microseconds`, then ends as `fail` says: anything but 0 is a fault of the device.
FB_KERNEL(probe_spin, fb_probe_params, SPIN_THREADS, 1) {
    if (threadIdx.x != 0) return;
    const uint64_t busy = p.microseconds > 0 ? p.microseconds : 0;
    const uint64_t end = global_timer() + busy * 1000;
    while (global_timer() < end) spin_pause();
    if (p.fail != 0) trap();
}

// Reads every `iterations`-th tile from tile `item` on; out[item] is a checksum.
FB_KERNEL(probe_read, fb_probe_params, READ_THREADS, 8) {
    FB_SHARED(uint32_t, checksum, [1]);
    if (p.fail != 0) trap();
    if (threadIdx.x == 0) checksum[0] = 0;
    __syncthreads();
    const uint4* const data = (const uint4*)p.data;
    const int64_t count = p.bytes / sizeof(uint4);
    const int64_t tile = READ_THREADS * READ_UNROLL;
    const int64_t tiles = p.iterations > 0 ? p.iterations : 1;
    uint32_t sum = 0;
    for (int64_t first = blockIdx.x * tile; first < count; first += tiles * tile) {
        uint4 values[READ_UNROLL];
        FB_UNROLL
        for (int i = 0; i < READ_UNROLL; i++) {
            const int64_t at = first + i * READ_THREADS + threadIdx.x;
            values[i] = at < count ? data[at] : uint4{0, 0, 0, 0};
        }
        FB_UNROLL
        for (int i = 0; i < READ_UNROLL; i++)
            sum += values[i].x + values[i].y + values[i].z + values[i].w;
    }
    atomicAdd(&checksum[0], sum);
    __syncthreads();
    if (threadIdx.x == 0) ((double*)p.out)[blockIdx.x] = checksum[0];
}

// Chains of multiply-adds, `iterations` long; out[item] counts the operations, two for each.
FB_KERNEL(probe_fma, fb_probe_params, FMA_THREADS, 8) {
    if (p.fail != 0) trap();
    float sums[FMA_CHAINS];
    FB_UNROLL
    for (int i = 0; i < FMA_CHAINS; i++) sums[i] = threadIdx.x + i;
    for (int32_t n = 0; n < p.iterations; n++) {
        FB_UNROLL
        for (int i = 0; i < FMA_CHAINS; i++) sums[i] = fmaf(sums[i], 0.999f, 0.001f);
    }
    FB_UNROLL
    for (int i = 1; i < FMA_CHAINS; i++) sums[0] += sums[i];
    // Never less than 0, which the compiler cannot know: it has to compute the chains.
    const int32_t done = sums[0] < 0 || p.iterations < 0 ? 0 : p.iterations;
    if (threadIdx.x == 0) ((double*)p.out)[blockIdx.x] = 2.0 * FMA_CHAINS * FMA_THREADS * done;
}
