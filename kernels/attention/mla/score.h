// The warpgroup that scores: S = Q K^T and the softmax of every tile. Weights and the factors of
// older sums go to the others through shared memory.
#pragma once
#include "../../ptx/ldmatrix.h"
#include "../../ptx/pdl.h"
#include "../../ptx/stmatrix.h"
#include "memory.h"
#include "rows.h"

// ---- queries

// Where a thread's row of a warp's four 16 x 16 matrices begins in a piece: their chunks are two
// further each, under the swizzle.
FB_DEVICE uint32_t matrix_row() {
    const int lane = int(threadIdx.x % 32);
    const int row = int(threadIdx.x) % 128 / 32 * 16 + lane % 16;
    return row * 128 + ((lane / 16 ^ (row & 7)) << 4);
}

// Pieces [first, first + 4) of the queries kept, from a half, as operand a of each 16 elements.
template <int First>
FB_DEVICE void keep_queries(const Block& b, uint32_t own_row, Ring<half_slots>& half,
                            uint32_t (&q)[kept_pieces][4][4]) {
    mbarrier_wait(b.barrier(FB_AT(barriers.half_full), half.slot()), half.parity());
    const uint32_t from = b.shared + FB_AT(halves) + half.slot() * (half_pieces * piece_bytes);
    FB_UNROLL
    for (int c = First; c < kept_pieces && c < First + half_pieces; c++) {
        FB_UNROLL
        for (int k = 0; k < 4; k++)
            ldmatrix_x4(q[c][k], from + (c - First) * piece_bytes + (own_row ^ k << 5));
    }
    // Without the fence the arrival overtakes the loads, and the next tile lands in the queries.
    fence_proxy_async_shared();
    __syncwarp();
    if (lane_now() == 0) release(b.barrier(FB_AT(barriers.half_empty), half.slot()));
    half.advance();
}

// ---- softmax

// What a thread's weights of a tile and row may add up to: then f16 holds them, too.
constexpr float most_weight = 256;

// Of a thread's rows lane / 4 and lane / 4 + 8 of its warp's 16.
struct ScoreRows {
    float base[2]; // of exponents, in base 2
    float sum[2];  // of this thread's keys
};

// Tiles of a record that all rows see whole.
struct FullTiles {
    int first;
    int end;
    FB_DEVICE bool has(int tile) const { return tile >= first && tile < end; }
};

FB_DEVICE FullTiles full_tiles(const fb_attention_record& r) {
    return {(r.full_start - r.kv_start + FB_KV_TILE - 1) / FB_KV_TILE,
            (r.full_end - r.kv_start) / FB_KV_TILE};
}

FB_DEVICE void hide_tokens(const Block& b, const fb_attention_record& r, uint32_t slot,
                           int32_t token, float (&s)[32]) {
    const int32_t* last = b.memory.last_seen[slot] + thread_now() % 128 / 32 * 16 + own_row();
    uint32_t hidden[2] = {0, 0}; // a bit for each of the thread's tokens
    FB_NO_UNROLL // little code for few tiles: the others jump across it
    for (int i = 0; i < 16; i++) {
        const int32_t kept = token + i / 2 * 8 + own_key() + i % 2;
        int32_t position = past_end;
        if (kept < r.kv_end)
            position = r.position_start + logical_token(b.p, r, b.memory.by_page, kept);
        for (int h = 0; h < 2; h++) hidden[h] |= uint32_t(position > last[8 * h]) << i;
    }
    FB_UNROLL
    for (int j = 0; j < 32; j++)
        if (hidden[j / 2 % 2] >> (j / 4 * 2 + j % 2) & 1) s[j] = -FB_INFINITY;
}

// The weights of a tile relative to the rows' bases, as operand a; their sums.
FB_DEVICE void exponentiate(float factor, const ScoreRows& rows, const float (&s)[32],
                            uint32_t (&weights)[16], float (&sum)[2]) {
    sum[0] = sum[1] = 0;
    FB_UNROLL
    for (int j = 0; j < 32; j += 2) {
        const int h = j / 2 % 2;
        const float x = exp2_approx(fmaf(s[j], factor, -rows.base[h]));
        const float y = exp2_approx(fmaf(s[j + 1], factor, -rows.base[h]));
        sum[h] += x + y;
        weights[j / 2] = pack_pair<FB_Q_TYPE>(x, y);
    }
}

// Moves the bases of rows whose weights grew too large to their scores' maxima. A row's base
// follows from its own scores alone.
FB_DEVICE void raise_bases(float factor, const float (&s)[32], const float (&sum)[2],
                           ScoreRows& rows, float (&alpha)[2]) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const bool grows = quad_max(sum[h] <= most_weight ? 0 : 1) > 0;
        float top = s[2 * h];
        FB_UNROLL
        for (int j = 0; j < 32; j += 4) top = fmaxf(top, fmaxf(s[j + 2 * h], s[j + 2 * h + 1]));
        top = fmaxf(rows.base[h], quad_max(top) * factor);
        alpha[h] = grows ? exp2_approx(rows.base[h] - top) : 1;
        if (grows) rows.base[h] = top;
        rows.sum[h] *= alpha[h];
    }
}

// ---- handing over

FB_DEVICE void store_weights(const Block& b, const Turn<weight_slots>& turn, uint32_t own_row,
                             const uint32_t (&weights)[16], const float (&alpha)[2]) {
    mbarrier_wait(b.barrier(FB_AT(barriers.weights_empty), turn.slot()), turn.parity() ^ 1);
    const uint32_t piece = b.shared + FB_AT(weights) + turn.slot() * piece_bytes;
    FB_UNROLL
    for (int k = 0; k < 4; k++) {
        const uint32_t four[4] = {weights[4 * k], weights[4 * k + 1], weights[4 * k + 2],
                                  weights[4 * k + 3]};
        stmatrix_x4(piece + (own_row ^ k << 5), four);
    }
    if (threadIdx.x % 4 == 0)
        b.memory.factors[turn.slot()][threadIdx.x % 128 / 4] = make_float2(alpha[0], alpha[1]);
    fence_proxy_async_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(b.barrier(FB_AT(barriers.weights_full), turn.slot()));
}

// The record's keys are done: where its rows go, their log-sum-exp.
FB_DEVICE void store_targets(const Block& b, const fb_attention_record& r, uint32_t parity,
                             const ScoreRows& rows) {
    mbarrier_wait(b.barrier(FB_AT(barriers.target_empty)), parity ^ 1);
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = thread_now() % 128 / 32 * 16 + own_row() + 8 * h;
        const float sum = quad_sum(rows.sum[h]);
        const bool writes = lane_now() % 4 == 0;
        const Target target = target_of(b.p, r, row, rows.base[h], sum, writes);
        if (writes) b.memory.targets[row] = target;
    }
    __syncwarp();
    if (lane_now() == 0) mbarrier_arrive(b.barrier(FB_AT(barriers.target_full)));
}

// ---- the warpgroup

FB_DEVICE void score(const Block& b) {
    Ring<half_slots> half;
    Ring<rope_slots> rope;
    Turn<weight_slots> turn;
    Turn<work_slots> works;
    Turn<1> query;
    float s[32];
    uint32_t q[kept_pieces][4][4];
    const uint64_t keys = row_operand(b.shared);
    const uint32_t own_row = matrix_row();
    const bool leads = threadIdx.x % 32 == 0; // its warp, at barriers
    const auto half_operand = [&] {
        return keys + operand_step(FB_AT(halves) + half.slot() * (half_pieces * piece_bytes));
    };
    // The next scores in 36 steps of 16 elements, the first of them ahead of the others.
    const auto begin_scores = [&] {
        mbarrier_wait(b.barrier(FB_AT(barriers.half_full), half.slot()), half.parity());
        wgmma_fence();
        const uint64_t k = half_operand();
        FB_UNROLL
        for (int i = 0; i < early_steps; i++)
            add_scores(s, q[i / 4][i % 4], k + operand_step(i / 4 * piece_bytes + i % 4 * 32),
                       i > 0);
    };
    const auto end_scores = [&] {
        wgmma_fence();
        uint64_t k = half_operand();
        half.advance();
        FB_UNROLL
        for (int i = early_steps; i < 4 * half_pieces; i++)
            add_scores(s, q[i / 4][i % 4], k + operand_step(i / 4 * piece_bytes + i % 4 * 32),
                       true);
        mbarrier_wait(b.barrier(FB_AT(barriers.half_full), half.slot()), half.parity());
        wgmma_fence();
        k = half_operand();
        half.advance();
        FB_UNROLL
        for (int c = half_pieces; c < key_pieces; c++) {
            if (c == 2 * half_pieces)
                k = keys + operand_step(FB_AT(ropes) + rope.slot() * piece_bytes) -
                    operand_step(half_pieces * piece_bytes);
            FB_UNROLL
            for (int i = 0; i < 4; i++) {
                const uint64_t step = k + operand_step((c - half_pieces) * piece_bytes + i * 32);
                if (c < kept_pieces) add_scores(s, q[c < kept_pieces ? c : 0][i], step, true);
                else
                    add_scores(s,
                               keys + operand_step(FB_AT(queries) +
                                                   (c - kept_pieces) * piece_bytes + i * 32),
                               step, true);
            }
        }
        wgmma_commit();
        wgmma_wait<0>();
    };
    pdl_wait();
    FB_NO_UNROLL
    for (;; works.advance()) {
        const MlaWork& work = wait_work(b, works);
        if (work.ends()) return;
        const fb_attention_record& r = work.record;
        const int tiles = work.tiles();
        mbarrier_wait(b.barrier(FB_AT(barriers.rows_full), works.slot()), works.parity());
        ScoreRows rows = {{no_base, no_base}, {0, 0}};
        if (tiles > 0) {
            const float signed_factor = score_factor(b.p, r);
            const float factor = base_2_factor(signed_factor);
            const FullTiles full = full_tiles(r);
            keep_queries<0>(b, own_row, half, q);
            keep_queries<half_pieces>(b, own_row, half, q);
            mbarrier_wait(b.barrier(FB_AT(barriers.query_full)), query.parity());
            query.advance();
            begin_scores();
            FB_NO_UNROLL
            for (int tile = 0;; tile++) {
                end_scores();
                const bool last = tile == tiles - 1;
                if (leads) {
                    if (tile > 0) mbarrier_arrive(b.barrier(FB_AT(barriers.go), turn.slot() ^ 1));
                    release(b.barrier(FB_AT(barriers.rope_empty), rope.slot()));
                    if (last) mbarrier_arrive(b.barrier(FB_AT(barriers.query_empty)));
                }
                rope.advance();
                if (!(signed_factor > 0)) {
                    const float sign = factor_sign(signed_factor);
                    FB_UNROLL
                    for (int j = 0; j < 32; j++) s[j] *= sign;
                }
                if (!full.has(tile))
                    hide_tokens(b, r, works.slot(), r.kv_start + tile * FB_KV_TILE, s);
                float alpha[2] = {1, 1};
                float sum[2];
                uint32_t weights[16];
                FB_NO_UNROLL
                for (bool raised = false;; raised = true) {
                    exponentiate(factor, rows, s, weights, sum);
                    const bool fits = sum[0] <= most_weight && sum[1] <= most_weight;
                    if (raised || __all_sync(~0u, fits)) break;
                    raise_bases(factor, s, sum, rows, alpha);
                }
                rows.sum[0] += sum[0];
                rows.sum[1] += sum[1];
                if (last) {
                    store_weights(b, turn, own_row, weights, alpha);
                    if (leads) mbarrier_arrive(b.barrier(FB_AT(barriers.go), turn.slot()));
                    turn.advance();
                    break;
                }
                // The next scores begin before the weights are stored, unless their keys are still
                // on the way.
                const uint32_t next = b.barrier(FB_AT(barriers.half_full), half.slot());
                const bool there = __all_sync(~0u, mbarrier_test_wait(next, half.parity()));
                if (!there) store_weights(b, turn, own_row, weights, alpha);
                begin_scores();
                if (there) store_weights(b, turn, own_row, weights, alpha);
                turn.advance();
            }
        }
        store_targets(b, r, works.count % 2, rows);
        if (lane_now() == 0) release_work(b, works.slot());
    }
}
