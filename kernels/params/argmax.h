// Where rows are largest.
#pragma once
#include "rows.h"

// out[row] = the lowest index of the row's largest number. NaN counts as less than all others.
struct fb_argmax_params {
    struct fb_rows_params x;
    struct fb_span_params span;
    uint64_t out; // int32 for each row
};
