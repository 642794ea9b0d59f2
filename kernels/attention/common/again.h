// A row once more, key by key, from global memory: the exact way of the few rows that products of
// whole tiles get wrong. Little code beside them, and as slow as it is short.
//
// - A pair that is hidden has the weight 0, and 0 times a value of NaN or infinity is NaN: sums of
//   NaN beside a softmax that is a number may be a hidden value's.
// - Scores of 2^24 and more: one fused product and difference does not resolve their exponents.
#pragma once
#include "finish.h"
#include "rotate.h"

// ---- what is wrong

// Scores from here on.
constexpr float too_large = 16777216;

FB_DEVICE bool scores_too_large(float base) {
    return Variant::softmax && base != no_base && !(fabsf(base) < too_large);
}

// Whether a row is to be attended again; `sum`: of its weights, `total`: of what it has of values,
// or of some of that. Without softmax nobody sums weights: those of NaN cost a row an attempt more.
FB_DEVICE bool is_wrong(float base, float sum, float total) {
    if (!Variant::softmax) return total != total;
    if (base == no_base && sum == 0) return false; // zeros, whatever they hold
    return scores_too_large(base) || (total != total && sum == sum);
}

// The same, as all lanes of a quad know it that have a row together.
FB_DEVICE bool quad_is_wrong(float base, float sum, float total) {
    return quad_max(is_wrong(base, sum, total) ? 1 : 0) > 0;
}

// ---- rows of queries, keys and values

// Columns of the output that a warp has, by chunks of eight: two side by side, then the next two.
struct Columns {
    int first;
    int chunks;
    int stride = 16;

    FB_DEVICE int at(int chunk) const { return first + chunk / 2 * stride + chunk % 2 * 8; }
};

// Chunks of a lane.
constexpr int key_turns = (FB_KEY_DIM + 255) / 256;
constexpr int value_turns = (FB_VALUE_DIM + 255) / 256;

template <int Dim, int Type> using Chunk = Vector<Dim, 0, Type>;

template <class V> FB_DEVICE void load_chunk(V& v) {
    FB_UNROLL
    for (int i = 0; i < 8; i++) v.x[i] = 0;
    v.load();
}

template <int Dim, int Type> FB_DEVICE Chunk<Dim, Type> chunk_at(uint64_t row, int first) {
    Chunk<Dim, Type> v = {reinterpret_cast<const void*>(row), first};
    load_chunk(v);
    return v;
}

// As the products take it: rounded, and zeros past the last element.
template <class V> FB_DEVICE void round_chunk(V& v) {
    const uint4 eight = round_8<FB_Q_TYPE>(v.x);
    widen_8<FB_Q_TYPE>(&eight, v.x);
    FB_UNROLL
    for (int i = 0; i < 8; i++) v.x[i] = v.filled() ? v.x[i] : 0;
}

template <class V>
FB_DEVICE void rotate_chunk(const fb_attention_params& p, int32_t position, float factor, V& v) {
    FB_UNROLL
    for (int i = 0; i < 8; i++) {
        const int d = v.first + i - FB_ROPE_FIRST;
        if (d < 0 || d >= FB_ROPE_DIM) continue;
        const int pair = FB_ROPE == 2 ? d / 2 : d % max(rope_pairs, 1);
        const bool second = FB_ROPE == 2 ? d % 2 : d >= rope_pairs;
        const int other = FB_ROPE == 2 ? d ^ 1 : second ? d - rope_pairs : d + rope_pairs;
        Angle angle = angle_at(position, reinterpret_cast<const TurnRate*>(p.rope_rates)[pair]);
        angle = {angle.cos * factor, angle.sin * factor};
        const float x = v.at(FB_ROPE_FIRST + other);
        v.x[i] = second ? x * angle.sin + v.x[i] * angle.cos : v.x[i] * angle.cos - x * angle.sin;
    }
    round_chunk(v);
}

// A row of a record, and what it sees.
struct AgainRow {
    RowSight sight;
    MaskRow mask;
    Variant::Row words;
    float scale;
    float query[key_turns][8];

    FB_DEVICE bool sees(const fb_attention_params& p, const Place& place, int32_t position,
                        const Variant::Key& key) const {
        const bool visible =
            place.place != past_end && position >= sight.low && position <= sight.high;
        if (!visible || !pairs_hide || place.row < 0) return visible;
        if (FB_MASK && !bit_visible(p, mask, place.place)) return false;
        if constexpr (Variant::has_mask) return Variant::mask(p, words, key);
        return true;
    }
};

template <class Room>
FB_DEVICE AgainRow again_row(const fb_attention_params& p, const fb_attention_record& r, int i,
                             const Room& room) {
    AgainRow row;
    row.sight = sight_of(p, r, i);
    const bool asks = row.sight.row.request >= 0;
    if (FB_MASK) row.mask = mask_of(p, row.sight, asks);
    row.words = words_of(p, row.sight, asks);
    const QueryRow at = query_row(r, i);
    const uint64_t from =
        p.q + query_element * (at.token * p.q_stride_token + at.head * p.q_stride_head);
    row.scale = scales_rows ? query_scale(p, r, i) : 1;
    FB_UNROLL
    for (int turn = 0; turn < key_turns; turn++) {
        const int first = (lane_now() + 32 * turn) * 8;
        if constexpr (Variant::projects_query) {
            room.load_query(i, first, row.query[turn]);
            continue;
        }
        auto v = chunk_at<FB_KEY_DIM, FB_QUERY_TYPE>(from, first);
        if constexpr (Variant::has_query) Variant::query(p, row.words, v);
        if constexpr (Variant::has_query) round_chunk(v);
        if constexpr (rotates) rotate_chunk(p, row.sight.row.query, p.rope_factor, v);
        FB_UNROLL
        for (int j = 0; j < 8; j++) row.query[turn][j] = v.x[j];
    }
    return row;
}

// ---- compute

FB_DEVICE float warp_sum(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

FB_DEVICE float warp_max(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// The product of the row's query and a key, whose last elements may lie apart.
FB_DEVICE float product(const fb_attention_params& p, const AgainRow& row, uint64_t from,
                        [[maybe_unused]] uint64_t tail, const KeyInputs& key) {
    float sum = 0;
    FB_UNROLL
    for (int turn = 0; turn < key_turns; turn++) {
        Chunk<FB_KEY_DIM, FB_KV_TYPE> v = {reinterpret_cast<const void*>(from),
                                          (lane_now() + 32 * turn) * 8};
#if FB_KEY_TAIL > 0
        v.tail = reinterpret_cast<const void*>(tail);
#endif
        load_chunk(v);
        if constexpr (Variant::has_key) Variant::key(p, key, v);
        if (Variant::has_key) round_chunk(v);
        if constexpr (rotates) rotate_chunk(p, key.key, 1, v);
        FB_UNROLL
        for (int j = 0; j < 8; j++) sum += row.query[turn][j] * v.x[j];
    }
    return warp_sum(sum);
}

struct AgainSums {
    float base = no_base;
    float sum = 0; // of this lane's keys
    float out[value_turns][8] = {};

    FB_DEVICE void shrink(float by) {
        sum *= by;
        FB_UNROLL
        for (int i = 0; i < 8 * value_turns; i++) out[i / 8][i % 8] *= by;
    }

    FB_DEVICE void add_value(const fb_attention_params& p, const Columns& columns, uint64_t from,
                             const KeyInputs& key, float weight) {
        FB_UNROLL
        for (int turn = 0; turn < value_turns; turn++) {
            const int chunk = lane_now() + 32 * turn;
            const int first = chunk < columns.chunks ? columns.at(chunk) : FB_VALUE_DIM;
            auto v = chunk_at<FB_VALUE_DIM, FB_KV_TYPE>(from, first);
            if constexpr (Variant::has_value) Variant::value(p, key, v);
            if (Variant::has_value) round_chunk(v);
            FB_UNROLL
            for (int j = 0; j < 8; j++) out[turn][j] += weight * v.x[j];
        }
    }
};

// 32 kept tokens from `first` on, of which a lane looks one up.
FB_DEVICE void add_tokens(const fb_attention_params& p, const fb_attention_record& r,
                          const Source& from, const AgainRow& row, const Columns& columns,
                          int32_t first, AgainSums& sums) {
    const int lane = lane_now();
    const Place place = find(p, r, from, first + lane, r.kv_end);
    const bool kept = place.place != past_end;
    const int32_t page = place.page == nullptr ? 0 : *place.page;
    const int32_t value_page = place.page == nullptr ? 0 : *value_entry(p, place.page);
    const int32_t at = kept ? without_full_bit(place.row) : 0;
    const int32_t position = position_of(p, page, at, place.place);
    const KeyInputs key = {position, kept ? page * p.page_size + at : 0, r.kv_head};
    Variant::Key words = {};
    if constexpr (Variant::reads_keys) words = Variant::key_words(p, key);
    const uint32_t seen = __ballot_sync(0xffffffffu, row.sees(p, place, position, words));
    const auto of = [&](int other) { // the inputs of another lane's key
        return KeyInputs{__shfl_sync(0xffffffffu, key.key, other),
                         __shfl_sync(0xffffffffu, key.slot, other), key.kv_head};
    };
    const uint64_t tail = tail_address(p, r, page, at);
    const auto row_of = [&](const fb_plane& plane, uint64_t head, int32_t own_page, int other) {
        return row_address(plane, head, __shfl_sync(0xffffffffu, own_page, other),
                           __shfl_sync(0xffffffffu, at, other));
    };
    float score = 0; // of the lane's token
    FB_NO_UNROLL
    for (uint32_t left = seen; left != 0; left &= left - 1) {
        const int other = __ffs(int(left)) - 1;
        const uint64_t k = row_of(key_plane(p, r), from.k, page, other);
        const uint64_t end = FB_KEY_TAIL > 0 ? __shfl_sync(0xffffffffu, tail, other) : 0;
        const float x = product(p, row, k, end, of(other));
        if (lane == other) score = x;
    }
    if (scales_rows) score *= row.scale;
    const bool own = seen >> lane & 1;
    const float factor = score_factor(p, r) * token_scale(p.k_scale, r, page, at, kept);
    if constexpr (Variant::has_logits)
        score = Variant::logits(p, row.words, words, {score, factor, false});
    else score *= factor;
    if (Variant::softmax) {
        score = own ? score : -FB_INFINITY;
        const float base = fmaxf(sums.base, warp_max(score));
        sums.shrink(exp2_approx(sums.base - base));
        sums.base = base;
        // No fused product may take the place of what was compared.
        score = exp2_approx(__fadd_rn(score, -base));
        sums.sum += own ? score : 0;
    }
    score *= token_scale(p.v_scale, r, value_page, at, kept);
    FB_NO_UNROLL
    for (uint32_t left = seen; left != 0; left &= left - 1) {
        const int other = __ffs(int(left)) - 1;
        const float weight = __shfl_sync(0xffffffffu, score, other);
        const uint64_t v = row_of(value_plane(p, r), from.v, value_page, other);
        sums.add_value(p, columns, v, of(other), weight);
    }
}

// ---- store

// Some columns of row `i` of a record, and its log-sum-exp if the warp `writes` it.
template <class Room>
FB_DEVICE void attend_again(const fb_attention_params& p, const fb_attention_record& r,
                            Divider by_page, int i, const Columns& columns, bool writes,
                            const Room& room) {
    const Source from = source_of(p, r, by_page);
    const AgainRow row = again_row(p, r, i, room);
    AgainSums sums;
    FB_NO_UNROLL
    for (int32_t first = r.kv_start; first < r.kv_end; first += 32) {
        add_tokens(p, r, from, row, columns, first, sums);
        if (__any_sync(0xffffffffu, sums.sum != sums.sum)) break; // whatever else there is
    }
    const RowTarget target =
        finish_row(p, r, i, sums.base, warp_sum(sums.sum), writes && lane_now() == 0, room);
    FB_UNROLL
    for (int turn = 0; turn < value_turns; turn++) {
        const int chunk = lane_now() + 32 * turn;
        const int column = columns.at(chunk);
        if (chunk >= columns.chunks || column >= FB_VALUE_DIM) continue;
        FB_UNROLL
        for (int j = 0; j < 8; j += 2)
            write_pair(p, target, column + j, sums.out[turn][j], sums.out[turn][j + 1]);
    }
}

// The rows of a warp that are wrong, if any is; by all lanes, each of which has `Rows`, row_of(0)
// and on, and a bit for each of them. They are not stored before: outputs may lie in the place of
// the queries.
template <int Rows, class RowOf, class Room = NoRoom>
FB_DEVICE void attend_wrong(const fb_attention_params& p, const fb_attention_record& r,
                            Divider by_page, uint32_t wrong, const Columns& columns, bool writes,
                            RowOf row_of, const Room& room = {}) {
    if (!__any_sync(0xffffffffu, wrong != 0)) return;
    FB_NO_UNROLL
    for (int i = 0; i < Rows; i++) {
        const int own = row_of(i);
        uint32_t left = __ballot_sync(0xffffffffu, wrong >> i & 1);
        FB_NO_UNROLL
        while (left != 0) {
            const int row = __shfl_sync(0xffffffffu, own, __ffs(int(left)) - 1);
            attend_again(p, r, by_page, row, columns, writes, room);
            left &= ~__ballot_sync(0xffffffffu, own == row);
        }
    }
}
