// Scales of fp8 rows and fp8 weights: those of blocks of 128 inputs belong to a step's sums, the
// others to the result.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "item.h"
#include "weight.h"

// Whether x has a scale for each 128 inputs.
FB_DEVICE bool has_x_blocks(const fb_matmul_params& p) { return p.x_scale_inputs == 128; }

FB_DEVICE bool has_weight_blocks(const fb_matmul_params& p) { return p.scale_inputs == 128; }

// Of the step at input k; 1 where there is no such row or scale.
FB_DEVICE float step_x_scale(const fb_matmul_params& p, int32_t x_row, int32_t k) {
    return has_x_blocks(p) && x_row >= 0 ? x_scale(p, x_row, k) : 1;
}

FB_DEVICE float step_weight_scale(const fb_matmul_params& p, int32_t row, int32_t k) {
    return has_weight_blocks(p) ? fp8_scale(p, row, k) : 1;
}

// What no step had: the scale of a row of x, and of a row of the weight.
FB_DEVICE float result_x_scale(const fb_matmul_params& p, int32_t x_row) {
    if (has_x_blocks(p) || p.x_scales == 0) return 1;
    return items<const float>(p.x_scales)[int64_t(x_row) * p.x_scale_stride];
}

FB_DEVICE float result_weight_scale(const fb_matmul_params& p, int32_t row) {
    return has_weight_blocks(p) ? 1 : items<const float>(p.scales)[row * p.scale_stride];
}

// Up to a chunk of a row's sums times the scales that no step had.
template <int most>
FB_DEVICE void scale_chunk(const fb_matmul_params& p, const Item<most>& item, int32_t x_row,
                           int32_t output, float* gate, float* up) {
    if (x_row < 0) return;
    const float x = has_x_blocks(p) ? 1 : x_scale(p, x_row, 0);
    const int32_t gates = item.first_of(p, false) + output, ups = item.first_of(p, true) + output;
    FB_UNROLL
    for (int i = 0; i < chunk; i++) {
        if (output + i >= p.outputs) return;
        gate[i] *= x * (has_weight_blocks(p) ? 1 : fp8_scale(p, gates + i, 0));
        if (p.gated) up[i] *= x * (has_weight_blocks(p) ? 1 : fp8_scale(p, ups + i, 0));
    }
}
