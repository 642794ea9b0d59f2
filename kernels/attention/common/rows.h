// What each query row of a record may see: positions low to high, then mask bits.
#pragma once
#include "../row.h"
#include "locate.h"
#include "records.h"

struct MaskRow {
    int64_t bit;   // of key position 0
    int32_t start; // positions before it are visible
    int32_t end;
};

struct RowFacts {
    MaskRow mask[FB_MASK ? FB_QUERY_TILE : 1];
    int32_t low[FB_QUERY_TILE];
    int32_t high[FB_QUERY_TILE];
    int32_t position[FB_QUERY_TILE];
    Variant::Row words[Variant::row_words == 0 ? 1 : FB_QUERY_TILE];
};

FB_DEVICE RowInputs row_inputs(const fb_attention_params& p, const fb_attention_record& r, int i) {
    const QueryRow row = query_row(r, i);
    const int32_t request =
        p.token_requests == 0 ? r.request : read_int(p.token_requests, row.token);
    return row_inputs(p, request, row.token, row.head, r.kv_head, FB_DEVICE_LENGTHS);
}

// Where a row's mask bits lie; the planned lengths count.
FB_DEVICE MaskRow mask_row(const fb_attention_params& p, const RowInputs& row) {
    const int32_t first = read_int(p.query_indptr, row.request);
    const int32_t queries = read_int(p.query_indptr, row.request + 1) - first;
    const int32_t keys =
        p.planned_kv_lengths == 0 ? 0 : read_int(p.planned_kv_lengths, row.request);
    const bool tail = p.mask_mode == FB_MASK_TAIL;
    const int32_t width = tail ? queries : keys;
    const int32_t start = tail ? keys - queries : 0;
    const int64_t first_bit = int64_t(read_int(p.mask_indptr, row.request)) * 8;
    return {first_bit + int64_t(row.query_index) * width - start, start, start + width};
}

// Row `i`; rows past the last are never written: they see everything, or nothing where hooks would
// store what they see.
FB_DEVICE void describe_row(const fb_attention_params& p, const fb_attention_record& r,
                            RowFacts& rows, int i) {
    int32_t low = Variant::stores ? past_end : no_position;
    int32_t high = Variant::stores ? no_position : last_position;
    RowInputs row = {};
    Variant::Row words = {};
    if (i < r.row_count) {
        low = no_position;
        high = last_position;
        row = row_inputs(p, r, i);
        if (row.request >= 0) {
            if (FB_DEVICE_LENGTHS)
                high = row.query_index < row.query_length ? row.kv_length - 1 : no_position;
            if (FB_MASK) rows.mask[i] = mask_row(p, row);
            if (Variant::has_bounds) {
                low = max(low, Variant::low(p, row));
                high = min(high, Variant::high(p, row));
            }
            words = Variant::row(p, row);
        }
        if (p.causal) high = min(high, row.query);
        if (p.window_left >= 0) low = max(low, row.query - p.window_left);
        if (row.request < 0 || high < 0) {
            low = past_end;
            high = no_position;
        }
    }
    if (FB_MASK && (i >= r.row_count || high == no_position))
        rows.mask[i] = {0, past_end, past_end};
    rows.low[i] = low;
    rows.high[i] = high;
    rows.position[i] = row.query;
    if (Variant::row_words > 0) rows.words[i] = words;
}

// Positions that some row of a range sees, and those that all of its rows see.
struct Bounds {
    int32_t any_low;
    int32_t any_high;
    int32_t all_low;
    int32_t all_high;
};

// By a whole warp, of rows [first, first + count) of the tile.
FB_DEVICE Bounds bounds_of(const RowFacts& rows, int first, int count, int row_count) {
    Bounds b = {past_end, no_position, no_position, last_position};
    for (int i = first + int(threadIdx.x % 32); i < min(first + count, row_count); i += 32) {
        b.any_low = min(b.any_low, rows.low[i]);
        b.any_high = max(b.any_high, rows.high[i]);
        b.all_low = max(b.all_low, rows.low[i]);
        b.all_high = min(b.all_high, rows.high[i]);
    }
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
        b.any_low = min(b.any_low, __shfl_xor_sync(0xffffffffu, b.any_low, distance));
        b.any_high = max(b.any_high, __shfl_xor_sync(0xffffffffu, b.any_high, distance));
        b.all_low = max(b.all_low, __shfl_xor_sync(0xffffffffu, b.all_low, distance));
        b.all_high = min(b.all_high, __shfl_xor_sync(0xffffffffu, b.all_high, distance));
    }
    return b;
}

// Kept tokens that a record's rows see: tokens past a clamp or a position may hold anything.
struct KeptRange {
    int32_t start;
    int32_t end;
};

FB_DEVICE bool needs_trim(const fb_attention_record& r) {
    return FB_DEVICE_LENGTHS || Variant::has_bounds || r.column_offset >= 0;
}

// After the rows are described, by whole warps.
FB_DEVICE KeptRange trim(const fb_attention_params& p, const fb_attention_record& r,
                         const RowFacts& rows, Divider by_page) {
    const Bounds b = bounds_of(rows, 0, FB_QUERY_TILE, r.row_count);
    KeptRange range = {r.kv_start, r.kv_end};
    range.end = first_after(p, r, by_page, range.start, range.end, b.any_high);
    if (b.any_low > no_position)
        range.start = first_after(p, r, by_page, range.start, range.end, b.any_low - 1);
    return range;
}

// Whether the packed mask lets row i see the key at a position.
FB_DEVICE bool bit_visible(const fb_attention_params& p, const RowFacts& rows, int i, int32_t key) {
    const MaskRow row = rows.mask[i];
    if (key < row.start) return true;
    if (key >= row.end) return false;
    const uint64_t bit = uint64_t(row.bit + key);
    return reinterpret_cast<const uint8_t*>(p.mask)[bit >> 3] >> (bit & 7) & 1;
}
