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

// Of a chunk of outputs the scales of their rows of the weight that no step had. Those past the
// last output, which are not stored, take its scale: no load waits for the one before.
struct ChunkScales {
    float gate[chunk], up[chunk];

    template <class I>
    FB_DEVICE ChunkScales(const fb_matmul_params& p, const I& item, int32_t output) {
        const int32_t gates = item.first_of(p, false), ups = item.first_of(p, true);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) {
            const int32_t column = output + i < p.outputs ? output + i : p.outputs - 1;
            gate[i] = result_weight_scale(p, gates + column);
            up[i] = p.gated ? result_weight_scale(p, ups + column) : 1;
        }
    }

    // Multiplies sums of a row of x.
    FB_DEVICE void scale(const fb_matmul_params& p, int32_t x_row, float* gates,
                         float* ups) const {
        if (x_row < 0) return;
        const float x = result_x_scale(p, x_row);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) {
            gates[i] *= x * gate[i];
            if (p.gated) ups[i] *= x * up[i];
        }
    }
};
