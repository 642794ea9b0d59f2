// Matrices in few bits, with a scale for each block.
#pragma once
#include "rows.h"

// What is done with the scales.
#define FB_QUANTIZE 0        // out = x / scale
#define FB_DEQUANTIZE 1      // out = x * scale
#define FB_QUANTIZE_GROUPS 2 // scales of 128 elements of a row are computed, then as FB_QUANTIZE
#define FB_BLOCK_SCALES 3    // each scale becomes at least that of its block; out is not written

// Row r, element c has scales[r / block_rows * column_blocks + c / block_columns].
struct fb_quantize_params {
    struct fb_rows_params x;
    struct fb_rows_params out; // its dtype says what scales are computed for
    struct fb_span_params span;
    uint64_t scales; // f32
    int64_t block_rows;
    int32_t block_columns; // 1, or a multiple of 128
    int32_t column_blocks;
    int32_t mode;
    int32_t reserved;
};
