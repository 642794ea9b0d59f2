// Tensors: random numbers, fills, conversions.
#pragma once
#include "types.h"

// Seeded N(0, 1): element i depends on (seed, i) only.
struct fb_random_params {
    uint64_t out;
    uint64_t count;
    uint64_t seed;
    float mean;
    float deviation;
    int32_t dtype;
    int32_t reserved;
};

// Element-wise copy between strided tensors of at most 6 axes, converting dtype.
struct fb_convert_params {
    uint64_t source;
    uint64_t target;
    int64_t sizes[6];
    int64_t source_strides[6];
    int64_t target_strides[6];
    int32_t source_dtype;
    int32_t target_dtype;
};
