// Where kept tokens lie.
#pragma once
#include "../../ptx/cp_async.h"
#include "facts.h"

struct Place {
    int32_t page;
    int32_t row; // in the page, or in the whole tensor
    int32_t position; // past_end: no token
};

// Rows of K and V in global memory, for N tokens.
template <int N> struct Places {
    uint64_t k[N];
    uint64_t v[N];
};

template <int N> struct Tokens {
    int32_t page[N];
    int32_t position[N];
    float k_scale[N];
    float v_scale[N];
};

// Logical token within the layout row.
FB_DEVICE int32_t logical_token(const fb_attention_params& p, const fb_attention_record& r,
                                int32_t token) {
    if (r.column_offset < 0) return token;
    const int32_t column = int32_t(uint32_t(token) / uint32_t(p.page_size));
    const auto* columns = reinterpret_cast<const int32_t*>(p.columns) + r.column_offset;
    return (columns[column] >> 1) * p.page_size + token - column * p.page_size;
}

// Where the page id of a token before `end` stands, or 0.
FB_DEVICE const int32_t* page_entry(const fb_attention_params& p, const fb_attention_record& r,
                                    int32_t token, int32_t end) {
    if (FB_CONTIGUOUS || token >= end) return nullptr;
    const uint32_t size = uint32_t(p.page_size);
    const uint32_t column = uint32_t(logical_token(p, r, token)) / size;
    const uint32_t first = uint32_t(r.position_start) / size;
    const int64_t at = int64_t(r.slot) * p.table_stride + first + column;
    return reinterpret_cast<const int32_t*>(p.page_table) + at;
}

FB_DEVICE Place place_of(const fb_attention_params& p, const fb_attention_record& r, int32_t token,
                         int32_t end, int32_t page) {
    if (token >= end) return {0, 0, past_end};
    const int32_t logical = logical_token(p, r, token);
    const int32_t position = r.position_start + logical;
    if (FB_CONTIGUOUS) return {0, r.slot + logical, position};
    return {page, int32_t(uint32_t(logical) % uint32_t(p.page_size)), position};
}

// Address of a token's row of the record's head. Without a token: of the first row, never read.
FB_DEVICE uint64_t row_address(const fb_plane& plane, int32_t kv_head, const Place& place) {
    const int64_t at = kv_head * plane.stride_head + place.page * plane.stride_page +
                       place.row * plane.stride_token;
    return plane.data + at * value_bytes;
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

// Copies a token's scale to shared memory, with the cp.async group that is open.
FB_DEVICE void copy_scale(const fb_scale& s, const fb_attention_record& r, const Place& place,
                          float* target) {
    const int64_t at = r.request * s.stride_request + r.kv_head * s.stride_head +
                       place.page * s.stride_page + place.row * s.stride_token;
    const bool kept = place.position != past_end;
    cp_async_4(shared_address(target), reinterpret_cast<const float*>(s.data) + (kept ? at : 0),
               kept ? 4 : 0);
}

// First kept token of [from, to) whose position is above `bound`: positions ascend.
FB_DEVICE int32_t first_after(const fb_attention_params& p, const fb_attention_record& r,
                              int32_t from, int32_t to, int32_t bound) {
    while (from < to) {
        const int32_t middle = from + (to - from) / 2;
        if (r.position_start + logical_token(p, r, middle) > bound) to = middle;
        else from = middle + 1;
    }
    return from;
}
