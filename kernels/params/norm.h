// Norms of rows.
#pragma once
#include "rows.h"

// out = (x - mean) / sqrt(variance + eps) * (weight + weight_offset) + bias, of each row by itself.
// With a residual x is added to it first, and the rounded sum, which it keeps, is what is
// normalised.
struct fb_norm_params {
    struct fb_rows_params x;
    struct fb_rows_params residual;
    struct fb_rows_params out; // may be x
    struct fb_span_params span;
    struct fb_scaling_params scaling;
    uint64_t weight; // [dim]
    uint64_t bias;   // [dim]; 0: none
    int32_t weight_dtype; // of the bias too
    float weight_offset;
    float eps;
    int32_t centered; // 0: the mean counts as 0 (RMSNorm)
};
