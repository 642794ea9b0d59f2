// The order in which tensor cores add: inputs in eight slices, each from its first input to its
// last in steps of 32, then the slices. It follows from the number of inputs alone, so a row's bits
// are the same in every kernel that adds so.
#pragma once
#include "../ptx/base.h"
#include "../params/types.h"
#include "../ptx/mma.h"

constexpr int slice_count = 8;
// Inputs of one step: two products.
constexpr int step_inputs = 32;

// Inputs of a slice, in whole steps; the last ones may have fewer, or none.
FB_DEVICE int32_t slice_inputs(int32_t inputs) {
    constexpr int unit = slice_count * step_inputs;
    return (inputs + unit - 1) / unit * step_inputs;
}

// Sums [16 rows of the weight][8 rows of x] of 32 inputs: lane t of four holds inputs 8t to 8t + 7
// of the weight's rows g and g + 8, and of x's row g.
template <int type>
FB_DEVICE void multiply_32(float (&sums)[4], const uint4& low, const uint4& high, const uint4& x) {
    const uint32_t first[4] = {low.x, high.x, low.y, high.y};
    const uint32_t second[4] = {low.z, high.z, low.w, high.w};
    if constexpr (type == FB_F16) {
        mma_m16n8k16_f16(sums, first, x.x, x.y);
        mma_m16n8k16_f16(sums, second, x.z, x.w);
    } else {
#if FB_ARCH >= 800 // before, the CUDA cores multiply bf16 (any.cu)
        mma_m16n8k16_bf16(sums, first, x.x, x.y);
        mma_m16n8k16_bf16(sums, second, x.z, x.w);
#endif
    }
}
