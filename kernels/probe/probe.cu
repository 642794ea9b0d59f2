// Probes: ceilings of this device for benchmarks, and time and failures to order for tests.
#include "../ptx/base.h"
#include "../params/probe.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "../ptx/special.h"
#include "../common/operator.h"

// ---- facts

constexpr int spin_threads = 32;
constexpr int read_threads = 256;
constexpr int fma_threads = 256;
// On a multiprocessor, as many as it has threads for.
constexpr int most_blocks = FB_ARCH < 800 ? 4 : 8;

// 16-byte loads that a thread has in flight.
constexpr int read_unroll = 4;
// Independent multiply-adds of a thread.
constexpr int fma_chains = 8;

// ---- the kernels

// Busy for `microseconds`, then ends as `fail` says: anything but 0 is a fault of the device.
FB_OPERATOR(probe_spin, fb_probe_params, spin_threads, 1, 1) {
    pdl_wait();
    if (threadIdx.x != 0) return;
    const uint64_t busy = p.microseconds > 0 ? p.microseconds : 0;
    const uint64_t end = global_timer() + busy * 1000;
    while (global_timer() < end) spin_pause();
    if (p.fail != 0) trap();
}

// Reads every `iterations`-th tile from tile `item` on; out[item] is a checksum.
FB_OPERATOR(probe_read, fb_probe_params, read_threads, most_blocks, 1) {
    pdl_wait();
    FB_SHARED(uint32_t, checksum, [1]);
    if (p.fail != 0) trap();
    if (threadIdx.x == 0) checksum[0] = 0;
    __syncthreads();
    const uint4* const data = items<const uint4>(p.data);
    const int64_t count = p.bytes / sizeof(uint4);
    const int64_t tile = read_threads * read_unroll;
    const int64_t tiles = p.iterations > 0 ? p.iterations : 1;
    uint32_t sum = 0;
    for (int64_t first = blockIdx.x * tile; first < count; first += tiles * tile) {
        uint4 values[read_unroll];
        FB_UNROLL
        for (int i = 0; i < read_unroll; i++) {
            const int64_t at = first + i * read_threads + threadIdx.x;
            values[i] = at < count ? data[at] : uint4{0, 0, 0, 0};
        }
        FB_UNROLL
        for (int i = 0; i < read_unroll; i++)
            sum += values[i].x + values[i].y + values[i].z + values[i].w;
    }
    atomicAdd(&checksum[0], sum);
    __syncthreads();
    if (threadIdx.x == 0) items<double>(p.out)[blockIdx.x] = checksum[0];
}

// Chains of multiply-adds, `iterations` long; out[item] counts the operations, two for each.
FB_OPERATOR(probe_fma, fb_probe_params, fma_threads, most_blocks, 1) {
    pdl_wait();
    if (p.fail != 0) trap();
    float sums[fma_chains];
    FB_UNROLL
    for (int i = 0; i < fma_chains; i++) sums[i] = threadIdx.x + i;
    for (int32_t n = 0; n < p.iterations; n++) {
        FB_UNROLL
        for (int i = 0; i < fma_chains; i++) sums[i] = fmaf(sums[i], 0.999f, 0.001f);
    }
    FB_UNROLL
    for (int i = 1; i < fma_chains; i++) sums[0] += sums[i];
    // Never less than 0, which the compiler cannot know: it has to compute the chains.
    const int32_t done = sums[0] < 0 || p.iterations < 0 ? 0 : p.iterations;
    if (threadIdx.x == 0) items<double>(p.out)[blockIdx.x] = 2.0 * fma_chains * fma_threads * done;
}
