// Weights that are held in codes: eight inputs of a row at a time.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/memory.h"
#include "../common/chunk.h"

// Whether a weight is held as integers with f16 scales.
FB_DEVICE bool is_integer(int32_t dtype) { return dtype == FB_I8 || dtype == FB_U8; }

// Bytes before input k of a row, k a multiple of the chunk.
FB_DEVICE int64_t bytes_before(int32_t dtype, int32_t k) {
    return dtype == FB_U8 ? k / 32 * 16 + k % 16 : element_bytes(dtype) * int64_t(k);
}

FB_DEVICE uint64_t weight_row_address(const fb_matmul_params& p, int32_t row) {
    return p.weight + element_bytes(p.weight_dtype) * (row * p.weight_stride);
}

FB_DEVICE int64_t scale_index(const fb_matmul_params& p, int32_t row, int32_t k) {
    return row / p.scale_rows * p.scale_stride + k / p.scale_inputs;
}

// What codes of four or eight bits are multiplied by, and what is added.
struct Affine {
    float scale, minimum;

    FB_DEVICE Affine(const fb_matmul_params& p, int32_t row, int32_t k) {
        const int64_t at = scale_index(p, row, k);
        scale = f16_to_float(items<const uint16_t>(p.scales)[at]);
        minimum = p.minimums != 0 ? f16_to_float(items<const uint16_t>(p.minimums)[at])
                                  : (p.weight_dtype == FB_U8 ? -8 * scale : 0);
    }
};

FB_DEVICE float fp8_scale(const fb_matmul_params& p, int32_t row, int32_t k) {
    return items<const float>(p.scales)[scale_index(p, row, k)];
}

FB_DEVICE float x_scale(const fb_matmul_params& p, int32_t row, int32_t k) {
    if (p.x_scales == 0) return 1;
    const int64_t at = int64_t(row) * p.x_scale_stride + k / p.x_scale_inputs;
    return items<const float>(p.x_scales)[at];
}

// Up to a chunk of inputs from k on, a multiple of the chunk, of a row of the weight.
FB_DEVICE void load_weights(const fb_matmul_params& p, int32_t row, int32_t k, int32_t count,
                            float* w) {
    const uint64_t source = weight_row_address(p, row) + bytes_before(p.weight_dtype, k);
    if (!is_integer(p.weight_dtype)) {
        load_chunk(p.weight_dtype, source, count, w);
        if (is_float(p.weight_dtype) && p.scales == 0) return;
        const float scale = fp8_scale(p, row, k);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) w[i] *= scale;
        return;
    }
    const Affine affine(p, row, k);
    FB_UNROLL
    for (int i = 0; i < chunk; i++) {
        const uint8_t byte = items<const uint8_t>(source)[i];
        const int code = p.weight_dtype == FB_I8 ? int8_t(byte)
                         : k % 32 < 16           ? byte & 15
                                                 : byte >> 4;
        w[i] = fmaf(float(code), affine.scale, affine.minimum);
    }
}
