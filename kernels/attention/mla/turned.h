// Records of 16 or 32 rows, with both products turned around: S^T = K Q^T and O^T = V^T P^T. Rows
// of the products are tokens and value elements, of which there are enough for 64, and a tile costs
// what its rows do. Everything else is as in score.h and sums.h, except that the warps which score
// hold some tokens of each row and agree on its base, and that both halves of the values are
// multiplied as soon as the weights are there.
//
// A thread holds, of every 8 rows (j), rows 8 j + 2 (lane % 4) + e of tokens, or value elements,
// lane / 4 + 8 h of its warp's 16, as s[4 j + 2 h + e].
#pragma once
#include "../../ptx/pdl.h"
#include "../../ptx/stmatrix.h"
#include "memory.h"
#include "products.h"

FB_WGMMA(bf16, FB_QUERY_TILE)
FB_WGMMA(f16, FB_QUERY_TILE)

// Values of a thread for 64 tokens, and rows that they belong to.
constexpr int thread_values = FB_QUERY_TILE / 2;
constexpr int thread_rows = FB_QUERY_TILE / 4;

// Row `i` of a thread's.
FB_DEVICE int own_row_of(int i) { return i / 2 * 8 + own_key() + i % 2; }

// ---- products

// s += keys x queries, of 16 elements.
FB_DEVICE void add_scores(float (&s)[thread_values], uint64_t keys, uint64_t queries, bool more) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<0, 0>(s, keys, queries, more);
    else wgmma_bf16<0, 0>(s, keys, queries, more);
}

// sums += values x weights, of 16 tokens and 64 elements.
FB_DEVICE void add_weighted(float (&sums)[thread_values], uint64_t values, uint64_t weights,
                            bool more) {
    if constexpr (FB_Q_TYPE == FB_F16) wgmma_f16<1, 0>(sums, values, weights, more);
    else wgmma_bf16<1, 0>(sums, values, weights, more);
}

// ---- softmax

// What a thread's weights of a tile and row may add up to: then f16 holds them, too.
constexpr float most_weight = 256;

struct ScoreRows {
    float base[thread_rows]; // of exponents, in base 2; of one row all threads have the same
    float sum[thread_rows];  // of this thread's tokens
};

FB_DEVICE bool is_full(const fb_attention_record& r, int tile) {
    const int32_t start = r.kv_start + tile * FB_KV_TILE;
    return start >= r.full_start && start + FB_KV_TILE <= r.full_end;
}

FB_DEVICE void hide_tokens(const Block& b, const fb_attention_record& r, uint32_t slot,
                           int32_t token, float (&s)[thread_values]) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t kept = token + thread_now() % 128 / 32 * 16 + own_row() + 8 * h;
        // Without a branch, which lanes could take apart: products then read their operands' places
        // from registers of each lane.
        int32_t position =
            r.position_start + logical_token(b.p, r, b.memory.by_page, min(kept, r.kv_end - 1));
        if (kept >= r.kv_end) position = past_end;
        FB_UNROLL
        for (int i = 0; i < thread_rows; i++)
            if (position > b.memory.last_seen[slot][own_row_of(i)])
                s[i / 2 * 4 + 2 * h + i % 2] = -FB_INFINITY;
    }
}

// Scales of a thread's two tokens: those of the next tile are looked up before the products of this
// one, and asked for after them.
struct TokenScales {
    KeyPlace place[2];
    float k[2];
    float v[2];
};

// Past the last token it serves again, without a branch: see hide_tokens().
FB_DEVICE void find_tokens(const Block& b, const fb_attention_record& r, int32_t token,
                           TokenScales& scales) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t kept = token + thread_now() % 128 / 32 * 16 + own_row() + 8 * h;
        if (FB_K_TOKEN_SCALE || FB_V_TOKEN_SCALE)
            scales.place[h] = place_of(b, r, min(kept, r.kv_end - 1));
    }
}

// 1 where a scale is not by token.
FB_DEVICE float token_scale(const fb_scale& s, const fb_attention_record& r,
                            const KeyPlace& place) {
    if (!by_token(s)) return 1;
    const int64_t at = r.request * s.stride_request + r.kv_head * s.stride_head +
                       place.page * s.stride_page + place.row * s.stride_token;
    return reinterpret_cast<const float*>(s.data)[at];
}

FB_DEVICE void load_scales(const Block& b, const fb_attention_record& r, TokenScales& scales) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        if (FB_K_TOKEN_SCALE) scales.k[h] = token_scale(b.p.k_scale, r, scales.place[h]);
        if (FB_V_TOKEN_SCALE) scales.v[h] = token_scale(b.p.v_scale, r, scales.place[h]);
    }
}

// The weights of a tile relative to the rows' bases, and their sums.
FB_DEVICE void exponentiate(float factor, const ScoreRows& rows, const float (&s)[thread_values],
                            const TokenScales& scales, uint32_t (&weights)[thread_rows],
                            float (&sum)[thread_rows]) {
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) sum[i] = 0;
    FB_UNROLL
    for (int k = 0; k < thread_rows; k++) { // two rows of a token
        const int i = k / 2 * 2;
        const float x = exp2_approx(fmaf(s[2 * k], factor, -rows.base[i]));
        const float y = exp2_approx(fmaf(s[2 * k + 1], factor, -rows.base[i + 1]));
        sum[i] += x;
        sum[i + 1] += y;
        const float scale = FB_V_TOKEN_SCALE ? scales.v[k % 2] : 1;
        weights[k] = pack_pair<FB_Q_TYPE>(x * scale, y * scale);
    }
}

// Of the lanes that hold the same rows.
FB_DEVICE float lanes_max(float x) {
    FB_UNROLL
    for (int distance = 4; distance < 32; distance *= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}
FB_DEVICE float lanes_sum(float x) {
    FB_UNROLL
    for (int distance = 4; distance < 32; distance *= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

FB_DEVICE int score_warp() { return int(threadIdx.x) % 128 / 32; }

// Whether all weights of a tile are small enough, by all warps.
FB_DEVICE bool all_fit(const Block& b, uint32_t slot, const float (&sum)[thread_rows]) {
    bool fits = true;
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) fits &= sum[i] <= most_weight;
    fits = __all_sync(~0u, fits);
    int32_t(&votes)[score_warps] = b.memory.exchange.votes[slot];
    if (lane_now() == 0) votes[score_warp()] = !fits;
    barrier_sync(score_barrier, 128);
    return (votes[0] | votes[1] | votes[2] | votes[3]) == 0;
}

// Moves the bases of rows whose weights grew too large to their scores' maxima.
FB_DEVICE void raise_bases(const Block& b, float factor, const float (&s)[thread_values],
                           const float (&sum)[thread_rows], ScoreRows& rows,
                           float (&alpha)[thread_rows]) {
    float2(&peaks)[score_warps][FB_QUERY_TILE] = b.memory.exchange.peaks;
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) {
        const float grows = lanes_max(sum[i] <= most_weight ? 0 : 1);
        const float top = lanes_max(fmaxf(s[i / 2 * 4 + i % 2], s[i / 2 * 4 + i % 2 + 2]));
        if (lane_now() < 4) peaks[score_warp()][own_row_of(i)] = make_float2(grows, top);
    }
    barrier_sync(score_barrier, 128);
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) {
        float grows = 0;
        float top = -FB_INFINITY;
        FB_UNROLL
        for (int w = 0; w < score_warps; w++) {
            const float2 peak = peaks[w][own_row_of(i)];
            grows = fmaxf(grows, peak.x);
            top = fmaxf(top, peak.y);
        }
        top = fmaxf(rows.base[i], top * factor);
        alpha[i] = grows > 0 ? exp2_approx(rows.base[i] - top) : 1;
        if (grows > 0) rows.base[i] = top;
        rows.sum[i] *= alpha[i];
    }
}

// ---- handing over

// Where a lane's row of a warp's 16 tokens and 16 rows lies among the weights, [row, token].
FB_DEVICE uint32_t weight_row() {
    const int lane = int(threadIdx.x % 32);
    const int row = lane / 16 * 8 + lane % 8;
    const int chunk = 2 * score_warp() + lane / 8 % 2;
    return row * 128 + ((chunk ^ (row & 7)) << 4);
}

FB_DEVICE void store_weights(const Block& b, const Turn<weight_slots>& turn, uint32_t own_row,
                             const uint32_t (&weights)[thread_rows],
                             const float (&alpha)[thread_rows]) {
    mbarrier_wait(b.barrier(FB_AT(barriers.weights_empty), turn.slot()), turn.parity() ^ 1);
    const uint32_t to = b.shared + FB_AT(weights) + turn.slot() * query_bytes + own_row;
    FB_UNROLL
    for (int k = 0; k < thread_rows; k += 4) {
        const uint32_t four[4] = {weights[k], weights[k + 1], weights[k + 2], weights[k + 3]};
        stmatrix_x4_trans(to + k / 4 * 2048, four);
    }
    if (threadIdx.x % 128 < 4) {
        FB_UNROLL
        for (int i = 0; i < thread_rows; i += 2)
            b.memory.factors[turn.slot()][own_row_of(i) / 2] = make_float2(alpha[i], alpha[i + 1]);
    }
    fence_proxy_async_shared();
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        mbarrier_arrive(b.barrier(FB_AT(barriers.weights_full), turn.slot()));
}

// The record's keys are done: where its rows go, their log-sum-exp.
FB_DEVICE void store_targets(const Block& b, const fb_attention_record& r, uint32_t parity,
                             const ScoreRows& rows) {
    float2(&states)[score_warps][FB_QUERY_TILE] = b.memory.exchange.states;
    mbarrier_wait(b.barrier(FB_AT(barriers.target_empty)), parity ^ 1);
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) {
        const float sum = lanes_sum(rows.sum[i]);
        if (lane_now() < 4) states[score_warp()][own_row_of(i)] = make_float2(rows.base[i], sum);
    }
    barrier_sync(score_barrier, 128);
    const int row = int(threadIdx.x) % 128;
    if (row < FB_QUERY_TILE) {
        float sum = 0;
        FB_UNROLL
        for (int w = 0; w < score_warps; w++) sum += states[w][row].y;
        b.memory.targets[row] = target_of(b.p, r, row, states[0][row].x, sum, true);
    }
    __syncwarp();
    if (lane_now() == 0) mbarrier_arrive(b.barrier(FB_AT(barriers.target_full)));
}

// ---- the warpgroup that scores

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

FB_DEVICE void score(const Block& b) {
    Ring<half_slots> half;
    Ring<rope_slots> rope;
    Turn<weight_slots> turn;
    Turn<work_slots> works;
    Turn<query_slots> query;
    float s[thread_values];
    const uint32_t own_row = weight_row();
    const bool leads = threadIdx.x % 32 == 0; // its warp, at barriers
    const auto next_half = [&] {              // there, when it returns
        mbarrier_wait(b.barrier(FB_AT(barriers.half_full), half.slot()), half.parity());
        const uint32_t at = FB_AT(halves) + half.slot() * (half_pieces * piece_bytes);
        half.advance();
        return b.shared + at;
    };
    pdl_wait();
    FB_NO_UNROLL
    for (;; works.advance()) {
        const MlaWork& work = wait_work(b, works);
        if (work.ends()) return;
        const fb_attention_record& r = work.record;
        const int tiles = work.tiles();
        mbarrier_wait(b.barrier(FB_AT(barriers.rows_full), works.slot()), works.parity());
        ScoreRows rows;
        FB_UNROLL
        for (int i = 0; i < thread_rows; i++) {
            rows.base[i] = no_base;
            rows.sum[i] = 0;
        }
        const float signed_factor = score_factor(b.p, r);
        // Above 0, since 0 must not meet the -inf of hidden keys.
        const float factor = fmaxf(fabsf(signed_factor), 1e-30f);
        const uint32_t queries =
            b.shared + FB_AT(queries) + query.slot() * (key_pieces * query_bytes);
        TokenScales scales;
        TokenScales next;
        if (tiles > 0) {
            find_tokens(b, r, r.kv_start, next);
            load_scales(b, r, next);
        }
        FB_NO_UNROLL
        for (int tile = 0; tile < tiles; tile++) {
            scales = next;
            find_tokens(b, r, r.kv_start + (tile + 1) * FB_KV_TILE, next);
            const uint32_t left = next_half();
            if (tile == 0)
                mbarrier_wait(b.barrier(FB_AT(barriers.query_full), query.slot()), query.parity());
            wgmma_fence();
            score_steps<0, 4 * half_pieces>(left, queries, s);
            const uint32_t right = next_half();
            wgmma_fence();
            score_steps<4 * half_pieces, 4 * half_pieces>(right, queries, s);
            const uint32_t ropes = b.shared + FB_AT(ropes) + rope.slot() * piece_bytes;
            score_steps<8 * half_pieces, 4>(ropes, queries, s);
            wgmma_commit();
            wgmma_wait<0>();
            if (leads) {
                release(b.barrier(FB_AT(barriers.rope_empty), rope.slot()));
                if (tile == tiles - 1)
                    mbarrier_arrive(b.barrier(FB_AT(barriers.query_empty), query.slot()));
            }
            rope.advance();
            load_scales(b, r, next);
            if (FB_K_TOKEN_SCALE) {
                FB_UNROLL
                for (int i = 0; i < thread_values; i++) s[i] *= scales.k[i / 2 % 2];
            }
            if (!(signed_factor > 0)) {
                const float sign = factor_sign(signed_factor);
                FB_UNROLL
                for (int i = 0; i < thread_values; i++) s[i] *= sign;
            }
            if (!is_full(r, tile))
                hide_tokens(b, r, works.slot(), r.kv_start + tile * FB_KV_TILE, s);
            float alpha[thread_rows];
            float sum[thread_rows];
            uint32_t weights[thread_rows];
            FB_UNROLL
            for (int i = 0; i < thread_rows; i++) alpha[i] = 1;
            exponentiate(factor, rows, s, scales, weights, sum);
            if (!all_fit(b, turn.slot(), sum)) {
                raise_bases(b, factor, s, sum, rows, alpha);
                exponentiate(factor, rows, s, scales, weights, sum);
            }
            FB_UNROLL
            for (int i = 0; i < thread_rows; i++) rows.sum[i] += sum[i];
            store_weights(b, turn, own_row, weights, alpha);
            turn.advance();
        }
        if (tiles > 0) query.advance();
        store_targets(b, r, works.count % 2, rows);
        if (lane_now() == 0) release_work(b, works.slot());
    }
}

// ---- the two warpgroups that multiply values: four times 64 elements each

using Sums = float[half_pieces][thread_values];

FB_DEVICE void shrink(const Block& b, uint32_t slot, Sums& sums) {
    float2 factors[thread_rows / 2];
    bool all = true;
    FB_UNROLL
    for (int j = 0; j < thread_rows / 2; j++) {
        factors[j] = b.memory.factors[slot][own_row_of(2 * j) / 2];
        all &= factors[j].x == 1 && factors[j].y == 1;
    }
    if (__all_sync(~0u, all)) return;
    FB_UNROLL
    for (int c = 0; c < half_pieces; c++) {
        FB_UNROLL
        for (int i = 0; i < thread_values; i++)
            sums[c][i] *= i % 2 == 0 ? factors[i / 4].x : factors[i / 4].y;
    }
}

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
            add_weighted(sums[c], values + operand_step(c * piece_bytes + k * 2048),
                         weights + operand_step(k * 32), k > 0 || !first);
    }
    wgmma_commit();
    wgmma_wait<0>();
}

FB_DEVICE void write_sums(const Block& b, const fb_attention_record& r, int group,
                          const Sums& sums) {
    const bool partial = r.partial_row >= 0;
    uint32_t wrong = 0; // a bit for each of the thread's rows
    const int own = own_row(); // element
    const int first = group * (FB_VALUE_DIM / 2) + thread_now() % 128 / 32 * 16;
    FB_UNROLL
    for (int j = 0; j < thread_rows / 2; j++) {
        Target two[2] = {b.memory.targets[own_row_of(2 * j)],
                         b.memory.targets[own_row_of(2 * j + 1)]};
        FB_UNROLL
        for (int e = 0; e < 2; e++) {
            float total = 0;
            FB_UNROLL
            for (int i = 0; i < 2 * half_pieces; i++) total += sums[i / 2][4 * j + i % 2 * 2 + e];
            if (lanes_max(two[e].wrong(total) ? 1 : 0) == 0) continue;
            wrong |= 1u << (2 * j + e);
            two[e].values = 0;
        }
        FB_UNROLL
        for (int c = 0; c < half_pieces; c++) {
            FB_UNROLL
            for (int h = 0; h < 2; h++) {
                float x[2];
                FB_UNROLL
                for (int e = 0; e < 2; e++) x[e] = two[e].of(sums[c][4 * j + 2 * h + e]);
                const int at = first + c * 64 + 8 * h;
                if (partial || FB_OUT_TYPE == FB_F32) {
                    FB_UNROLL
                    for (int e = 0; e < 2; e++)
                        if (two[e].values != 0)
                            reinterpret_cast<float*>(two[e].values)[at + own] = x[e];
                } else { // neighbours exchange: each has two elements of one row
                    const bool odd = own % 2;
                    const float taken = __shfl_xor_sync(~0u, odd ? x[0] : x[1], 4);
                    const uint64_t to = odd ? two[1].values : two[0].values;
                    auto* pair = reinterpret_cast<uint8_t*>(to) + (at + own - odd) * out_element;
                    if (to != 0) store_out_pair(pair, odd ? taken : x[0], odd ? x[1] : taken);
                }
            }
        }
    }
    // Of each piece the warp has 16 elements.
    attend_wrong<thread_rows>(b.p, r, b.memory.by_page, wrong, {first, 2 * half_pieces, 64},
                              group == 0 && thread_now() % 128 < 32,
                              [](int i) { return own_row_of(i); });
}
