// Merges of attention states.
#pragma once
#include "types.h"

// Merge of attention states: out, lse = states 0..state_count by log-sum-exp, in order.
// States: [state, row, dim] with row = token * heads + head.
struct fb_merge_params {
    uint64_t states;
    uint64_t lses; // f32 [state, row]
    uint64_t out;
    uint64_t lse; // f32 [row], or 0
    int64_t state_stride;
    int64_t lse_stride;
    int32_t state_count;
    int32_t row_count;
    int32_t dim;
    int32_t in_dtype;
    int32_t out_dtype;
    float log_base; // natural log of the LSE base: 1 or log(2)
};
