// Both products turned around: S^T = K Q^T and O^T = V^T P^T. Rows of the products are tokens and
// value elements, of which there are enough for 64, and a tile costs what its rows do. Everything
// else is as in score.h and sums.h, except that the warps which score hold some tokens of each row
// and agree on its base. Where operands come from is in wide.h, of keys of 8 bits in bytes.h.
//
// A thread holds, of every 8 rows (j), rows 8 j + 2 (lane % 4) + e of tokens, or value elements,
// lane / 4 + 8 h of its warp's 16, as s[4 j + 2 h + e]; in bytes.h elements 2 (lane / 4) + h.
#pragma once
#include "../../ptx/pdl.h"
#include "../../ptx/stmatrix.h"
#include "share.h"

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
// one, and asked for after them. Of a value's scale the power of two goes into the scores, so that
// weights times values are what bases keep in f16's range; sums of weights are without it.
struct TokenScales {
    KeyPlace place[2];
    float k[2];
    float power[2];  // of two, as scores have it
    float rest[2];   // the value's scale without it: a sign and 1 to 2, if it is not out of range
    float weight[2]; // what a weight has of the sum
};

// Past the last token it serves again, without a branch: see hide_tokens().
FB_DEVICE void find_tokens(const Block& b, const fb_attention_record& r, int32_t token,
                           TokenScales& scales) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t kept = token + thread_now() % 128 / 32 * 16 + own_row() + 8 * h;
        if (token_scales)
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

// `unit` is a power of 1 in scores.
FB_DEVICE void load_scales(const Block& b, const fb_attention_record& r, float sign, float unit,
                           TokenScales& scales) {
    FB_UNROLL
    for (int h = 0; h < 2 && token_scales; h++) {
        scales.k[h] = sign * token_scale(b.p.k_scale, r, scales.place[h]);
        const float v = token_scale(b.p.v_scale, r, scales.place[h]);
        const int power = max(-100, min(120, int(__float_as_uint(v) >> 23 & 255) - 127));
        scales.power[h] = float(power) * unit;
        scales.weight[h] = __uint_as_float(uint32_t(127 - power) << 23);
        scales.rest[h] = v * scales.weight[h];
    }
}

FB_DEVICE float weight_of(float factor, float s, float base) {
    return exp2_approx(fmaf(s, factor, -base));
}

// The weights of a tile relative to the rows' bases, and their sums; whether they are small enough.
FB_DEVICE bool exponentiate(float factor, const ScoreRows& rows, const float (&s)[thread_values],
                            const TokenScales& scales, uint32_t (&weights)[thread_rows],
                            float (&sum)[thread_rows]) {
    bool fits = true;
    FB_UNROLL
    for (int i = 0; i < thread_rows; i += 2) { // two rows, of two tokens
        float x[2][2];
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            FB_UNROLL
            for (int e = 0; e < 2; e++)
                x[h][e] = weight_of(factor, s[2 * i + 2 * h + e], rows.base[i + e]);
            const float rest = token_scales ? scales.rest[h] : 1;
            weights[i + h] = pack_pair<weight_type>(x[h][0] * rest, x[h][1] * rest);
        }
        FB_UNROLL
        for (int e = 0; e < 2; e++) {
            fits &= x[0][e] + x[1][e] <= most_weight;
            sum[i + e] = token_scales ? x[0][e] * scales.weight[0] + x[1][e] * scales.weight[1]
                                      : x[0][e] + x[1][e];
        }
    }
    return fits;
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

// Whether all weights of a tile are small enough, by all warps.
FB_DEVICE bool all_fit(const Block& b, uint32_t slot, bool fits) {
    fits = __all_sync(~0u, fits);
    int32_t(&votes)[score_warps] = b.memory.exchange.votes[slot];
    if (lane_now() == 0) votes[score_warp()] = !fits;
    barrier_sync(score_barrier, 128);
    return (votes[0] | votes[1] | votes[2] | votes[3]) == 0;
}

// Moves the bases of rows whose weights grew too large to their scores' maxima. Registers are too
// few to hold factors of older sums: they are stored at once.
FB_DEVICE void raise_bases(const Block& b, float factor, const float (&s)[thread_values],
                           const Turn<weight_slots>& turn, ScoreRows& rows) {
    float2(&peaks)[score_warps][FB_QUERY_TILE] = b.memory.exchange.peaks;
    float* const factors = &b.memory.factors[turn.slot()][0].x;
    mbarrier_wait(b.barrier(FB_AT(barriers.weights_empty), turn.slot()), turn.parity() ^ 1);
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) {
        const float x = s[i / 2 * 4 + i % 2];
        const float y = s[i / 2 * 4 + i % 2 + 2];
        const float sum = weight_of(factor, x, rows.base[i]) + weight_of(factor, y, rows.base[i]);
        const float grows = lanes_max(sum <= most_weight ? 0 : 1);
        const float top = lanes_max(fmaxf(x, y));
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
        const float alpha = grows > 0 ? exp2_approx(rows.base[i] - top) : 1;
        if (grows > 0) rows.base[i] = top;
        rows.sum[i] *= alpha;
        if (threadIdx.x % 128 < 4) factors[own_row_of(i)] = alpha;
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
                             const uint32_t (&weights)[thread_rows], bool raised) {
    mbarrier_wait(b.barrier(FB_AT(barriers.weights_empty), turn.slot()), turn.parity() ^ 1);
    const uint32_t to = b.shared + FB_AT(weights) + turn.slot() * query_bytes + own_row;
    FB_UNROLL
    for (int k = 0; k < thread_rows; k += 4) {
        const uint32_t four[4] = {weights[k], weights[k + 1], weights[k + 2], weights[k + 3]};
        stmatrix_x4_trans(to + k / 4 * 2048, four);
    }
    if (!raised && threadIdx.x % 128 < FB_QUERY_TILE / 2)
        b.memory.factors[turn.slot()][threadIdx.x % 128] = make_float2(1, 1);
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
    const bool owns = row < FB_QUERY_TILE;
    const float base = states[0][owns ? row : 0].x;
    float sum = 0;
    FB_UNROLL
    for (int w = 0; w < score_warps; w++) sum += states[w][owns ? row : 0].y;
    if (FB_SPLIT_KEYS) {
        if (owns) send_state(b, row, base, sum);
        trade_states(b, parity);
        if (owns) b.memory.targets[row] = shared_target(b, r, row, base, sum, true);
    } else if (owns) {
        b.memory.targets[row] = target_of(b.p, r, row, base, sum, true);
    }
    __syncwarp();
    if (lane_now() == 0) mbarrier_arrive(b.barrier(FB_AT(barriers.target_full)));
}

// ---- the warpgroup that scores

FB_DEVICE void score(const Block& b) {
    Ring<half_slots> half;
    Ring<rope_slots> rope;
    Turn<weight_slots> turn;
    Turn<work_slots> works;
    Turn<query_slots> query;
    float s[thread_values];
    const uint32_t own_row = weight_row();
    const bool leads = threadIdx.x % 32 == 0; // its warp, at barriers
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
        const float sign = factor_sign(signed_factor);
        if (tiles > 0) take_queries(b, r, query);
        TokenScales scales;
        TokenScales next;
        if (tiles > 0) {
            find_tokens(b, r, r.kv_start, next);
            load_scales(b, r, sign, 1 / factor, next);
        }
        FB_NO_UNROLL
        for (int tile = 0; tile < tiles; tile++) {
            scales = next;
            find_tokens(b, r, r.kv_start + (tile + 1) * FB_KV_TILE, next);
            score_tile(b, half, rope, query, s);
            if (leads) {
                release(b.barrier(FB_AT(barriers.rope_empty), rope.slot()));
                if (tile == tiles - 1 && !eights)
                    mbarrier_arrive(b.barrier(FB_AT(barriers.query_empty), query.slot()));
                if (staggered && tile > 0)
                    mbarrier_arrive(b.barrier(FB_AT(barriers.go), turn.slot() ^ 1));
            }
            rope.advance();
            scale_rows(b, s);
            if (token_scales) {
                FB_UNROLL
                for (int i = 0; i < thread_values; i++)
                    s[i] = fmaf(s[i], scales.k[i / 2 % 2], scales.power[i / 2 % 2]);
            } else if (!(signed_factor > 0)) {
                FB_UNROLL
                for (int i = 0; i < thread_values; i++) s[i] *= sign;
            }
            load_scales(b, r, sign, 1 / factor, next); // now that registers of the last are free
            if (!is_full(r, tile))
                hide_tokens(b, r, works.slot(), r.kv_start + tile * FB_KV_TILE, s);
            float sum[thread_rows];
            uint32_t weights[thread_rows];
            const bool fits = exponentiate(factor, rows, s, scales, weights, sum);
            const bool raised = !all_fit(b, turn.slot(), fits);
            if (raised) {
                raise_bases(b, factor, s, turn, rows);
                exponentiate(factor, rows, s, scales, weights, sum);
            }
            FB_UNROLL
            for (int i = 0; i < thread_rows; i++) rows.sum[i] += sum[i];
            store_weights(b, turn, own_row, weights, raised);
            if (staggered && leads && tile == tiles - 1)
                mbarrier_arrive(b.barrier(FB_AT(barriers.go), turn.slot()));
            turn.advance();
        }
        if (tiles > 0) query.advance();
        FB_UNROLL
        for (int i = 0; i < shared_halves; i++) half.advance();
        store_targets(b, r, works.count % 2, rows);
        if (lane_now() == 0) release_work(b, works.slot());
    }
}

// ---- the two warpgroups that multiply values: four times 64 elements each

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

FB_DEVICE void write_sums(const Block& b, const fb_attention_record& r, int group,
                          const SharedEnd& end, Sums& sums) {
    if (FB_SPLIT_KEYS) share_sums(b, group, end, sums);
    const bool partial = r.partial_row >= 0;
    uint32_t wrong = 0; // a bit for each of the thread's rows
    const int first = first_column(group) + thread_now() % 128 / 32 * 16;
    FB_UNROLL
    for (int j = 0; j < thread_rows / 2; j++) {
        Target two[2] = {b.memory.targets[own_row_of(2 * j)],
                         b.memory.targets[own_row_of(2 * j + 1)]};
        FB_UNROLL
        for (int e = 0; e < 2; e++) {
            float total = 0;
            FB_UNROLL
            for (int i = 0; i < 2 * own_pieces; i++) total += sums[i / 2][4 * j + i % 2 * 2 + e];
            if (lanes_max(two[e].wrong(total) ? 1 : 0) == 0) continue;
            wrong |= 1u << (2 * j + e);
            two[e].values = 0;
        }
        FB_UNROLL
        for (int c = 0; c < own_pieces; c++) {
            float x[2][2];
            FB_UNROLL
            for (int i = 0; i < 4; i++) x[i / 2][i % 2] = two[i % 2].of(sums[c][4 * j + i]);
            write_elements(two, partial, first + c * 64, x);
        }
    }
    if (!__any_sync(~0u, wrong != 0)) return;
    // Of each piece the warp has 16 elements.
    attend_wrong<thread_rows>(b.p, whole_record(r), b.memory.by_page, wrong,
                              {first, 2 * own_pieces, 64},
                              writes_lse(group) && thread_now() % 128 < 32,
                              [](int i) { return own_row_of(i); });
    // The next product takes no older sums, but its registers: these need not be kept until then.
    FB_UNROLL
    for (int c = 0; c < own_pieces; c++) {
        FB_UNROLL
        for (int j = 0; j < thread_values; j++) sums[c][j] = 0;
    }
}
