// Rotary embedding of new tokens, by itself and on the way into pages.
#pragma once
#include "page.h"

// Which elements of a head turn, and by what.
struct fb_turn_params {
    uint64_t rates;      // int32 [pair, 2]: turns per position, in 2^-32 and 2^-64
    uint64_t axes;       // int32 [pair]: the axis of its positions; 0: all have the first
    uint64_t positions;  // int32 [axis, token]
    int64_t axis_stride;
    int32_t first;       // elements [first, first + dim) turn
    int32_t dim;
    int32_t interleaved;
    float factor;        // of what turned
};

// Heads of tokens.
struct fb_heads {
    uint64_t data;
    int64_t stride_token;
    int64_t stride_head;
    int32_t count; // heads of a token
    int32_t dtype;
};

// Turns heads in place.
struct fb_rope_params {
    struct fb_turn_params turn;
    struct fb_heads heads[2]; // of queries and of keys
    uint64_t live; // int32 [1]: how many of the tokens there are; 0: all
    int32_t token_count;
    int32_t head_lanes; // lanes of a GPU that share a head: a power of two up to 32
};

// Queries and keys are normalised, times (weight + weight_offset), and turned; then keys and values
// are appended.
struct fb_rope_append_params {
    struct fb_append_params append; // of keys and values
    struct fb_turn_params turn;
    struct fb_heads queries;
    struct fb_heads query_out; // may be queries
    uint64_t weights[2];       // [head dim], of queries and of keys; 0: these are not normalised
    int32_t weight_dtypes[2];
    float weight_offset;
    float eps;
    int32_t head_lanes;
    int32_t turns; // slots of heads that a lane of a GPU takes one after the other
};
