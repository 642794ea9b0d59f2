// The two products of a tile whose rows are queries.
#pragma once
#include "products.h"

FB_WGMMA(bf16, 64)
FB_WGMMA(f16, 64)
FB_WGMMA(bf16, 128)
FB_WGMMA(f16, 128)

// scores += queries x keys, of 16 elements.
FB_DEVICE void add_scores(float (&s)[32], const uint32_t (&q)[4], uint64_t keys, bool accumulate) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<0>(s, q, keys, accumulate);
    else wgmma_bf16<0>(s, q, keys, accumulate);
}
FB_DEVICE void add_scores(float (&s)[32], uint64_t q, uint64_t keys, bool accumulate) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<0, 0>(s, q, keys, accumulate);
    else wgmma_bf16<0, 0>(s, q, keys, accumulate);
}

// 128 columns of sums += weights x values, of 16 tokens.
FB_DEVICE void add_weighted(float (&sums)[64], uint64_t weights, uint64_t values, bool accumulate) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<0, 1>(sums, weights, values, accumulate);
    else wgmma_bf16<0, 1>(sums, weights, values, accumulate);
}
