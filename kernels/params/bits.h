// Bools as bits.
#pragma once
#include "types.h"

// target[byte]: bits of eight bools, the first one lowest, or highest. Segment s has the bools from
// bool_indptr[s] to bool_indptr[s + 1], and bytes of its own from byte_indptr[s] on.
struct fb_bits_params {
    uint64_t source;      // u8 [bools], 0 or not
    uint64_t target;      // u8 [byte_count]
    uint64_t bool_indptr; // int32 [segment_count + 1]
    uint64_t byte_indptr; // int32 [segment_count + 1]
    int32_t byte_count;
    int32_t segment_count;
    int32_t highest_first;
    int32_t reserved;
};
