// Where keys and values lie, and what scales them.
#pragma once
#include "types.h"

// One named plane of a paged cache, or a ragged K or V tensor: the element at
// data + page * stride_page + head * stride_head + token * stride_token, innermost stride 1.
// Contiguous (ragged) tensors use stride_token only.
struct fb_plane {
    uint64_t data;
    int64_t stride_page;
    int64_t stride_head;
    int64_t stride_token;
};

// f32 scales with any combination of axes; an unused axis has stride 0, no scales has data 0.
struct fb_scale {
    uint64_t data;
    int64_t stride_request;
    int64_t stride_head;
    int64_t stride_page;
    int64_t stride_token;
};
