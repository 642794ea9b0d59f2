// A block's part of a row, which it reads where it lies, several quads at a time: little memory, so
// that a multiprocessor has more blocks than of those that hold their part.
#pragma once
#include "row.h"

// ---- load

// The largest of a thread's elements, without its place, read once; twice by a thread that has NaN.
template <int size> FB_DEVICE Most streamed_most(const Row<size>& row) {
    float most = row.lowest();
    bool is_odd = false;
    if (!row.is_probability) {
        row.each_uncleaned([&](int32_t, const float* x, int32_t) {
            most = max_nan(most, max_nan(max_nan(x[0], x[1]), max_nan(x[2], x[3])));
        });
        if (most == most) return {most, -1, false};
        most = row.lowest();
    }
    row.each_uncleaned([&](int32_t, const float* x, int32_t) {
        FB_UNROLL
        for (int i = 0; i < quad; i++) {
            is_odd |= !(x[i] >= row.lowest());
            // The other number where one is NaN.
            most = fmaxf(most, x[i]);
        }
    });
    return {most, -1, is_odd};
}
