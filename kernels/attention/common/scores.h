// From scores in registers to probabilities: token scales, hooks, masks, online softmax.
//
// A thread holds two rows and two columns (keys, or elements of values) of each product of a warp.
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

// What a warp multiplies: of M by N products 16 rows and 8 columns each or, Turned, 16 columns and
// 8 rows. A thread holds 2 M rows and 2 N columns.
template <int M, int N, bool Turned> struct Products {
    static constexpr int rows = 2 * M;
    static constexpr int columns = 2 * N;
    float x[M][N][4];

    FB_DEVICE float& at(int i, int j) {
        return x[i / 2][j / 2][Turned ? j % 2 * 2 + i % 2 : i % 2 * 2 + j % 2];
    }
    FB_DEVICE float at(int i, int j) const { return const_cast<Products*>(this)->at(i, j); }

    // The thread's i-th row and j-th column, of those of the warp.
    static FB_DEVICE int row(int i) {
        return Turned ? own_key() + i / 2 * 8 + i % 2 : own_row() + i * 8;
    }
    static FB_DEVICE int column(int j) {
        return Turned ? own_row() + j * 8 : own_key() + j / 2 * 8 + j % 2;
    }

    // Over the threads that have a row together.
    static FB_DEVICE float row_max(float x) {
        FB_UNROLL
        for (int i = Turned ? 4 : 1; i < (Turned ? 32 : 4); i *= 2)
            x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
        return x;
    }
    static FB_DEVICE float row_sum(float x) {
        FB_UNROLL
        for (int i = Turned ? 4 : 1; i < (Turned ? 32 : 4); i *= 2)
            x += __shfl_xor_sync(0xffffffffu, x, i);
        return x;
    }

    FB_DEVICE void clear() {
        FB_UNROLL
        for (int i = 0; i < M * N * 4; i++) x[i / 4 / N][i / 4 % N][i % 4] = 0;
    }
    FB_DEVICE void add(const Products& other) {
        FB_UNROLL
        for (int i = 0; i < M * N * 4; i++)
            x[i / 4 / N][i / 4 % N][i % 4] += other.x[i / 4 / N][i / 4 % N][i % 4];
    }
    FB_DEVICE void multiply(float by) {
        FB_UNROLL
        for (int i = 0; i < M * N * 4; i++) x[i / 4 / N][i / 4 % N][i % 4] *= by;
    }
    FB_DEVICE void multiply_row(int i, float by) {
        FB_UNROLL
        for (int j = 0; j < columns; j++) at(i, j) *= by;
    }
};

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
template <class S> struct Sight {
    int first_row;
    int32_t low[S::rows];
    int32_t high[S::rows];
    Variant::Row words[S::rows];

    FB_DEVICE Sight(const RowFacts& rows, int first) : first_row(first) {
        FB_UNROLL
        for (int i = 0; i < S::rows; i++) {
            low[i] = rows.low[row(i)];
            high[i] = rows.high[row(i)];
            if (Variant::row_words > 0) words[i] = rows.words[row(i)];
        }
    }

    FB_DEVICE int row(int i) const { return first_row + S::row(i); }

    FB_DEVICE bool sees(const fb_attention_params& p, const RowFacts& rows, const Keys& keys, int i,
                        int k, const Variant::Key& key) const {
        const int32_t position = keys.run.position[k];
        bool visible = position >= low[i] && position <= high[i];
        if (FB_MASK && keys.bits && visible)
            visible = bit_visible(p, rows.mask[row(i)], keys.run.place[k]);
        if (Variant::has_mask && keys.bits && visible) visible = Variant::mask(p, words[i], key);
        return visible;
    }
};

FB_DEVICE Variant::Key key_words(const fb_attention_params& p, const Keys& keys, int k) {
    if constexpr (!Variant::reads_keys) return {};
    else return Variant::key_words(p, keys.run.inputs(p, k));
}

// Token scales, then the logits hook.
template <class S>
FB_DEVICE void change_scores(const fb_attention_params& p, const RowFacts& rows, int first_row,
                             const Keys& keys, float factor, S& s) {
    const Sight<S> sight(rows, first_row);
    FB_UNROLL
    for (int j = 0; j < S::columns; j++) {
        const int k = S::column(j);
        const float scale = FB_K_TOKEN_SCALE ? keys.run.k_scale[k] * factor : factor;
        const Variant::Key key = key_words(p, keys, k);
        FB_UNROLL
        for (int i = 0; i < S::rows; i++) {
            float& x = s.at(i, j);
            const bool stored =
                Variant::stores && keys.stored && sight.sees(p, rows, keys, i, k, key);
            if constexpr (Variant::has_logits)
                x = Variant::logits(p, sight.words[i], key, {x, scale, stored});
            else x *= scale;
        }
    }
}

// What is left of a factor beside base_2_factor(): 1, -1, 0 or NaN.
FB_DEVICE float factor_sign(float factor) {
    return factor > 0 ? 1 : factor < 0 ? -1 : factor;
}

// Products of fp8 queries, times their rows' scales.
template <class S> FB_DEVICE void scale_rows(const RowFacts& rows, int first_row, S& s) {
    FB_UNROLL
    for (int i = 0; i < S::rows; i++) s.multiply_row(i, scale_of(rows, first_row + S::row(i)));
}

// Hides keys outside of a row's positions, and those that mask bits or a hook hide.
template <class S>
FB_DEVICE void hide_keys(const fb_attention_params& p, const RowFacts& rows, int first_row,
                         const Keys& keys, S& s) {
    const Sight<S> sight(rows, first_row);
    FB_UNROLL
    for (int j = 0; j < S::columns; j++) {
        const int k = S::column(j);
        const Variant::Key key = key_words(p, keys, k);
        FB_UNROLL
        for (int i = 0; i < S::rows; i++)
            if (!sight.sees(p, rows, keys, i, k, key))
                s.at(i, j) = Variant::softmax ? -FB_INFINITY : 0;
    }
}

FB_DEVICE float quad_max(float x) { return Products<1, 1, false>::row_max(x); }
FB_DEVICE float quad_sum(float x) { return Products<1, 1, false>::row_sum(x); }

// Moves the bases to the scores' maxima where they must, and what was summed with them. `factor`,
// above 0, takes scores to base 2. A row's base follows from its own scores alone.
template <class S, class O, int M>
FB_DEVICE void move_bases(float factor, const S& s, RowStates<M>& state, O& out) {
    float top[S::rows]; // of this thread's keys
    bool moves = false;
    FB_UNROLL
    for (int i = 0; i < S::rows; i++) {
        top[i] = s.at(i, 0);
        FB_UNROLL
        for (int j = 0; j < S::columns; j += 2)
            top[i] = fmaxf(top[i], fmaxf(s.at(i, j), s.at(i, j + 1)));
        moves |= top[i] * factor - state.base[i / 2][i % 2] > slack;
    }
    if (!__any_sync(0xffffffffu, moves)) return;
    FB_UNROLL
    for (int i = 0; i < S::rows; i++) {
        float& base = state.base[i / 2][i % 2];
        const float highest = S::row_max(top[i]) * factor;
        const bool grows = highest - base > slack;
        const float alpha = grows ? exp2_approx(base - highest) : 1;
        if (grows) base = highest;
        state.sum[i / 2][i % 2] *= alpha;
        out.multiply_row(i, alpha);
    }
}

// Scores become probabilities relative to the bases.
template <class S, int M>
FB_DEVICE void exponentiate(float factor, S& s, RowStates<M>& state) {
    FB_UNROLL
    for (int i = 0; i < S::rows; i++) {
        const float base = state.base[i / 2][i % 2];
        float sum = state.sum[i / 2][i % 2];
        FB_UNROLL
        for (int j = 0; j < S::columns; j++) {
            float& x = s.at(i, j);
            x = exp2_approx(x * factor - base);
            sum += x;
        }
        state.sum[i / 2][i % 2] = sum;
    }
}

// A value's token scale, times a factor, goes into its probability.
template <class S> FB_DEVICE void scale_values(const float* scales, float factor, S& s) {
    FB_UNROLL
    for (int j = 0; j < S::columns; j++) {
        const float scale = scales[S::column(j)] * factor;
        FB_UNROLL
        for (int i = 0; i < S::rows; i++) s.at(i, j) *= scale;
    }
}

// Where f16 holds probabilities (2^slack at most) times scales, these are relative to the largest
// so far, of which a power of two becomes 2^scale_room. Exponents as f32 has them.
constexpr int scale_room = 6;
constexpr int least_scale_power = scale_room + 1;

FB_DEVICE float power_of_two(int exponent) { return __int_as_float(max(exponent, 0) << 23); }

// What is left to multiply sums by.
FB_DEVICE float scale_unit(int power) { return power_of_two(power - scale_room); }

template <class S, class O>
FB_DEVICE void scale_f16_values(const float* scales, S& s, int& power, O& out) {
    float top = 0;
    FB_UNROLL
    for (int j = 0; j < S::columns; j++) top = fmaxf(top, fabsf(scales[S::column(j)]));
    const int wanted = __float_as_int(S::row_max(top)) >> 23;
    if (wanted > power) {
        out.multiply(power_of_two(127 + power - wanted));
        power = wanted;
    }
    scale_values(scales, power_of_two(254 + scale_room - power), s);
}

// What softmax() takes scores to base 2 by: above 0, since 0 must not meet the -inf of hidden keys.
FB_DEVICE float base_2_factor(float factor) {
    return scores_change ? 1 : fmaxf(fabsf(factor), 1e-30f);
}

// All of this, in order, but for the scales of values.
template <class S, class O, int M>
FB_DEVICE void probabilities(const fb_attention_params& p, const RowFacts& rows, int first_row,
                             const Keys& keys, float factor, S& s, RowStates<M>& state, O& out) {
    if constexpr (scales_rows) scale_rows(rows, first_row, s);
    if (scores_change) change_scores(p, rows, first_row, keys, factor, s);
    else if (!(factor > 0)) s.multiply(factor_sign(factor));
    if (keys.masked) hide_keys(p, rows, first_row, keys, s);
    if (Variant::softmax) {
        move_bases(base_2_factor(factor), s, state, out);
        exponentiate(base_2_factor(factor), s, state);
    }
}
