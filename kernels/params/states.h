// Merges of attention states.
#pragma once
#include "types.h"

#define FB_STATES 8

// Rows [dim] of a state and their f32 log-sum-exps, by token and head; strides count elements.
struct fb_state {
    uint64_t out;
    uint64_t lse;
    int64_t stride_token;
    int64_t stride_head;
    int64_t lse_stride_token;
    int64_t lse_stride_head;
};

// Merge of attention states: `merged` = state_count states by log-sum-exp, in order. They lie apart
// as states[state], or at strides from states[0]; with an indptr, token t has those from indptr[t]
// on to indptr[t + 1], stride_token is 0, and state_count is the most that there are.
struct fb_merge_params {
    struct fb_state states[FB_STATES];
    struct fb_state merged;  // lse may be 0
    int64_t state_stride;    // 0: they lie apart
    int64_t lse_state_stride;
    uint64_t indptr;         // int32 [token + 1], or 0
    uint64_t mask;           // u8 [token]: 0 leaves its rows alone; or 0
    int32_t state_count;
    int32_t row_count;       // tokens * heads
    int32_t heads;
    int32_t dim;
    int32_t in_dtype;
    int32_t out_dtype;
    float log_base;          // natural log of the LSE base: 1 or log(2)
    int32_t reserved;
};
