// What operators over the rows of tensors share.
#pragma once
#include "types.h"

// Rows of a tensor [outer, inner, dim]: row i begins (i / inner) * outer_stride +
// (i % inner) * stride elements behind the address. Within a row elements are neighbours.
struct fb_rows_params {
    uint64_t address; // 0: there are none
    int64_t outer_stride;
    int64_t stride;
    int32_t inner;
    int32_t dtype;
};

// The rows that an operator goes over.
struct fb_span_params {
    uint64_t live; // int32 on the device: how many of `outer` there are; 0: all
    int32_t outer;
    int32_t inner;
    int32_t dim;
    int32_t lanes; // threads of a GPU that share a short row: a power of two up to 32
    int32_t parts; // of a long row, each an item of its own; more than 1 for some operators
    int32_t part_elements; // of a part, whole chunks for each thread of a block
};

// What results are divided by before they are rounded; without either they are not.
struct fb_scaling_params {
    uint64_t scale;        // f32, of all rows
    uint64_t token_scales; // f32 for each row, written: its largest result over that of the dtype
};
