// Bools as bits, segment by segment.
#include "../ptx/base.h"
#include "../params/bits.h"
#include "../ptx/pdl.h"
#include "../common/operator.h"

// ---- facts

constexpr int bits_threads = 128;

// ---- locate

// The segment that a byte is of: the last one that begins at it or before.
FB_DEVICE int32_t segment_of(const fb_bits_params& p, int32_t byte) {
    const int32_t* const starts = items<const int32_t>(p.byte_indptr);
    int32_t low = 0;
    int32_t high = p.segment_count - 1;
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (starts[middle] <= byte) low = middle;
        else high = middle - 1;
    }
    return low;
}

// ---- the kernel

// Packs bytes [bits_threads * item, ...), one by each thread.
FB_OPERATOR(pack_bits, fb_bits_params, bits_threads, 4, bits_threads) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t byte = int32_t(blockIdx.x) * bits_threads + int32_t(threadIdx.x);
    if (byte >= p.byte_count) return;
    const int32_t segment = segment_of(p, byte);
    const int32_t* const bools = items<const int32_t>(p.bool_indptr) + segment;
    const int32_t within = byte - items<const int32_t>(p.byte_indptr)[segment];
    const int64_t first = bools[0] + 8 * int64_t(within);
    uint32_t bits = 0;
    for (int i = 0; i < 8; i++) {
        if (first + i >= bools[1] || items<const uint8_t>(p.source)[first + i] == 0) continue;
        bits |= 1u << (p.highest_first != 0 ? 7 - i : i);
    }
    items<uint8_t>(p.target)[byte] = uint8_t(bits);
}
