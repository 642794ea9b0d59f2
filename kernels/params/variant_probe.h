// A look into a variant's bytecode.
#pragma once
#include "variant.h"

// One section of a variant's bytecode over a few rows and keys, for tests.
struct fb_variant_probe_params {
    struct fb_variant variant;
    uint64_t rows;       // int32 [input, row]: the rows' inputs in their order, lse as bits of f32
    uint64_t keys;       // int32 [2, key]: positions and slots
    uint64_t x;          // [row, key] of logits, else f32 [row or key, dim]: replaced by the result
    int32_t row_count;   // at most 256
    int32_t key_count;   // at most 128
    int32_t dim;         // at most 576
    int32_t section;     // by its number in zig/cpu/kernels/variant/program.zig
    int32_t keys_inside; // 1: keys lie along vectors, 0: rows do
    int32_t masked;      // 1: asks which pairs are visible
};
