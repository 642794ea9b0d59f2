// Pages: appends, moves, updates of the page table.
#pragma once
#include "plane.h"

// New tokens' rows into the planes of one layer. slot_mapping[token] = page * page_size + offset;
// without one, a token lies at positions[token] of request r = token_requests[token], whose pages
// are page_table[row_indptr[r]..row_indptr[r + 1]), or row r of the table. What names no slot,
// request, entry or page is left out.
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
    uint64_t slot_mapping;      // int32 [token], or 0
    uint64_t token_requests;    // int32 [token], or 0
    uint64_t positions;         // int32 [token], without slot_mapping
    uint64_t page_table;        // int32 [table_entries], without slot_mapping
    uint64_t row_indptr;        // int32 [request + 1], or 0: rows of table_stride entries
    uint64_t key_positions;     // int32 [page, page_size], which gets new_positions; or 0
    uint64_t new_positions;     // int32 [token], or 0: each key's is its place (-1)
    int32_t plane_count;
    int32_t token_count;
    int32_t page_size;
    int32_t page_count;         // pages of every plane
    int32_t request_count;      // rows of page_table
    int32_t table_stride;       // entries of a row, without row_indptr
    int32_t table_entries;
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
