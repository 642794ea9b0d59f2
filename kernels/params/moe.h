// Mixtures of experts: which experts a token goes to, and the sum of what they say.
#pragma once
#include "types.h"

// Each token's top_k experts by the key, ties by the lowest index; entries token * top_k + slot in
// the order of their experts. The score is the softmax or the sigmoid of a logit, the key the logit
// or, with bias, score plus bias. A NaN logit counts as -inf. Of group_count groups of neighbouring
// experts only those groups_kept may be taken from whose group_best largest keys have the largest
// sum, ties by the lowest group.
struct fb_route_params {
    uint64_t logits;  // [token_count, expert_count]
    uint64_t bias;    // f32 [expert_count]; 0: none
    uint64_t weights; // f32 [token_count, top_k]: scores times scale
    uint64_t experts; // i32 [token_count, top_k], by falling keys
    uint64_t starts;  // i32 [expert_count + 1]: entries before an expert's
    uint64_t rows;    // i32 [token_count * top_k]: the token of an entry in order
    uint64_t places;  // i32 [token_count, top_k]: where an entry lies in order
    uint64_t ticket;  // i32, 0 between launches
    int64_t logits_stride;
    int32_t token_count;
    int32_t expert_count;
    int32_t top_k;
    int32_t dtype;
    int32_t sigmoid;
    int32_t renormalize; // 1: a token's weights add up to scale
    float scale;
    int32_t group_count; // at most 32; 1 or less: no groups
    int32_t groups_kept;
    int32_t group_best; // 1 or 2
};

// out[t] = sum over slots of weights[t][slot] y[places[t][slot]] + residual[t].
struct fb_combine_params {
    uint64_t y;        // [entry_count, dim]
    uint64_t weights;  // f32 [token_count, top_k]
    uint64_t places;   // i32 [token_count, top_k]
    uint64_t residual; // of out's shape; 0: none
    uint64_t out;
    int64_t y_stride;
    int64_t residual_stride;
    int64_t out_stride;
    int32_t token_count;
    int32_t entry_count;
    int32_t top_k;
    int32_t dim;
    int32_t y_dtype;
    int32_t residual_dtype;
    int32_t out_dtype;
    int32_t reserved;
};
