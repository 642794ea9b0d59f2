// From scores in registers to probabilities: token scales, hooks, masks, online softmax.
//
// A thread holds, of every 16 rows (m) and 8 keys (n), rows lane / 4 and lane / 4 + 8 (h) and keys
// 2 (lane % 4) + e as s[m][n][2 h + e].
#pragma once
#include "../../ptx/math.h"
#include "rows.h"

// Sums shrink only when a maximum grows by more than this, in base 2: nearly never. Probabilities
// then reach 2^slack, which f16 holds.
constexpr float slack = 8;

// Base of a row that has seen no key: no score is below it, and unlike -inf it is fit for
// subtraction.
constexpr float no_base = -3.40282347e38f;

template <int M> struct RowStates {
    float base[M][2]; // of exponents: the maximum, in base 2, or up to `slack` below it
    float sum[M][2];  // of this thread's keys
};

template <int M> FB_DEVICE RowStates<M> no_state() {
    RowStates<M> state;
    FB_UNROLL
    for (int m = 0; m < M; m++) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            state.base[m][h] = no_base;
            state.sum[m][h] = 0;
        }
    }
    return state;
}

// A thread's first row and key of those that a warp has.
FB_DEVICE int own_row() { return lane_now() / 4; }
FB_DEVICE int own_key() { return lane_now() % 4 * 2; }

// What scores are multiplied by: what comes is in base 2, or a hook takes it from there.
FB_DEVICE float score_factor(const fb_attention_params& p, const fb_attention_record& r) {
    const float factor = p.scale * constant_scale(p.k_scale, r);
    if (Variant::has_logits) return factor * Variant::logits_factor(p);
    return Variant::softmax ? factor * log2_e : factor;
}

// A run of keys that are scored together.
struct Keys {
    TokenView run;
    bool masked; // some row does not see some key
    bool bits;   // more than its position may hide a key
    bool stored; // by this warp, if a hook stores scores
};

// By a whole warp: what is hidden of `count` kept tokens from `start` on; whether any row sees any.
FB_DEVICE bool look_at_keys(const fb_attention_params& p, const fb_attention_record& r,
                            const Bounds& bounds, int32_t start, int count, Keys& keys) {
    // Given positions are in no order.
    const bool given = FB_KEY_POSITIONS && p.key_positions != 0;
    const int32_t low = keys.run.position[0];
    const int32_t high = keys.run.position[count - 1];
    if (!given && (low > bounds.any_high || high < bounds.any_low)) return false;
    if (pairs_hide) {
        keys.bits = start < r.full_start || start + count > r.full_end;
        if (keys.bits && r.column_offset >= 0) keys.bits = !keys.run.full(count);
    }
    if (given) keys.masked = start < r.full_start || start + count > r.full_end;
    else keys.masked = keys.bits || low < bounds.all_low || high > bounds.all_high;
    return true;
}

// What decides which keys a thread's rows see.
template <int M> struct Sight {
    int row;
    int32_t low[2 * M];
    int32_t high[2 * M];
    Variant::Row words[2 * M];

    FB_DEVICE Sight(const RowFacts& rows, int first_row) : row(first_row + own_row()) {
        FB_UNROLL
        for (int i = 0; i < 2 * M; i++) {
            low[i] = rows.low[row + i * 8];
            high[i] = rows.high[row + i * 8];
            if (Variant::row_words > 0) words[i] = rows.words[row + i * 8];
        }
    }

    FB_DEVICE bool sees(const fb_attention_params& p, const RowFacts& rows, const Keys& keys, int i,
                        int k, const Variant::Key& key) const {
        const int32_t position = keys.run.position[k];
        bool visible = position >= low[i] && position <= high[i];
        if (FB_MASK && keys.bits && visible)
            visible = bit_visible(p, rows.mask[row + i * 8], keys.run.place[k]);
        if (Variant::has_mask && keys.bits && visible) visible = Variant::mask(p, words[i], key);
        return visible;
    }
};

FB_DEVICE Variant::Key key_words(const fb_attention_params& p, const Keys& keys, int k) {
    if constexpr (!Variant::reads_keys) return {};
    else return Variant::key_words(p, keys.run.inputs(p, k));
}

// Token scales, then the logits hook.
template <int M, int N>
FB_DEVICE void change_scores(const fb_attention_params& p, const RowFacts& rows, int first_row,
                             const Keys& keys, float factor, float (&s)[M][N][4]) {
    const int own = own_key();
    const Sight<M> sight(rows, first_row);
    FB_UNROLL
    for (int n = 0; n < N; n++) {
        FB_UNROLL
        for (int e = 0; e < 2; e++) {
            const int k = own + n * 8 + e;
            const float scale = FB_K_TOKEN_SCALE ? keys.run.k_scale[k] * factor : factor;
            const Variant::Key key = key_words(p, keys, k);
            FB_UNROLL
            for (int i = 0; i < 2 * M; i++) {
                float& x = s[i / 2][n][i % 2 * 2 + e];
                const bool stored =
                    Variant::stores && keys.stored &&
                    sight.sees(p, rows, keys, i, k, key);
                if constexpr (Variant::has_logits)
                    x = Variant::logits(p, sight.words[i], key, {x, scale, stored});
                else x *= scale;
            }
        }
    }
}

// What is left of a factor that is not above 0 beside base_2_factor(): -1, 0 or NaN.
FB_DEVICE float factor_sign(float factor) { return factor < 0 ? -1 : factor; }

template <int M, int N> FB_DEVICE void multiply_scores(float by, float (&s)[M][N][4]) {
    FB_UNROLL
    for (int m = 0; m < M; m++) {
        FB_UNROLL
        for (int n = 0; n < N; n++) {
            FB_UNROLL
            for (int i = 0; i < 4; i++) s[m][n][i] *= by;
        }
    }
}

// Products of fp8 queries, times their rows' scales.
template <int M, int N>
FB_DEVICE void scale_rows(const RowFacts& rows, int first_row, float (&s)[M][N][4]) {
    FB_UNROLL
    for (int i = 0; i < 2 * M; i++) {
        const float scale = scale_of(rows, first_row + own_row() + i * 8);
        FB_UNROLL
        for (int n = 0; n < N; n++) {
            s[i / 2][n][i % 2 * 2] *= scale;
            s[i / 2][n][i % 2 * 2 + 1] *= scale;
        }
    }
}

// Hides keys outside of a row's positions, and those that mask bits or a hook hide.
template <int M, int N>
FB_DEVICE void hide_keys(const fb_attention_params& p, const RowFacts& rows, int first_row,
                         const Keys& keys, float (&s)[M][N][4]) {
    const int own = own_key();
    const Sight<M> sight(rows, first_row);
    FB_UNROLL
    for (int n = 0; n < N; n++) {
        FB_UNROLL
        for (int e = 0; e < 2; e++) {
            const int k = own + n * 8 + e;
            const Variant::Key key = key_words(p, keys, k);
            FB_UNROLL
            for (int i = 0; i < 2 * M; i++)
                if (!sight.sees(p, rows, keys, i, k, key))
                    s[i / 2][n][i % 2 * 2 + e] = Variant::softmax ? -FB_INFINITY : 0;
        }
    }
}

FB_DEVICE float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

FB_DEVICE float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

// Moves the bases to the scores' maxima where they must, and what was summed with them. `factor`,
// above 0, takes scores to base 2. A row's base follows from its own scores alone.
template <int M, int N, int C>
FB_DEVICE void move_bases(float factor, const float (&s)[M][N][4], RowStates<M>& state,
                          float (&out)[M][C][4]) {
    float top[2 * M]; // of this thread's keys
    bool moves = false;
    FB_UNROLL
    for (int i = 0; i < 2 * M; i++) {
        top[i] = s[i / 2][0][i % 2 * 2];
        FB_UNROLL
        for (int n = 0; n < N; n++)
            top[i] = fmaxf(top[i], fmaxf(s[i / 2][n][i % 2 * 2], s[i / 2][n][i % 2 * 2 + 1]));
        moves |= top[i] * factor - state.base[i / 2][i % 2] > slack;
    }
    if (!__any_sync(0xffffffffu, moves)) return;
    FB_UNROLL
    for (int i = 0; i < 2 * M; i++) {
        float& base = state.base[i / 2][i % 2];
        const float highest = quad_max(top[i]) * factor;
        const bool grows = highest - base > slack;
        const float alpha = grows ? exp2_approx(base - highest) : 1;
        if (grows) base = highest;
        state.sum[i / 2][i % 2] *= alpha;
        FB_UNROLL
        for (int c = 0; c < C; c++) {
            out[i / 2][c][i % 2 * 2] *= alpha;
            out[i / 2][c][i % 2 * 2 + 1] *= alpha;
        }
    }
}

// Scores become probabilities relative to the bases.
template <int M, int N>
FB_DEVICE void exponentiate(float factor, float (&s)[M][N][4], RowStates<M>& state) {
    FB_UNROLL
    for (int i = 0; i < 2 * M; i++) {
        const float base = state.base[i / 2][i % 2];
        float sum = state.sum[i / 2][i % 2];
        FB_UNROLL
        for (int n = 0; n < N; n++) {
            FB_UNROLL
            for (int e = 0; e < 2; e++) {
                float& x = s[i / 2][n][i % 2 * 2 + e];
                x = exp2_approx(x * factor - base);
                sum += x;
            }
        }
        state.sum[i / 2][i % 2] = sum;
    }
}

// A value's token scale, times a factor, goes into its probability.
template <int M, int N>
FB_DEVICE void scale_values(const float* scales, float factor, float (&s)[M][N][4]) {
    const int own = own_key();
    FB_UNROLL
    for (int n = 0; n < N; n++) {
        FB_UNROLL
        for (int e = 0; e < 2; e++) {
            const float scale = scales[own + n * 8 + e] * factor;
            FB_UNROLL
            for (int m = 0; m < M; m++) {
                s[m][n][e] *= scale;
                s[m][n][2 + e] *= scale;
            }
        }
    }
}

// Where f16 holds probabilities (2^slack at most) times scales, these are relative to the largest
// so far, of which a power of two becomes 2^scale_room. Exponents as f32 has them.
constexpr int scale_room = 6;
constexpr int least_scale_power = scale_room + 1;

FB_DEVICE float power_of_two(int exponent) { return __int_as_float(max(exponent, 0) << 23); }

// What is left to multiply sums by.
FB_DEVICE float scale_unit(int power) { return power_of_two(power - scale_room); }

template <int M, int N, int C>
FB_DEVICE void scale_f16_values(const float* scales, float (&s)[M][N][4], int& power,
                                float (&out)[M][C][4]) {
    const int own = own_key();
    float top = 0;
    FB_UNROLL
    for (int n = 0; n < N; n++)
        top = fmaxf(top, fmaxf(fabsf(scales[own + n * 8]), fabsf(scales[own + n * 8 + 1])));
    const int wanted = __float_as_int(quad_max(top)) >> 23;
    if (wanted > power) {
        const float keep = power_of_two(127 + power - wanted);
        power = wanted;
        FB_UNROLL
        for (int i = 0; i < M * C * 4; i++) out[i / 4 / C][i / 4 % C][i % 4] *= keep;
    }
    scale_values(scales, power_of_two(254 + scale_room - power), s);
}

// What softmax() takes scores to base 2 by: above 0, since 0 must not meet the -inf of hidden keys.
FB_DEVICE float base_2_factor(float factor) {
    return scores_change ? 1 : fmaxf(fabsf(factor), 1e-30f);
}

// All of this, in order, but for the scales of values.
template <int M, int N, int C>
FB_DEVICE void probabilities(const fb_attention_params& p, const RowFacts& rows, int first_row,
                             const Keys& keys, float factor, float (&s)[M][N][4],
                             RowStates<M>& state, float (&out)[M][C][4]) {
    if constexpr (scales_rows) scale_rows(rows, first_row, s);
    if (scores_change) change_scores(p, rows, first_row, keys, factor, s);
    else if (!(factor > 0)) multiply_scores(factor_sign(factor), s);
    if (keys.masked) hide_keys(p, rows, first_row, keys, s);
    if (Variant::softmax) {
        move_bases(base_2_factor(factor), s, state, out);
        exponentiate(base_2_factor(factor), s, state);
    }
}
