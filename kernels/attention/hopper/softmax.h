// Scores in a warpgroup's accumulators become probabilities. Of every 8 columns j a thread holds
// rows lane / 4 and lane / 4 + 8 (h) of its warp's 16, columns 2 (lane % 4) + e: s[4 j + 2 h + e].
#pragma once
#include "facts.h"

using Scores = float[FB_KV_TILE / 2];
using Sums = float[own_columns / 2];

// Those of one product.
constexpr int sum_columns = FB_SUM_COLUMNS;
constexpr int sum_parts = own_columns / sum_columns;
constexpr int sum_part_bytes = sum_columns / panel_columns * tile_panel; // of values
static_assert(own_columns % sum_columns == 0, "whole products");
using SumPart = float[sum_columns / 2];
FB_DEVICE SumPart& part_of(Sums& sums, int part) {
    return reinterpret_cast<SumPart&>(sums[part * (sum_columns / 2)]);
}

// Of a thread's two rows.
struct RowState {
    float top[2]; // the reference of exponents, as the product gave it; -inf: no key so far
    float sum[2]; // of this thread's columns
};

// The reference need not be the maximum while no probability exceeds 2^slack: a thread's sum of a
// tile, which it takes anyway, shows that none does. A key that outweighs all others by more than
// the 8 bits of bf16 resolve thus always gives the reference: its probability is 1, exactly.
//
// Probabilities of fp8 products are 2^weight_power at the first reference, so that fp8 has bits for
// small ones. It holds 448: no sum of a thread exceeds that, but in tiles whose maxima are looked
// for, where a probability is at most 2^(weight_power + growth).
constexpr float lagging_most = fp8_products ? 448 : 256;
static_assert(slack == 8, "2^slack");
constexpr float weight_power = fp8_products ? 7 : 0;
constexpr float growth = fp8_products ? 1.75f : slack;

// What takes scores to base 2, by the thread's rows; above 0.
constexpr int row_factors = scales_rows ? 2 : 1;
struct Factors {
    float of[row_factors];

    FB_DEVICE float at(int h) const { return of[scales_rows ? h : 0]; }
};

// A score of what is hidden, or a weight.
FB_DEVICE float hidden() { return Variant::softmax ? -FB_INFINITY : 0; }

// Scores hidden from the rows: those of kept tokens outside of [low, high], which count from the
// thread's first column; `both`: low hides any.
template <bool both> FB_DEVICE void hide_outside(int32_t low, int32_t high, int h, Scores& s) {
    FB_UNROLL
    for (int j = 0; j < FB_KV_TILE / 8; j++) {
        FB_UNROLL
        for (int e = 0; e < 2; e++)
            if ((both && 8 * j + e < low) || 8 * j + e > high)
                s[4 * j + 2 * h + e] = hidden();
    }
}

// `first`: the token of the tile's first column.
FB_DEVICE void hide(const TaskRows& seen, int row, int32_t first, Scores& s) {
    const int32_t own = first + lane_now() % 4 * 2;
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t low = seen.low[row + 8 * h] - own;
        const int32_t high = seen.high[row + 8 * h] - own;
        if (__any_sync(0xffffffffu, low > 0)) hide_outside<true>(low, high, h, s);
        else hide_outside<false>(low, high, h, s);
    }
}

// Returns this thread's sums. `masked`: a row may have seen no key.
template <bool masked>
FB_DEVICE float2 exponentiate(const Factors& factor, const RowState& rows, Scores& s) {
    float base[2], sum[2][2] = {};
    FB_UNROLL
    for (int h = 0; h < 2; h++)
        base[h] = (masked && rows.top[h] == -FB_INFINITY ? 0 : rows.top[h] * factor.at(h)) -
                  weight_power;
    FB_UNROLL
    for (int j = 0; j < FB_KV_TILE / 8; j++) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            FB_UNROLL
            for (int e = 0; e < 2; e++) {
                float& x = s[4 * j + 2 * h + e];
                x = exp2_approx(x * factor.at(h) - base[h]);
                sum[h][e] += x;
            }
        }
    }
    return make_float2(sum[0][0] + sum[0][1], sum[1][0] + sum[1][1]);
}

// The first tile of a task: the references are its maxima.
FB_DEVICE void softmax_first(const Factors& factor, RowState& rows, Scores& s) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        float top = fmaxf(s[2 * h], s[2 * h + 1]);
        FB_UNROLL
        for (int j = 1; j < FB_KV_TILE / 8; j++)
            top = fmaxf(top, fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
        rows.top[h] = quad_max(top);
    }
    const float2 sum = exponentiate<true>(factor, rows, s);
    rows.sum[0] = sum.x;
    rows.sum[1] = sum.y;
}

// Of fp8: where a thread's sum of a tile exceeds `lagging_most`, the reference moves by a power of
// 2, and probabilities, which f32 holds in any case, follow. Older sums are to be multiplied by
// `alpha`.
FB_DEVICE void move_references(const Factors& factor, RowState& rows, float (&sum)[2],
                               float (&alpha)[2], Scores& s) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const float most = quad_max(sum[h]);
        // An infinite one tells nothing of the scores: the row is attended again when it is stored.
        const bool moves = most > lagging_most && most < FB_INFINITY;
        const int power = moves ? (__float_as_int(most * (1 / lagging_most)) >> 23) - 126 : 0;
        const float before = rows.top[h] * factor.at(h);
        // No division: its rare branches would cost the loop its uniform registers.
        rows.top[h] += float(power) * rcp_approx(factor.at(h));
        alpha[h] = moves ? exp2_approx(before - rows.top[h] * factor.at(h)) : 1;
        sum[h] *= alpha[h];
        rows.sum[h] *= alpha[h];
    }
    FB_UNROLL
    for (int i = 0; i < FB_KV_TILE / 2; i++) s[i] *= alpha[i / 2 % 2];
}

// A later tile. Where a row of the warp outgrows its reference by `growth`, references move to the
// maxima; then (and only then) older sums must be multiplied by `alpha`.
template <bool masked>
FB_DEVICE bool softmax_exact(const Factors& factor, RowState& rows, float (&alpha)[2],
                             Scores& s) {
    float top[2];
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        top[h] = fmaxf(s[2 * h], s[2 * h + 1]);
        FB_UNROLL
        for (int j = 1; j < FB_KV_TILE / 8; j++)
            top[h] = fmaxf(top[h], fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
    }
    bool grows[2];
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        if (FB_INVARIANT) top[h] = quad_max(top[h]);
        grows[h] = top[h] > rows.top[h] + growth / factor.at(h);
    }
    const bool moves = __any_sync(0xffffffffu, grows[0] || grows[1]);
    if (moves) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            alpha[h] = 1;
            if (!FB_INVARIANT) top[h] = quad_max(top[h]);
            else if (!grows[h]) continue; // whatever its neighbours do
            const float now = fmaxf(top[h], rows.top[h]);
            const float base = masked && now == -FB_INFINITY ? 0 : now * factor.at(h);
            alpha[h] = exp2_approx(rows.top[h] * factor.at(h) - base);
            rows.sum[h] *= alpha[h];
            rows.top[h] = now;
        }
    }
    const float2 sum = exponentiate<masked>(factor, rows, s);
    rows.sum[0] += sum.x;
    rows.sum[1] += sum.y;
    return moves;
}
