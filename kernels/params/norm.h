// Norms of rows.
#pragma once
#include "types.h"

// out = x / sqrt(mean(x^2) + eps) * weight, of each row by itself.
struct fb_rms_norm_params {
    uint64_t x;
    uint64_t weight; // [dim]
    uint64_t out;    // may be x
    int64_t x_stride; // from one row to the next
    int64_t out_stride;
    int32_t row_count;
    int32_t dim;
    int32_t dtype; // of x and out
    int32_t weight_dtype;
    float eps;
    int32_t reserved;
};
