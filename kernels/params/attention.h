// Attention: its work records and its parameters.
#pragma once
#include "plane.h"
#include "tensor_map.h"
#include "variant.h"

#define FB_MASK_NONE 0
#define FB_MASK_ALL 1
#define FB_MASK_TAIL 2

// One self-contained piece of attention work: packed query rows against a range of kept tokens.
// Packed row = token * query_head_count + head: token counts over the whole batch, head within the
// record's query heads. Kept tokens count within the layout row: token t lies in kept column
// t / page_size; dense rows keep all columns, sparse rows keep
// columns[column_offset + t / page_size] >> 1.
struct fb_attention_record {
    int32_t kv_head;
    int32_t query_head_start;
    int32_t query_head_count;
    int32_t row_start;
    int32_t row_count;
    int32_t slot;           // page-table row, or the first token of a contiguous row; in a paged
                            // layout -1 - the first token of a row that lies in k_ragged
    int32_t kv_start;       // kept tokens [kv_start, kv_end)
    int32_t kv_end;
    int32_t full_start;     // kept tokens [full_start, full_end) are visible to every row, unmasked
    int32_t full_end;
    int32_t position_start; // position of the row's logical column 0 in the sequence
    int32_t column_offset;  // into columns, or -1: dense
    int32_t partial_row;    // first row of the partial state, or -1: write the output
    int32_t request;        // the layout row's first request
    int32_t level;
    int32_t first_merge;    // of the partial rows, where its kernel counts; -1: a launch merges
};

// Rows whose state was split: part_count partial states merge, in order, into the output.
// parts[part_start + i] is the partial row of the record's first row.
struct fb_merge_record {
    int32_t query_head_start;
    int32_t query_head_count;
    int32_t row_start;
    int32_t row_count;
    int32_t part_start;
    int32_t part_count;
    int32_t reserved[2];
};

struct fb_attention_params {
    struct fb_plane k;
    struct fb_plane v;
    struct fb_plane k_tail;  // the last key_tail elements of keys, or data 0
    struct fb_plane k_ragged; // rows of a paged layout that lie in no pages
    struct fb_plane v_ragged;
    struct fb_scale k_scale;
    struct fb_scale v_scale;
    struct fb_scale q_scale; // of fp8 queries: heads are query heads, tokens the batch's
    uint64_t out_scale;      // f32: outputs are divided by it, or 0
    uint64_t q;
    uint64_t out;
    uint64_t lse;            // f32 [token, query head], or 0
    int64_t q_stride_token;
    int64_t q_stride_head;
    int64_t out_stride_token;
    int64_t out_stride_head;
    uint64_t page_table;     // int32 [slot, table_stride]
    uint64_t value_page_table; // the same of values, or 0: they lie in the pages of keys
    uint64_t records;
    uint64_t merges;
    uint64_t parts;          // int32
    uint64_t columns;        // int32: logical column << 1 | full
    uint64_t partial_out;    // f32 [partial row, value_dim], normalised
    uint64_t partial_lse;    // f32 [partial row], base e
    uint64_t positions;      // int32 [token]
    uint64_t key_positions;  // int32 [page, page_size], of a contiguous tensor [token]; a key's is
                             // its place in the sequence where this is 0, or negative
    uint64_t token_requests; // int32 [token], -1: padding
    uint64_t query_indptr;   // int32 [request + 1]
    uint64_t planned_kv_lengths; // int32 [request]
    uint64_t kv_lengths;     // int32 [request]: clamps known only on the device, or 0
    uint64_t query_lengths;  // int32 [request], or 0
    uint64_t mask;           // [query, key] of each request: bits from a byte's lowest, or bytes
    uint64_t mask_indptr;    // int32 [request]: first byte of each request
    uint64_t mask_elements;  // bytes of mask
    uint64_t alibi_slopes;   // f32 [query head], or 0
    uint64_t sinks;          // f32 [query head], or 0
    uint64_t rope_rates;     // int32 [pair, 2]: turns per position, in 2^-32 and 2^-64, or 0
    uint64_t counters;       // int32 [32][2]: records taken and blocks gone of each launch, then
                             // [merge]: parts that have come; 0 between launches (CUDA)
    struct fb_variant variant;
    int32_t table_stride;
    int32_t page_size;
    int32_t contiguous;      // 1: slots are first tokens, no page table
    int32_t query_heads;
    int32_t kv_heads;
    int32_t key_dim;
    int32_t key_tail;
    int32_t value_dim;
    int32_t q_dtype;
    int32_t kv_dtype;
    int32_t out_dtype;
    int32_t causal;
    int32_t window_left;     // -1: none
    int32_t mask_mode;
    int32_t mask_shift;      // log2 of the pairs in a byte of mask: 3 or 0
    int32_t page_count;      // pages of k and v, where page_table is the caller's; else 0
    int32_t value_page_count; // of v, where it has a page table
    int32_t rope_dim;
    int32_t rope_interleaved;
    int32_t rope_first;      // elements [rope_first, rope_first + rope_dim) of a head turn
    float rope_factor;       // of turned queries
    int32_t finalize;        // 0: raw state, no sinks
    int32_t record_count;
    int32_t merge_count;
    float scale;
    float soft_cap;          // 0: none
    float lse_factor;        // 1 for base e, log2(e) for base 2
    int32_t pages_settled;   // 1: the kernel queued before does not write the page table
    int32_t beside;          // launches of this plan right before this one, it overlaps (CUDA)
    int32_t reserved;
};

// What attention kernels take that load and store by bulk copies (TMA). Each class of kernels has
// maps of its own; those that its bindMaps leaves alone are 0.
struct fb_attention_map_params {
    struct fb_tensor_map q;   // of the run's queries
    struct fb_tensor_map k;   // of the layer's keys
    struct fb_tensor_map v;   // of the layer's values
    struct fb_tensor_map out; // of the run's outputs
    struct fb_attention_params attention;
    int32_t reserved[12]; // to a multiple of 64 bytes, the alignment of a tensor map
};
