#pragma once
// What a specialisation of the tiled kernels is made of: the macros of ../common/facts.h, and
//
//   FB_MIN_BLOCKS  blocks that are to be resident on a processor
//   FB_MOST_THREADS  of a block of the decode kernel; FB_THREADS where it is left out
//   FB_STAGES      steps of keys and values in the ring; block.h knows 1 and 2
//
// with query tiles of 8 to 128 rows and 16, 32 or 64 keys at a time.
//
// Rounding: queries, keys and values are rounded once to FB_Q_TYPE after rotation and hooks,
// probabilities (times the value's token scale) once before the second product; all else is f32.
#include "../common/facts.h"

#ifndef FB_MOST_THREADS
#define FB_MOST_THREADS FB_THREADS
#endif

constexpr int warp_count = FB_THREADS / 32;

// Rows of 16-byte chunks in shared memory. Eight rows' chunks of one column lie in different banks:
// by XOR with the row where a row (and a warp's slice of it) fills whole groups of eight chunks,
// else by an odd row length.
template <int Chunks, int Slice = Chunks> struct Tile {
    static constexpr bool swizzled = Slice % 8 == 0;
    static constexpr int chunks = Chunks;
    static constexpr int row_bytes = (swizzled ? Chunks : Chunks | 1) * 16;

    static FB_DEVICE uint32_t at(int row, int chunk) {
        return uint32_t(row * row_bytes + (swizzled ? chunk ^ (row & 7) : chunk) * 16);
    }

    // `row` (a multiple of 8) and `chunk` (even) further than `base`, an address made by at() of a
    // chunk 0 or 1 of the slice: constants fold into the instruction's offset.
    static FB_DEVICE uint32_t step(uint32_t base, int row, int chunk) {
        if (!swizzled) return base + uint32_t(row * row_bytes + chunk * 16);
        return (base ^ uint32_t((chunk & 7) << 4)) + uint32_t(row * row_bytes + (chunk & ~7) * 16);
    }
};
