// What each query row of a record may see: positions low to high, then mask bits.
#pragma once
#include "locate.h"
#include "records.h"

struct MaskRow {
    int64_t bit;   // of the key at place 0
    int32_t start; // places before it are visible
    int32_t end;
};

// Of fp8 queries, by row.
template <bool, int Rows> struct ScalesOf {
    float scale[Rows];
};
template <int Rows> struct ScalesOf<false, Rows> {};

template <class Facts> FB_DEVICE float scale_of(const Facts& rows, int row) {
    if constexpr (scales_rows) return rows.scale[row];
    else return 1;
}

struct RowFacts : ScalesOf<scales_rows, FB_QUERY_TILE> {
    MaskRow mask[FB_MASK ? FB_QUERY_TILE : 1];
    int32_t low[FB_QUERY_TILE];
    int32_t high[FB_QUERY_TILE];
    int32_t position[FB_QUERY_TILE];
    Variant::Row words[Variant::row_words == 0 ? 1 : FB_QUERY_TILE];
};

// What products of row `i` are multiplied by.
FB_DEVICE float query_scale(const fb_attention_params& p, const fb_attention_record& r, int i) {
    if (p.q_scale.data == 0 || i >= r.row_count) return 1;
    const QueryRow row = query_row(r, i);
    return reinterpret_cast<const float*>(p.q_scale.data)[row.token * p.q_scale.stride_token +
                                                          row.head * p.q_scale.stride_head];
}

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
    const int64_t first_bit = int64_t(read_int(p.mask_indptr, row.request)) << p.mask_shift;
    return {first_bit + int64_t(row.query_index) * width - start, start, start + width};
}

// A row and the positions [low, high] that it may see.
struct RowSight {
    RowInputs row;
    int32_t low;
    int32_t high;
};

// Of a row of the record.
FB_DEVICE RowSight sight_of(const fb_attention_params& p, const RowInputs& row) {
    int32_t low = no_position;
    int32_t high = last_position;
    if (row.request >= 0) {
        if (FB_DEVICE_LENGTHS)
            high = row.query_index < row.query_length ? row.kv_length - 1 : no_position;
        if (Variant::has_bounds) {
            low = max(low, Variant::low(p, row));
            high = min(high, Variant::high(p, row));
        }
    }
    if (p.causal) high = min(high, row.query);
    if (p.window_left >= 0) low = max(low, row.query - p.window_left);
    if (row.request < 0 || high < 0) return {row, past_end, no_position};
    return {row, low, high};
}

// Of rows past the last, which are never written: they see everything, or nothing where hooks would
// store what they see.
FB_DEVICE RowSight sight_of_none() {
    if (Variant::stores) return {{}, past_end, no_position};
    return {{}, no_position, last_position};
}

FB_DEVICE RowSight sight_of(const fb_attention_params& p, const fb_attention_record& r, int i) {
    return i < r.row_count ? sight_of(p, row_inputs(p, r, i)) : sight_of_none();
}

// What bits and hooks know of a row; `asks`: it is one of a request.
FB_DEVICE MaskRow mask_of(const fb_attention_params& p, const RowSight& sight, bool asks) {
    if (asks && sight.high != no_position) return mask_row(p, sight.row);
    return {0, past_end, past_end};
}
FB_DEVICE Variant::Row words_of(const fb_attention_params& p, const RowSight& sight, bool asks) {
    if (Variant::row_words == 0 || !asks) return {};
    return Variant::row(p, sight.row);
}

// The same of row `i`, whose sight it is.
template <class Facts>
FB_DEVICE void note_row(const fb_attention_params& p, const fb_attention_record& r, Facts& rows,
                        int i, const RowSight& sight) {
    const bool asks = i < r.row_count && sight.row.request >= 0;
    if (FB_MASK) rows.mask[i] = mask_of(p, sight, asks);
    if (Variant::row_words > 0) rows.words[i] = words_of(p, sight, asks);
    if constexpr (scales_rows) rows.scale[i] = query_scale(p, r, i);
}

FB_DEVICE void note_sight(const fb_attention_params& p, const fb_attention_record& r,
                          RowFacts& rows, int i, const RowSight& sight) {
    note_row(p, r, rows, i, sight);
    rows.low[i] = sight.low;
    rows.high[i] = sight.high;
    rows.position[i] = sight.row.query;
}

FB_DEVICE void describe_row(const fb_attention_params& p, const fb_attention_record& r,
                            RowFacts& rows, int i) {
    note_sight(p, r, rows, i, sight_of(p, r, i));
}

// Positions (or kept tokens) that some row of a range sees, and those that all of its rows see.
struct Bounds {
    int32_t any_low;
    int32_t any_high;
    int32_t all_low;
    int32_t all_high;

    FB_DEVICE void add(int32_t low, int32_t high) {
        all_low = max(all_low, low);
        all_high = min(all_high, high);
        if (low > high) return;
        any_low = min(any_low, low);
        any_high = max(any_high, high);
    }

    // Of the rows that any lane of a warp has added.
    FB_DEVICE void join() {
        FB_UNROLL
        for (int distance = 16; distance > 0; distance /= 2) {
            any_low = min(any_low, __shfl_xor_sync(0xffffffffu, any_low, distance));
            any_high = max(any_high, __shfl_xor_sync(0xffffffffu, any_high, distance));
            all_low = max(all_low, __shfl_xor_sync(0xffffffffu, all_low, distance));
            all_high = min(all_high, __shfl_xor_sync(0xffffffffu, all_high, distance));
        }
    }
};

FB_DEVICE Bounds no_bounds() { return {past_end, no_position, no_position, last_position}; }

// By a whole warp, of rows [first, first + count) of the tile.
FB_DEVICE Bounds bounds_of(const RowFacts& rows, int first, int count, int row_count) {
    Bounds b = no_bounds();
    for (int i = first + int(threadIdx.x % 32); i < min(first + count, row_count); i += 32)
        b.add(rows.low[i], rows.high[i]);
    b.join();
    return b;
}

// Kept tokens that a record's rows see: tokens past a clamp or a position may hold anything.
struct KeptRange {
    int32_t start;
    int32_t end;
};

FB_DEVICE bool needs_trim(const fb_attention_record& r) {
    return FB_DEVICE_LENGTHS || Variant::trims || r.column_offset >= 0;
}

// Of a record whose rows have these bounds.
FB_DEVICE KeptRange trim(const fb_attention_params& p, const fb_attention_record& r,
                         const Bounds& b, Divider by_page) {
    KeptRange range = {r.kv_start, r.kv_end};
    if (FB_KEY_POSITIONS && p.key_positions != 0) return range; // given positions do not ascend
    range.end = first_after(p, r, by_page, range.start, range.end, b.any_high);
    if (b.any_low > no_position)
        range.start = first_after(p, r, by_page, range.start, range.end, b.any_low - 1);
    return range;
}

// After the rows are described, by whole warps.
FB_DEVICE KeptRange trim(const fb_attention_params& p, const fb_attention_record& r,
                         const RowFacts& rows, Divider by_page) {
    return trim(p, r, bounds_of(rows, 0, FB_QUERY_TILE, r.row_count), by_page);
}

// Whether the packed mask lets a row see the key at a place.
FB_DEVICE bool bit_visible(const fb_attention_params& p, const MaskRow& row, int32_t place) {
    if (place < row.start) return true;
    if (place >= row.end) return false;
    const uint64_t bit = uint64_t(row.bit + place);
    const uint32_t within = uint32_t(bit) & ((1u << p.mask_shift) - 1);
    return reinterpret_cast<const uint8_t*>(p.mask)[bit >> p.mask_shift] >> within & 1;
}
