// The two products of a tile.
#pragma once
#include "../../ptx/wgmma.h"
#include "facts.h"

FB_WGMMA(bf16, 64)
FB_WGMMA(f16, 64)
FB_WGMMA(bf16, 128)
FB_WGMMA(f16, 128)

// Operands of pieces. K-major: rows are queries or tokens. Along tokens (values): `leading` leads
// from 64 columns to the next.
FB_DEVICE uint64_t row_operand(uint32_t address) {
    return wgmma_operand(address, 128, 16, 1024);
}
FB_DEVICE uint64_t value_operand(uint32_t address) {
    return wgmma_operand(address, 128, piece_bytes, 1024);
}
FB_DEVICE uint64_t operand_step(uint32_t bytes) { return bytes >> 4; }

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
