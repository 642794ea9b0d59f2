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
// for, where a probability is at most 2^(weight_power + growth). f16 is given
// bits for small ones, too; it holds 65504.
constexpr float lagging_most = fp8_products ? 448 : values_as_f16 ? 32768 : 256;
static_assert(slack == 8, "2^slack");
constexpr float weight_power = fp8_products || values_as_f16 ? 7 : 0;
constexpr float growth = fp8_products ? 1.75f : slack;

// What takes scores to base 2, by the thread's rows; above 0.
constexpr int row_factors = scales_rows ? 2 : 1;
struct Factors {
    float of[row_factors];

    FB_DEVICE float at(int h) const { return of[scales_rows ? h : 0]; }
};

// A score of what is hidden, or a weight.
FB_DEVICE float hidden() { return Variant::softmax ? -FB_INFINITY : 0; }

// Columns that are looked at together: of many tiles the last ones are hidden from all rows. Beside
// hooks and notes there are no registers for a choice.
constexpr int part_columns = noted || FB_KV_TILE % 32 != 0 ? FB_KV_TILE : 32;

// Scores before `low` hidden, in those parts where a row asks for it.
FB_DEVICE void hide_before(const int32_t (&low)[2], Scores& s) {
    const int32_t most = max(low[0], low[1]);
    FB_UNROLL
    for (int first = 0; first < FB_KV_TILE; first += part_columns) {
        if (!__any_sync(0xffffffffu, most > first)) break;
        FB_UNROLL
        for (int j = first / 8; j < (first + part_columns) / 8; j++) {
            FB_UNROLL
            for (int i = 0; i < 4; i++)
                if (8 * j + i % 2 < low[i / 2]) s[4 * j + i] = hidden();
        }
    }
}

// Scores behind `high` hidden, in those parts before `shown` where a row asks for it.
FB_DEVICE void hide_behind(const int32_t (&high)[2], int shown, Scores& s) {
    const int32_t least = min(high[0], high[1]);
    if (!__any_sync(0xffffffffu, least < FB_KV_TILE - 7)) return;
    FB_UNROLL
    for (int first = 0; first < FB_KV_TILE; first += part_columns) {
        // A thread has two neighbours of every eight columns.
        if (first >= shown || !__any_sync(0xffffffffu, least < first + part_columns - 7)) continue;
        FB_UNROLL
        for (int j = first / 8; j < (first + part_columns) / 8; j++) {
            FB_UNROLL
            for (int i = 0; i < 4; i++)
                if (8 * j + i % 2 > high[i / 2]) s[4 * j + i] = hidden();
        }
    }
}

// Columns before the first part that no row of the warp sees any of; `most`: the last column that
// one of the thread's rows sees, from the thread's first on.
FB_DEVICE int shown_columns(int32_t most) {
    int shown = part_columns;
    FB_UNROLL
    for (int first = part_columns; first < FB_KV_TILE; first += part_columns)
        if (__any_sync(0xffffffffu, most >= first)) shown = first + part_columns;
    return shown;
}

// `first`: the token of the tile's first column. Returns the column from which on all are hidden:
// if `skips`, nothing is left to do there, and scores are as they were.
template <bool skips> FB_DEVICE int hide(const TaskRows& seen, int row, int32_t first, Scores& s) {
    const int32_t own = first + lane_now() % 4 * 2;
    const int32_t low[2] = {seen.low[row] - own, seen.low[row + 8] - own};
    const int32_t high[2] = {seen.high[row] - own, seen.high[row + 8] - own};
    hide_before(low, s);
    const int shown = skips ? shown_columns(max(high[0], high[1])) : FB_KV_TILE;
    hide_behind(high, shown, s);
    return shown;
}

// Of columns [begin, end) of a tile: scores become probabilities, of which `sum` has more then.
FB_DEVICE void exponentiate_columns(const Factors& factor, const float (&base)[2], int begin,
                                    int end, float (&sum)[2][2], Scores& s) {
    FB_UNROLL
    for (int j = begin / 8; j < end / 8; j++) {
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
}

// What is subtracted from a row's exponents. `masked`: it may have seen no key.
template <bool masked> FB_DEVICE float base_of(const Factors& factor, const RowState& rows, int h) {
    return (masked && rows.top[h] == -FB_INFINITY ? 0 : rows.top[h] * factor.at(h)) - weight_power;
}

// Returns this thread's sums.
template <bool masked>
FB_DEVICE float2 exponentiate(const Factors& factor, const RowState& rows, Scores& s) {
    const float base[2] = {base_of<masked>(factor, rows, 0), base_of<masked>(factor, rows, 1)};
    float sum[2][2] = {};
    exponentiate_columns(factor, base, 0, FB_KV_TILE, sum, s);
    return make_float2(sum[0][0] + sum[0][1], sum[1][0] + sum[1][1]);
}

// The first tile of a task, of whose columns some row of the warp sees those before `shown`: the
// references are its maxima.
FB_DEVICE void softmax_first(const Factors& factor, int shown, RowState& rows, Scores& s) {
    float top[2] = {-FB_INFINITY, -FB_INFINITY};
    FB_UNROLL
    for (int first = 0; first < FB_KV_TILE; first += part_columns) {
        if (first >= shown) continue;
        FB_UNROLL
        for (int j = first / 8; j < (first + part_columns) / 8; j++) {
            FB_UNROLL
            for (int h = 0; h < 2; h++)
                top[h] = fmaxf(top[h], fmaxf(s[4 * j + 2 * h], s[4 * j + 2 * h + 1]));
        }
    }
    FB_UNROLL
    for (int h = 0; h < 2; h++) rows.top[h] = quad_max(top[h]);
    const float base[2] = {base_of<true>(factor, rows, 0), base_of<true>(factor, rows, 1)};
    float sum[2][2] = {};
    FB_UNROLL
    for (int first = 0; first < FB_KV_TILE; first += part_columns) {
        if (first < shown) {
            exponentiate_columns(factor, base, first, first + part_columns, sum, s);
        } else {
            FB_UNROLL
            for (int i = first / 2; i < (first + part_columns) / 2; i++) s[i] = 0;
        }
    }
    rows.sum[0] = sum[0][0] + sum[0][1];
    rows.sum[1] = sum[1][0] + sum[1][1];
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
