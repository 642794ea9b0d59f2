// A row of logits or probabilities: its weights, and which of its tokens are kept.
#pragma once
#include "select.h"
#include "../params/sampling.h"
#include "../ptx/math.h"

// ---- facts

// A row's own number, or that of all rows.
template <class T> FB_DEVICE T number_of(uint64_t rows, T of_all, int64_t row) {
    return rows == 0 ? of_all : items<const T>(rows)[row];
}

// What a NaN counts as, and in probabilities what is below 0.
FB_DEVICE float cleaned(float x, bool is_probability, uint32_t& status) {
    if (is_probability ? x >= 0 : x == x) return x;
    status |= FB_SAMPLE_NAN;
    return is_probability ? 0 : -FB_INFINITY;
}

// Weights of a row relative to its largest, which has 1.
struct Weights {
    float largest;
    float scale; // of the distance from the largest, in logarithms to base 2; of probabilities
    float lift;  // of probabilities, so that the reciprocal of the largest is a number
    bool is_probability;

    FB_DEVICE float of(float x) const {
        if (x == largest) return 1;
        return is_probability ? x * lift * scale : exp2_approx((x - largest) * scale);
    }
};

FB_DEVICE Weights weights_of(float largest, float temperature, bool is_probability) {
    const float lift = largest < 0x1p-100f ? 0x1p100f : 1;
    const float scale = is_probability ? 1 / (largest * lift) : 1.44269504f / temperature;
    return {largest, scale, lift, is_probability};
}

// ---- load

// As many elements of a block's part of a row are its floor or more, if it has as many.
constexpr int above_floor = team_threads / 4;

// `most`: the largest of a thread's elements, of which quads join theirs.
FB_DEVICE void note_floor(TeamShared& shared, float most) {
    FB_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
        const float other = __shfl_xor_sync(~0u, most, distance);
        most = distance < 4 ? fmaxf(most, other) : fminf(most, other);
    }
    if (threadIdx.x % 32 == 0) shared.floors[threadIdx.x / 32] = most;
}

// Once the team has met.
FB_DEVICE float floor_of(const TeamShared& shared) {
    float least = shared.floors[0];
    FB_UNROLL
    for (int warp = 1; warp < team_warps; warp++) least = fminf(least, shared.floors[warp]);
    return least;
}

// The elements of a row, without NaN, by their index.
template <int size> struct Row {
    uint64_t source;
    int32_t dtype;
    int32_t length;
    bool is_probability;

    template <class Body> FB_DEVICE void each_uncleaned(Body body) const {
        Team<size>::each_chunk(dtype, source, length, body);
    }

    template <class Body> FB_DEVICE void each_chunk(Body body) const {
        const bool probability = is_probability;
        Team<size>::each_chunk(dtype, source, length, [&](int32_t start, float* x, int32_t count) {
            uint32_t ignored = 0;
            FB_UNROLL
            for (int i = 0; i < chunk; i++) x[i] = cleaned(x[i], probability, ignored);
            body(start, x, count);
        });
    }

    template <class Body> FB_DEVICE void each(Body body) const {
        each_chunk([&](int32_t start, const float* x, int32_t count) {
            FB_UNROLL
            for (int i = 0; i < chunk; i++)
                if (i < count) body(start + i, x[i]);
        });
    }

    FB_DEVICE float at(int32_t index) const {
        float x[chunk];
        uint32_t ignored = 0;
        load_chunk(dtype, source + int64_t(index) * element_bytes(dtype), 1, x);
        return cleaned(x[0], is_probability, ignored);
    }

    // The place of the largest, the first of several; status is that of the row.
    FB_DEVICE uint64_t largest(Team<size>& team, uint32_t& status) const {
        float most = -FB_INFINITY;
        int32_t where = -1;
        uint32_t seen = 0;
        const bool probability = is_probability;
        Team<size>::each_chunk(dtype, source, length, [&](int32_t start, float* x, int32_t count) {
            if (where < 0 && count > 0) where = start;
            FB_UNROLL
            for (int i = 0; i < chunk; i++) {
                if (i >= count) continue;
                const float now = cleaned(x[i], probability, seen);
                // Indices rise: of equal ones the first stays.
                if (now > most) {
                    most = now;
                    where = start + i;
                }
            }
        });
        note_floor(team.shared, most);
        uint64_t best = where < 0 ? 0 : place_of(most, where);
        if (seen != 0) best |= MostAndFlag::flag;
        best = team.template reduce<MostAndFlag>(best);
        if (best & MostAndFlag::flag) status |= FB_SAMPLE_NAN;
        best &= ~MostAndFlag::flag;
        most = value_of(uint32_t(best >> index_bits));
        if (probability ? !(most > 0) : most == -FB_INFINITY) status |= FB_SAMPLE_NO_MASS;
        return best;
    }

    // The sum of the weights of what stands at `last` or before it and weighs `min_weight` or more.
    FB_DEVICE float mass(Team<size>& team, Weights weights, uint64_t last,
                         float min_weight) const {
        uint64_t sum = 0;
        const Keeps keeps = keeps_of(last);
        each([&](int32_t index, float x) {
            const float weight = weights.of(x);
            if (keeps(x, index) && weight >= min_weight) sum += integer_weight(weight);
        });
        return float(team.template reduce<Sum>(sum)) * (1 / weight_one);
    }
};
