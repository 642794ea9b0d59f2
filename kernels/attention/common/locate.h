// Where kept tokens lie.
#pragma once
#include "../../ptx/cp_async.h"
#include "../row.h"
#include "facts.h"

// Division by the page size, of integers from 0 to 2^31 - 1.
struct Divider {
    uint32_t multiplier; // 0: by 1
    uint32_t shift;
};

FB_DEVICE Divider divider_of(uint32_t size) {
    uint32_t log = 0;
    while ((1u << log) < size) log++;
    if (log == 0) return {0, 0};
    if ((size & (size - 1)) == 0) return {1u << (32 - log), 0}; // without a slow division
    return {uint32_t(((uint64_t(1) << (31 + log)) + size - 1) / size), log - 1};
}

FB_DEVICE int32_t divide(int32_t n, Divider by) {
    const auto high = uint32_t(uint64_t(uint32_t(n)) * by.multiplier >> 32);
    return by.multiplier == 0 ? n : int32_t(high >> by.shift);
}

// Where the tokens of a record's layout row and head lie.
struct Source {
    uint64_t pages; // entry of its first column
    uint64_t k;
    uint64_t v;
    Divider by_page;
};

// Whether a row of a paged layout lies in no pages, and in what planes the keys and values of a
// record do.
FB_DEVICE bool lies_apart(const fb_attention_record& r) { return FB_RAGGED_ROWS && r.slot < 0; }
FB_DEVICE const fb_plane& key_plane(const fb_attention_params& p, const fb_attention_record& r) {
    return lies_apart(r) ? p.k_ragged : p.k;
}
FB_DEVICE const fb_plane& value_plane(const fb_attention_params& p, const fb_attention_record& r) {
    return lies_apart(r) ? p.v_ragged : p.v;
}

FB_DEVICE Source source_of(const fb_attention_params& p, const fb_attention_record& r,
                           Divider by_page) {
    const int64_t first = p.contiguous ? 0 : divide(r.position_start, by_page);
    const fb_plane& k = key_plane(p, r);
    const fb_plane& v = value_plane(p, r);
    return {p.page_table + 4 * (int64_t(r.slot) * p.table_stride + first),
            k.data + r.kv_head * k.stride_head * value_bytes,
            v.data + r.kv_head * v.stride_head * value_bytes, by_page};
}

// The entry of the values' page table that stands where an entry of the keys' does.
FB_DEVICE const int32_t* value_entry(const fb_attention_params& p, const int32_t* page) {
    if (!FB_VALUE_PAGES) return page;
    const uint64_t at = reinterpret_cast<uint64_t>(page) - p.page_table;
    return reinterpret_cast<const int32_t*>(p.value_page_table + at);
}

// A token, up to the page id.
struct Place {
    const int32_t* page; // null: no token, or no pages
    int32_t row;         // in the page, or in the whole tensor; full_bit besides, where pairs hide
    int32_t place;       // in the sequence; past_end: no token
};

// In a token's row: its column is visible to every query.
constexpr int32_t full_bit = -0x7fffffff - 1;

FB_DEVICE int32_t without_full_bit(int32_t row) { return pairs_hide ? row & ~full_bit : row; }

// Where the last elements of N keys would begin if the others lay before them, if they lie apart.
template <int N, bool Apart = (FB_KEY_TAIL > 0)> struct TailAddresses {
    uint64_t tail[N];
    FB_DEVICE void note(int i, uint64_t address) { tail[i] = address; }
    FB_DEVICE const uint64_t* tails() const { return tail; }
};
template <int N> struct TailAddresses<N, false> {
    FB_DEVICE void note(int, uint64_t) {}
    FB_DEVICE const uint64_t* tails() const { return nullptr; }
};

// Rows of K and V in global memory, for N tokens.
template <int N> struct RowAddresses : TailAddresses<N> {
    uint64_t k[N];
    uint64_t v[N];
};

// The place in the sequence of each of N tokens, where it is no position.
template <int N, bool Kept = keeps_places> struct Places {
    int32_t place[N];
    FB_DEVICE void note(int i, int32_t x) { place[i] = x; }
    FB_DEVICE const int32_t* from(int first, const int32_t*) const { return place + first; }
};
template <int N> struct Places<N, false> {
    FB_DEVICE void note(int, int32_t) {}
    FB_DEVICE const int32_t* from(int, const int32_t* positions) const { return positions; }
};

// Pages of N values, where they are not those of the keys.
template <int N, bool Own = (FB_VALUE_PAGES > 0)> struct ValuePages {
    int32_t value_page[N];
    FB_DEVICE int32_t* values(int32_t*) { return value_page; }
};
template <int N> struct ValuePages<N, false> {
    FB_DEVICE int32_t* values(int32_t* pages) { return pages; }
};

// Scales of N tokens, where there are such.
template <int N, bool Kept = (FB_K_TOKEN_SCALE || FB_V_TOKEN_SCALE)> struct ScalesOfTokens {
    float k_scale[N];
    float v_scale[N];
    FB_DEVICE float* key_scale(int i) { return k_scale + i; }
    FB_DEVICE float* value_scale(int i) { return v_scale + i; }
    FB_DEVICE const float* key_scales(int first) const { return k_scale + first; }
    FB_DEVICE const float* value_scales(int first) const { return v_scale + first; }
};
template <int N> struct ScalesOfTokens<N, false> {
    FB_DEVICE float* key_scale(int) { return nullptr; }
    FB_DEVICE float* value_scale(int) { return nullptr; }
    FB_DEVICE const float* key_scales(int) const { return nullptr; }
    FB_DEVICE const float* value_scales(int) const { return nullptr; }
};

template <int N> struct Tokens : Places<N>, ValuePages<N>, ScalesOfTokens<N> {
    int32_t position[N]; // past_end: no token
    int32_t page[N];
    int32_t row[N];
};

// A run of tokens of one KV head.
struct TokenView {
    const int32_t* position;
    const int32_t* place;
    const int32_t* page;
    const int32_t* row;
    const float* k_scale;
    const float* v_scale;
    int32_t kv_head;

    FB_DEVICE KeyInputs inputs(const fb_attention_params& p, int i) const {
        const bool kept = position[i] != past_end;
        const int32_t slot = kept ? page[i] * p.page_size + without_full_bit(row[i]) : 0;
        return {position[i], slot, kv_head};
    }

    // By a whole warp: whether the columns of the first `count` are full.
    FB_DEVICE bool full(int count) const {
        bool all = true;
        for (int i = int(threadIdx.x % 32); i < count; i += 32) all &= row[i] < 0;
        return __all_sync(0xffffffffu, all);
    }
};

template <int N>
FB_DEVICE TokenView view_of(const fb_attention_record& r, const Tokens<N>& tokens, int first = 0) {
    const int32_t* const positions = tokens.position + first;
    return {positions,
            tokens.from(first, positions),
            tokens.page + first,
            tokens.row + first,
            tokens.key_scales(first),
            tokens.value_scales(first),
            r.kv_head};
}

// Logical token within the layout row.
FB_DEVICE int32_t logical_token(const fb_attention_params& p, const fb_attention_record& r,
                                Divider by_page, int32_t token) {
    if (r.column_offset < 0) return token;
    const int32_t column = divide(token, by_page);
    const auto* columns = reinterpret_cast<const int32_t*>(p.columns) + r.column_offset;
    return (columns[column] >> 1) * p.page_size + token - column * p.page_size;
}

FB_DEVICE bool in_full_column(const fb_attention_params& p, const fb_attention_record& r,
                              Divider by_page, int32_t token) {
    if (r.column_offset < 0) return false;
    const auto* columns = reinterpret_cast<const int32_t*>(p.columns) + r.column_offset;
    return columns[divide(token, by_page)] & 1;
}

// Of a token that the record keeps; Listed: its columns may be listed.
template <bool Listed = true>
FB_DEVICE Place find_kept(const fb_attention_params& p, const fb_attention_record& r,
                          const Source& from, int32_t token) {
    const int32_t logical = Listed ? logical_token(p, r, from.by_page, token) : token;
    const int32_t place = r.position_start + logical;
    const int32_t full = pairs_hide && in_full_column(p, r, from.by_page, token) ? full_bit : 0;
    if (p.contiguous) return {nullptr, (r.slot + logical) | full, place};
    if (lies_apart(r)) return {nullptr, (-1 - r.slot + logical) | full, place};
    const int32_t column = divide(logical, from.by_page);
    const auto* pages = reinterpret_cast<const int32_t*>(from.pages);
    return {pages + column, (logical - column * p.page_size) | full, place};
}

FB_DEVICE Place find(const fb_attention_params& p, const fb_attention_record& r, const Source& from,
                     int32_t token, int32_t end) {
    if (token >= end) return {nullptr, pairs_hide ? full_bit : 0, past_end};
    return find_kept(p, r, from, token);
}

// Position of a token at a place in its sequence: what it was given, if it was.
FB_DEVICE int32_t position_of(const fb_attention_params& p, int32_t page, int32_t row,
                              int32_t place) {
    if (!FB_KEY_POSITIONS || p.key_positions == 0 || place == past_end) return place;
    const int32_t given = read_int(p.key_positions, int64_t(page) * p.page_size + row);
    return given < 0 ? place : given;
}

// Address of a row; `head`: of the head's first.
FB_DEVICE uint64_t row_address(const fb_plane& plane, uint64_t head, int32_t page, int32_t row) {
    return head + (page * plane.stride_page + row * plane.stride_token) * value_bytes;
}

// The same of a key's last elements; of the whole key, if it lay before them.
FB_DEVICE uint64_t tail_address(const fb_attention_params& p, const fb_attention_record& r,
                                int32_t page, int32_t row) {
    if (FB_KEY_TAIL == 0) return 0;
    const uint64_t head = p.k_tail.data + r.kv_head * p.k_tail.stride_head * value_bytes;
    return row_address(p.k_tail, head, page, row) - (FB_KEY_DIM - FB_KEY_TAIL) * value_bytes;
}

FB_DEVICE bool by_token(const fb_scale& s) {
    return s.data != 0 && (s.stride_page != 0 || s.stride_token != 0);
}

// Scale of the whole record, if there is one.
FB_DEVICE float constant_scale(const fb_scale& s, const fb_attention_record& r) {
    if (s.data == 0 || by_token(s)) return 1;
    const int64_t at = r.request * s.stride_request + r.kv_head * s.stride_head;
    return reinterpret_cast<const float*>(s.data)[at];
}

// Copies a token's scale to shared memory, with the cp.async group that is open; 0 unless `kept`.
// Where scales are by tensor, head or request, or none, it is 1: constant_scale has them.
FB_DEVICE void copy_scale(const fb_scale& s, const fb_attention_record& r, int32_t page,
                          int32_t row, bool kept, float* target) {
    if (!by_token(s)) {
        *target = 1;
        return;
    }
    const int64_t at = r.request * s.stride_request + r.kv_head * s.stride_head +
                       page * s.stride_page + row * s.stride_token;
    cp_async_4(shared_address(target), reinterpret_cast<const float*>(s.data) + (kept ? at : 0),
               kept ? 4 : 0);
}

// A token's scale, as copy_scale has it.
FB_DEVICE float token_scale(const fb_scale& s, const fb_attention_record& r, int32_t page,
                            int32_t row, bool kept) {
    if (!by_token(s)) return 1;
    if (!kept) return 0;
    const int64_t at = r.request * s.stride_request + r.kv_head * s.stride_head +
                       page * s.stride_page + row * s.stride_token;
    return reinterpret_cast<const float*>(s.data)[at];
}

// First kept token of [from, to) whose place is above `bound`: places ascend.
FB_DEVICE int32_t first_after(const fb_attention_params& p, const fb_attention_record& r,
                              Divider by_page, int32_t from, int32_t to, int32_t bound) {
    while (from < to) {
        const int32_t middle = from + (to - from) / 2;
        if (r.position_start + logical_token(p, r, by_page, middle) > bound) to = middle;
        else from = middle + 1;
    }
    return from;
}
