// Rotary embedding of new tokens.
#pragma once
#include "types.h"

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
    int32_t token_count;
    int32_t head_lanes; // lanes of a GPU that share a head: a power of two up to 32
};
