// Rows by index.
#pragma once
#include "types.h"

// out[i] = source[indices[i]], whole rows; index -1 gives zeros.
struct fb_gather_params {
    uint64_t source;
    uint64_t indices; // int32 [row_count]
    uint64_t out;
    int64_t row_bytes;
    int32_t row_count;
    int32_t reserved;
};
