// Pages: appends, moves, updates of the page table.
#pragma once
#include "plane.h"

// New tokens' rows into the planes of one layer; slot_mapping[token] = page * page_size + offset,
// -1 skips.
struct fb_append_params {
    struct fb_plane planes[4];
    uint64_t sources[4];
    int64_t source_stride_token[4];
    int64_t source_stride_head[4];
    int32_t heads[4];
    int32_t dims[4];
    int32_t source_dtypes[4];
    int32_t plane_dtypes[4];
    struct fb_scale scales[4];  // divides before rounding to fp8
    uint64_t slot_mapping;      // int32 [token]
    uint64_t token_requests;    // int32 [token]
    int32_t plane_count;
    int32_t token_count;
    int32_t page_size;
    int32_t reserved;
};

// Copies within a page group: moves[i] = (source token, target token, tokens), in order, for every
// plane. Token = page * page_size + offset. A run never crosses a page.
struct fb_copy_plane {
    struct fb_plane plane;
    int32_t heads;
    int32_t row_bytes;      // bytes of one head's row
    int32_t element_bytes;  // strides count elements
    int32_t reserved;
};

struct fb_copy_params {
    uint64_t planes; // fb_copy_plane [plane_count]
    uint64_t moves;  // int32 [move_count, 3]
    int32_t plane_count;
    int32_t move_count;
    int32_t page_size;
    int32_t reserved;
};

// table[updates[2i]] = updates[2i + 1]
struct fb_table_params {
    uint64_t table;
    uint64_t updates;
    int32_t update_count;
    int32_t reserved;
};
