// What kernels of products share: which rows an item has, and what follows its sums.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../common/activate.h"
#include "../common/chunk.h"

// ---- facts

// A block of out, by `most` rows of the weight and some rows of x. Blocks of the same weight rows
// follow each other. Gated, half of the weight's rows are gates, half go through them.
template <int most> struct Item {
    int32_t row;    // first of x and out
    int32_t output; // first column of out
    int32_t width;  // columns of out that there is room for

    FB_DEVICE Item(const fb_matmul_params& p, int most_rows) {
        const int32_t row_blocks = (p.row_count + most_rows - 1) / most_rows;
        width = p.gated ? most / 2 : most;
        row = blockIdx.x % row_blocks * most_rows;
        output = blockIdx.x / row_blocks * width;
    }

    // Row of the weight for sum `i` of the item, -1 past the last.
    FB_DEVICE int32_t weight_row(const fb_matmul_params& p, int i) const {
        const bool is_up = i >= width;
        const int32_t column = output + (is_up ? i - width : i);
        if (column >= p.outputs) return -1;
        return is_up ? column + p.outputs : column;
    }
};

// ---- store

// Up to a chunk of outputs of a row: `gate` are their sums, `up` those of the second half.
FB_DEVICE void finish_chunk(const fb_matmul_params& p, int32_t row, int32_t output,
                            const float* gate, const float* up) {
    const int32_t left = p.outputs - output;
    const int32_t count = left < chunk ? left : chunk;
    if (row >= p.row_count || count <= 0) return;
    float y[chunk], other[chunk];
    const int32_t bias_bytes = element_bytes(p.bias_dtype);
    FB_UNROLL
    for (int i = 0; i < chunk; i++) y[i] = gate[i];
    if (p.bias != 0) {
        load_chunk(p.bias_dtype, p.bias + bias_bytes * int64_t(output), count, other);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) y[i] += other[i];
    }
    FB_UNROLL
    for (int i = 0; i < chunk; i++) y[i] = activate(p.activation, y[i]);
    if (p.gated) {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) other[i] = 0;
        const int64_t at = int64_t(output) + p.outputs;
        if (p.bias != 0) load_chunk(p.bias_dtype, p.bias + bias_bytes * at, count, other);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) y[i] *= up[i] + other[i];
    }
    if (p.residual != 0) {
        const int64_t at = row * p.residual_stride + output;
        const int32_t bytes = element_bytes(p.residual_dtype);
        load_chunk(p.residual_dtype, p.residual + bytes * at, count, other);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) y[i] += other[i];
    }
    const int64_t at = row * p.out_stride + output;
    store_chunk(p.out_dtype, p.out + element_bytes(p.out_dtype) * at, count, y);
}
