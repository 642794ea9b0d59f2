// What the device knows of a query row.
#pragma once
#include "hooks.h"

FB_DEVICE int32_t read_int(uint64_t array, int64_t index) {
    return reinterpret_cast<const int32_t*>(array)[index];
}

// What fp8 outputs are multiplied by before they are rounded.
FB_DEVICE float out_unit(const fb_attention_params& p) {
    return p.out_scale == 0 ? 1 : 1 / *reinterpret_cast<const float*>(p.out_scale);
}

// The planned lengths are bounds: beyond them nothing was reserved.
FB_DEVICE int32_t clamp_length(uint64_t lengths, int32_t request, int32_t planned) {
    if (lengths == 0) return planned;
    return max(0, min(planned, read_int(lengths, request)));
}

// Lengths and index are 0 where the request is none (-1).
FB_DEVICE RowInputs row_inputs(const fb_attention_params& p, int32_t request, int32_t token,
                               int32_t head, int32_t kv_head, bool device_lengths) {
    RowInputs row = {0, token, 0, request, head, kv_head, 0, 0};
    if (p.positions != 0) row.query = read_int(p.positions, token);
    if (request < 0) return row;
    const int32_t first = read_int(p.query_indptr, request);
    row.query_index = token - first;
    row.query_length = read_int(p.query_indptr, request + 1) - first;
    if (p.planned_kv_lengths != 0) row.kv_length = read_int(p.planned_kv_lengths, request);
    if (device_lengths) {
        row.kv_length = clamp_length(p.kv_lengths, request, row.kv_length);
        row.query_length = clamp_length(p.query_lengths, request, row.query_length);
        row.query = row.kv_length - row.query_length + row.query_index;
    }
    return row;
}
