// Products of rows with weights.
#pragma once
#include "tensor_map.h"
#include "types.h"

// What happens to a product and its bias before the residual is added.
#define FB_ACTIVATION_NONE 0
#define FB_ACTIVATION_SILU 1
#define FB_ACTIVATION_GELU 2
#define FB_ACTIVATION_GELU_TANH 3

// out[r][n] = f(sum over k of x[r][k] weight[n][k] + bias[n]) + residual[r][n]. Gated, weight and
// bias have twice as many rows: f(gate) times up, of which row n and row outputs + n are the sums.
//
// weight_dtype says how a weight is held. f32, f16, bf16: as it is. f8e4m3, f8e5m2: code times
// scale, f32. i8: code times scale plus minimum, f16. u8: two codes of four bits a byte, 32 inputs
// in 16 bytes, of which byte j has input j in its low and input 16 + j in its high half; code times
// scale plus minimum, or code - 8 times scale. The scale of weight[n][k] is scales[n / scale_rows]
// [k / scale_inputs], and minimums lie alike.
//
// With starts there is a weight for each of `experts`, one below another, as are their biases:
// rows [starts[e], starts[e + 1]) of out take expert e's. With rows, row r of out takes row rows[r]
// of x's x_row_count; without a row there, it takes zeros.
struct fb_matmul_params {
    uint64_t x;         // [row_count, inputs]
    uint64_t weight;    // [outputs, inputs]
    uint64_t scales;
    uint64_t minimums;  // 0: none
    uint64_t x_scales;  // f32 of x in f8e4m3: x_scales[r * x_scale_stride + k / x_scale_inputs]
    uint64_t bias;      // [outputs]; 0: none
    uint64_t residual;  // [row_count, outputs]; 0: none
    uint64_t out;
    uint64_t starts;    // i32 [experts + 1]; 0: one weight for all rows
    uint64_t rows;      // i32 [row_count]; 0: each its own
    int64_t x_stride; // from one row to the next, in elements as they lie
    int64_t weight_stride;
    int64_t scale_stride; // from one row of scales to the next
    int64_t residual_stride;
    int64_t out_stride;
    int32_t row_count;
    int32_t outputs; // columns of out
    int32_t inputs;
    int32_t scale_rows;
    int32_t scale_inputs;
    int32_t x_scale_stride;
    int32_t x_scale_inputs;
    int32_t x_dtype;
    int32_t weight_dtype;
    int32_t bias_dtype;
    int32_t residual_dtype;
    int32_t out_dtype;
    int32_t activation;
    int32_t gated;
    int32_t experts;
    int32_t x_row_count;
};

// The same for kernels that load by bulk copies (sm_90): boxes of 128 bytes by the rows that a
// kernel says.
struct fb_matmul_map_params {
    struct fb_tensor_map x;      // [x_row_count, inputs]
    struct fb_tensor_map weight; // [all rows of the weight, inputs]
    struct fb_matmul_params product;
    int32_t settled;  // 1: no kernel before this one, done or not, writes the weight now
    int32_t reserved; // to a multiple of 64 bytes, the alignment of a tensor map
};
