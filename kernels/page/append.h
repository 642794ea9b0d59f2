// Where new tokens' rows come from and go to.
#pragma once
#include "../common/chunk.h"
#include "../params/page.h"

// ---- where things lie

struct AppendTarget {
    int64_t page; // -1: the token is not kept
    int64_t within;
};

// The page at a token's place in its request's row of the table.
FB_DEVICE AppendTarget target_in_table(const fb_append_params& p, int32_t token) {
    const int32_t request = items<const int32_t>(p.token_requests)[token];
    const int32_t position = items<const int32_t>(p.positions)[token];
    if (request < 0 || request >= p.request_count || position < 0) return {-1, 0};
    const int32_t column = position / p.page_size;
    const int32_t* const indptr = items<const int32_t>(p.row_indptr);
    const bool is_ragged = indptr != nullptr;
    const int64_t start = is_ragged ? indptr[request] : int64_t(request) * p.table_stride;
    const int64_t end = is_ragged ? indptr[request + 1] : start + p.table_stride;
    const int64_t entry = start + column;
    if (start < 0 || entry >= end || entry >= p.table_entries) return {-1, 0};
    const int32_t page = items<const int32_t>(p.page_table)[entry];
    if (page >= p.page_count) return {-1, 0};
    return {page, position - int64_t(column) * p.page_size};
}

FB_DEVICE AppendTarget target_of(const fb_append_params& p, int32_t token) {
    if (token >= p.token_count) return {-1, 0};
    if (p.slot_mapping == 0) return target_in_table(p, token);
    const int32_t slot = items<const int32_t>(p.slot_mapping)[token];
    if (slot < 0) return {-1, 0};
    const uint32_t page = uint32_t(slot) / uint32_t(p.page_size);
    if (page >= uint32_t(p.page_count)) return {-1, 0};
    return {page, slot - int64_t(page) * p.page_size};
}

FB_DEVICE uint64_t row_address(const fb_plane& plane, const AppendTarget& at, int32_t head,
                               int32_t bytes) {
    return plane.data + bytes * (at.page * plane.stride_page + head * plane.stride_head +
                                 at.within * plane.stride_token);
}

FB_DEVICE uint64_t source_address(const fb_append_params& p, int32_t plane, int32_t token,
                                  int32_t head, int32_t bytes) {
    return p.sources[plane] + bytes * (token * p.source_stride_token[plane] +
                                       head * p.source_stride_head[plane]);
}

FB_DEVICE float scale_of(const fb_append_params& p, int32_t plane, int32_t token,
                         const AppendTarget& at, int32_t head) {
    const fb_scale& scale = p.scales[plane];
    const int32_t* const requests = items<const int32_t>(p.token_requests);
    const int64_t request = requests == nullptr || requests[token] < 0 ? 0 : requests[token];
    return items<const float>(scale.data)[request * scale.stride_request +
                                          head * scale.stride_head +
                                          at.page * scale.stride_page +
                                          at.within * scale.stride_token];
}

// ---- store

FB_DEVICE void append_position(const fb_append_params& p, int32_t token) {
    const AppendTarget at = target_of(p, token);
    if (at.page < 0) return;
    const int32_t* const positions = items<const int32_t>(p.new_positions);
    items<int32_t>(p.key_positions)[at.page * p.page_size + at.within] =
        positions == nullptr ? -1 : positions[token];
}
