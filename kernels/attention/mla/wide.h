// Operands of turned products (turned.h) of 16 bits: all lie in shared memory.
#pragma once
#include "columns.h"

// s += keys x queries, of 16 elements.
FB_DEVICE void add_scores(float (&s)[thread_values], uint64_t keys, uint64_t queries, bool more) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<0, 0>(s, keys, queries, more);
    else wgmma_bf16<0, 0>(s, keys, queries, more);
}

// Which piece of a half the sums `i` are of: first those that a block will write.
FB_DEVICE uint32_t piece_of(int i) {
    return uint32_t(FB_SPLIT_KEYS ? i ^ (2 * int(cluster_rank())) : i);
}

// sums += values x weights, of 16 tokens and 64 elements.
FB_DEVICE void add_weighted(float (&sums)[thread_values], uint64_t values, uint64_t weights,
                            bool more) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<1, 0>(sums, values, weights, more);
    else wgmma_bf16<1, 0>(sums, values, weights, more);
}

// ---- scores

FB_DEVICE void take_queries(const Block& b, const fb_attention_record&,
                            const Turn<query_slots>& query) {
    mbarrier_wait(b.barrier(FB_AT(barriers.query_full), query.slot()), query.parity());
}

// `Steps` of 16 elements from element 16 `First` on, keys from a half or a rope piece on.
template <int First, int Steps>
FB_DEVICE void score_steps(uint32_t keys, uint32_t queries, float (&s)[thread_values]) {
    const uint64_t k = row_operand(keys);
    const uint64_t q = row_operand(queries + First / 4 * query_bytes);
    FB_UNROLL
    for (int i = 0; i < Steps; i++)
        add_scores(s, k + operand_step(i / 4 * piece_bytes + i % 4 * 32),
                   q + operand_step(i / 4 * query_bytes + i % 4 * 32), First + i > 0);
}

FB_DEVICE void score_tile(const Block& b, Ring<half_slots>& half, const Ring<rope_slots>& rope,
                          const Turn<query_slots>& query, float (&s)[thread_values]) {
    const uint32_t queries = b.shared + FB_AT(queries) + query.slot() * (key_pieces * query_bytes);
    const uint32_t left = next_half(b, half);
    wgmma_fence();
    score_steps<0, 4 * half_pieces>(left, queries, s);
    const uint32_t right = next_half(b, half);
    wgmma_fence();
    score_steps<4 * half_pieces, 4 * half_pieces>(right, queries, s);
    const uint32_t ropes = b.shared + FB_AT(ropes) + rope.slot() * piece_bytes;
    score_steps<8 * half_pieces, 4>(ropes, queries, s);
    wgmma_commit();
    wgmma_wait<0>();
}

FB_DEVICE void scale_rows(const Block&, float (&)[thread_values]) {}

// ---- values

FB_DEVICE void multiply_tile(const Block& b, uint32_t half, uint32_t turn, bool first,
                             Sums& sums) {
    const uint64_t weights = row_operand(b.shared + FB_AT(weights) + turn * query_bytes);
    const uint64_t values =
        value_operand(b.shared + FB_AT(halves) + half * (half_pieces * piece_bytes));
    wgmma_fence();
    FB_UNROLL
    for (int c = 0; c < half_pieces; c++) {
        FB_UNROLL
        for (int k = 0; k < 4; k++)
            add_weighted(sums[c], values + operand_step(piece_of(c) * piece_bytes + k * 2048),
                         weights + operand_step(k * 32), k > 0 || !first);
    }
    wgmma_commit();
    wgmma_wait<0>();
}

// Of two rows elements `at` + lane / 4 + 8 h, as x[h][row].
FB_DEVICE void write_elements(const Target (&two)[2], bool partial, int at,
                              const float (&x)[2][2]) {
    const int own = own_row();
    const bool odd = own % 2;
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int element = at + 8 * h + own;
        if (partial || FB_OUT_TYPE == FB_F32) {
            FB_UNROLL
            for (int e = 0; e < 2; e++)
                if (two[e].values != 0)
                    reinterpret_cast<float*>(two[e].values)[element] = x[h][e];
        } else { // neighbours exchange: each has two elements of one row
            const float taken = __shfl_xor_sync(~0u, odd ? x[h][0] : x[h][1], 4);
            const uint64_t to = odd ? two[1].values : two[0].values;
            auto* pair = reinterpret_cast<uint8_t*>(to) + (element - odd) * out_element;
            if (to != 0) store_out_pair(pair, odd ? taken : x[h][0], odd ? x[h][1] : taken);
        }
    }
}
