// What a warpgroup knows of 64 rows, and makes of their scores: whether it passes them on (score.h)
// or multiplies values, too (compute.h).
#pragma once
#include "pairs.h"
#include "softmax.h"
#include "store.h"
#include "take.h"

// What sums are to be multiplied by, of a thread's two rows.
struct Shift {
    float alpha[2];
    bool moves; // by anything

    FB_DEVICE void keep(float by) {
        if (!weighs_by_power || by == 1) return;
        FB_UNROLL
        for (int h = 0; h < 2; h++) alpha[h] = moves ? alpha[h] * by : by;
        moves = true;
    }
};

struct Scoring : Taker {
    Turn<FB_QUERY_BUFFERS> buffer; // of the task's queries
    float factor;                  // of products that hooks change
    Factors factors;               // of others, above 0
    Factors signs; // what scores are multiplied by besides, where no hook changes them
    int power;     // of the scales of values so far (scores.h)
    RowState rows;
    Scores s;

    using Taker::Taker;

    // Among those that compute: the warpgroup, and the warp's and the thread's first row.
    static FB_DEVICE int group() { return uniform(thread_now() / 128 - first_computing); }
    static FB_DEVICE int warp_row() { return (thread_now() / 32 - 4 * first_computing) * 16; }
    static FB_DEVICE int own() { return warp_row() + lane_now() / 4; }

    // ---- operands

    FB_DEVICE uint32_t query_tile() const {
        return shared_address(b.shared.queries[buffer.slot()]);
    }

    // The warp's queries of step k, as the first operand of a product.
    FB_DEVICE void load_queries(int k, uint32_t (&a)[4]) const {
        const int lane = lane_now();
        const uint32_t row = query_tile() + (warp_row() + lane % 16) * panel_row;
        ldmatrix_x4(a, row + k / 4 * query_panel + swizzled_piece(lane, k % 4 * 2 + lane / 16));
    }

    // ---- scores

    FB_DEVICE void multiply_scores(const Factors& by) {
        FB_UNROLL
        for (int i = 0; i < FB_KV_TILE / 2; i++) s[i] *= by.at(i / 2 % 2);
    }
    FB_DEVICE void sign_scores() {
        if (!(signs.at(0) > 0 && signs.at(1) > 0)) multiply_scores(signs);
    }

    // By row: what queries are multiplied by.
    FB_DEVICE static Factors scales_of(const TaskRows& seen) {
        Factors scales;
        FB_UNROLL
        for (int h = 0; h < row_factors; h++) scales.of[h] = scale_of(seen, own() + 8 * h);
        return scales;
    }

    FB_DEVICE Pairs pairs_of(const TaskRows& seen, int tile) const {
        return Pairs::of(b, seen, keys.slot(), own(), tile);
    }

    // Products of a tile become scores.
    FB_DEVICE void change_scores(const TaskRows& seen, int tile) {
        if constexpr (scores_change) {
            if constexpr (scales_rows) multiply_scores(scales_of(seen));
            pairs_of(seen, tile).change(factor, s);
        } else sign_scores();
    }

    // The scores of what a row does not see; by hide().
    template <bool skips = false> FB_DEVICE int hide_scores(const TaskRows& seen, int tile) {
        const int shown = hide<skips>(seen, own(), seen.start + tile * FB_KV_TILE, s);
        if constexpr (pairs_hide) pairs_of(seen, tile).hide(s);
        return shown;
    }

    // Returns what older sums are to be multiplied by.
    FB_DEVICE float scale_values(const TaskRows& seen, int tile) {
        if constexpr (!FB_V_TOKEN_SCALE) return 1;
        const Pairs pairs = pairs_of(seen, tile);
        float keep = 1;
        float unit = 1;
        if constexpr (weighs_by_power) {
            const int wanted = pairs.scale_power();
            if (wanted > power) {
                keep = power_of_two(127 + power - wanted);
                power = wanted;
            }
            unit = power_of_two(254 + scale_room - power);
        }
        pairs.scale_values(unit, s);
        return keep;
    }

    FB_DEVICE void find_factors(const Task& task, const TaskRows& seen) {
        factor = score_factor(b.attention(), task.record);
        const Factors scales = scales_of(seen);
        FB_UNROLL
        for (int h = 0; h < row_factors; h++) {
            factors.of[h] = base_2_factor(factor * scales.of[h]);
            signs.of[h] = factor_sign(factor * scales.of[h]);
        }
    }

    FB_DEVICE Reach own_reach(const TaskRows& seen) const {
        const Reach& r = seen.reach[group()];
        return {uniform(r.begin), uniform(r.end), uniform(r.whole_begin), uniform(r.whole_end)};
    }

    FB_DEVICE RowSums row_sums() const {
        RowSums done = {{no_base, no_base}, {0, 0}, weighs_by_power ? scale_unit(power) : 1};
        if constexpr (!Variant::softmax) return done;
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            done.base[h] = rows.top[h] == -FB_INFINITY
                               ? no_base
                               : rows.top[h] * factors.at(h) - weight_power;
            done.sum[h] = rows.sum[h];
        }
        return done;
    }
};
