// Rows made from others, element by element.
#pragma once
#include "rows.h"

// What is made of an element x of a and an element y of b.
#define FB_MAP_SCALE 0     // x * factor
#define FB_MAP_ADD 1       // x + y
#define FB_MAP_SILU 2      // silu(x) * y
#define FB_MAP_GELU 3      // gelu(x) * y
#define FB_MAP_GELU_TANH 4 // gelu(x) * y by its approximation with tanh
#define FB_MAP_CAP 5       // factor * tanh(x / factor)

// Row i of out is made from row i of a and of b; by indices, row targets[i] from row sources[i].
struct fb_map_params {
    struct fb_rows_params a;
    struct fb_rows_params b; // where the operation takes two
    struct fb_rows_params out; // may be a or b
    struct fb_span_params span;
    struct fb_scaling_params scaling;
    uint64_t sources; // int32; one that names no row of a gives zeros; 0: none
    uint64_t targets; // int32; one that names no row of out is left out; 0: none
    int32_t source_rows;
    int32_t target_rows;
    int32_t operation;
    float factor;
};
