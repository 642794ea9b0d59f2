// A row of logits or probabilities: its weights, and which of its tokens are kept.
#pragma once
#include "select.h"
#include "../params/sampling.h"
#include "../ptx/fence.h"
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
        if (is_probability) return x == largest ? 1 : x * lift * scale;
        // Of infinities that are equal too.
        return exp2_approx(fminf((x - largest) * scale, 0));
    }
};

// The same of logits alone.
struct LogitWeights {
    float largest;
    float scale;

    FB_DEVICE float of(float x) const {
        // Of infinities that are equal too.
        return exp2_approx(fminf((x - largest) * scale, 0));
    }
};

// body(weights) by what they are of, so that loops need not ask.
template <class Body> FB_DEVICE auto by_kind(const Weights& weights, const Body& body) {
    if (weights.is_probability) return body(weights);
    return body(LogitWeights{weights.largest, weights.scale});
}

FB_DEVICE Weights weights_of(float largest, float temperature, bool is_probability) {
    const float lift = largest < 0x1p-100f ? 0x1p100f : 1;
    const float scale = is_probability ? 1 / (largest * lift) : 1.44269504f / temperature;
    return {largest, scale, lift, is_probability};
}

// ---- load

// The largest of a thread's elements, and where the first of them is.
struct Most {
    float x;
    int32_t index; // below 0: it has none
    bool is_odd;   // some of its elements are no numbers
};

// The elements of a row, without NaN, by their index.
template <int size> struct Row {
    uint64_t source;
    int32_t dtype;
    int32_t length;
    bool is_probability;
    Part part;

    FB_DEVICE float lowest() const { return is_probability ? 0 : -FB_INFINITY; }

    // As they are in memory; once cleaned, those that the block holds are numbers.
    template <class Body> FB_DEVICE void each_uncleaned(Body body) const {
        const auto clean = [](float x) { return x; };
        Team<size>::each_quad(part, dtype, source, lowest(), clean, body);
    }

    template <class Body> FB_DEVICE void each_quad(Body body) const {
        const bool probability = is_probability;
        const auto clean = [=](float x) {
            uint32_t ignored = 0;
            return cleaned(x, probability, ignored);
        };
        Team<size>::each_quad(part, dtype, source, lowest(), clean, body);
    }

    template <class Body> FB_DEVICE void each(Body body) const {
        each_quad([&](int32_t start, const float* x, int32_t count) {
            FB_UNROLL
            for (int i = 0; i < quad; i++)
                if (i < count) body(start + i, x[i]);
        });
    }

    FB_DEVICE float at(int32_t index) const {
        float x[chunk];
        uint32_t ignored = 0;
        load_chunk(dtype, source + int64_t(index) * element_bytes(dtype), 1, x);
        return cleaned(x[0], is_probability, ignored);
    }

    // Makes numbers of what this thread holds.
    FB_DEVICE void clean() const {
        unsigned char* const memory = held_memory();
        uint32_t ignored = 0;
        const int32_t held = part.held - part.first;
        for (int32_t at = threadIdx.x * quad; at < held; at += team_threads * quad) {
            float x[quad];
            load_held(shared_address(memory), dtype, at, x);
            FB_UNROLL
            for (int i = 0; i < quad; i++) {
                const float good = cleaned(x[i], is_probability, ignored);
                if (good == x[i]) continue;
                // 0 and -inf, of either width.
                if (dtype == FB_F32) {
                    reinterpret_cast<float*>(memory)[at + i] = good;
                } else {
                    const uint16_t low = dtype == FB_F16 ? 0xfc00 : 0xff80;
                    reinterpret_cast<uint16_t*>(memory)[at + i] = is_probability ? 0 : low;
                }
            }
        }
        // The next row's copies write here, too.
        fence_proxy_async_shared();
    }

    // The first pass over the row; two for a thread that has NaN.
    FB_DEVICE Most most() const {
        const float least = lowest();
        float most = least;
        const int32_t first = part.first + int32_t(threadIdx.x) * (size > 1 ? quad : chunk);
        int32_t where = first < part.end ? first : -1;
        if (is_probability) {
            bool is_odd = false;
            each_uncleaned([&](int32_t start, const float* x, int32_t) {
                FB_UNROLL
                for (int i = 0; i < quad; i++) is_odd |= !(x[i] >= 0);
                // The other number where one is NaN.
                const float now = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
                if (now > most) where = start;
                most = fmaxf(most, now);
            });
            if (size > 1 && is_odd) clean();
            return {most, where < 0 ? where : where + first_in_quad(where, most), is_odd};
        }
        const auto see = [&](int32_t start, const float* x, int32_t) {
            const float now = max_nan(max_nan(x[0], x[1]), max_nan(x[2], x[3]));
            if (!(now <= most)) where = start;
            most = max_nan(most, now);
        };
        each_uncleaned(see);
        const bool is_odd = !(most == most);
        if (is_odd) {
            if (size > 1) clean();
            most = least;
            where = first;
            each_quad(see);
        }
        return {most, where < 0 ? where : where + first_in_quad(where, most), is_odd};
    }

    FB_DEVICE int32_t first_in_quad(int32_t start, float x) const {
        int32_t first = 0;
        if (size > 1 && start < part.held) {
            float held[quad];
            load_held(held_address(), dtype, start - part.first, held);
            FB_UNROLL
            for (int i = quad - 1; i >= 0; i--)
                if (held[i] == x) first = i;
            return first;
        }
        const int32_t count = part.end - start < quad ? part.end - start : quad;
        for (int i = count - 1; i >= 0; i--)
            if (at(start + i) == x) first = i;
        return first;
    }

    // The place of the row's largest, the first of several; status is that of the row.
    FB_DEVICE uint64_t largest(Team<size>& team, Most own, uint32_t& status) const {
        uint64_t best = own.index < 0 ? 0 : place_of(own.x, own.index);
        if (own.is_odd) best |= LargestAndFlag::flag;
        best = team.template reduce<LargestAndFlag>(best);
        if (best & LargestAndFlag::flag) status |= FB_SAMPLE_NAN;
        best &= ~LargestAndFlag::flag;
        const float most = value_of(uint32_t(best >> index_bits));
        if (is_probability ? !(most > 0) : most == -FB_INFINITY) status |= FB_SAMPLE_NO_MASS;
        return best;
    }

    // The sum of the weights of what stands at `last` or before it and weighs `min_weight` or more.
    FB_DEVICE uint64_t sum(Team<size>& team, Weights weights, uint64_t last,
                           float min_weight) const {
        const Keeps keeps = keeps_of(last);
        const auto sum_by = [&](const auto& weigh) {
            uint64_t sum = 0;
            WeightSum part;
            each_quad([&](int32_t start, const float* x, int32_t) {
                FB_UNROLL
                for (int i = 0; i < quad; i++) {
                    float weight = weigh.of(x[i]);
                    if (!keeps(x[i], start + i) | (weight < min_weight)) weight = 0;
                    part.add(weight);
                }
                // A block alone may have long rows.
                if (size > 1) return;
                sum += part.total();
                part = {};
            });
            return sum + part.total();
        };
        const uint64_t sum = by_kind(weights, sum_by);
        return team.template reduce<Sum>(sum);
    }
};

// Where row `index` of x lies.
template <class P> FB_DEVICE uint64_t row_source(const P& p, int64_t index) {
    return p.x + index * p.x_stride * element_bytes(p.dtype);
}

// A block's part of a row that a cluster takes, of which it holds up to `held_most` elements.
template <int size>
FB_DEVICE Row<size> cluster_row(uint64_t source, int32_t dtype, int32_t length,
                                bool is_probability, int32_t held_most) {
    constexpr int32_t step = size * warp_quads;
    const int32_t each = (length + step - 1) / step * warp_quads;
    const int32_t start = Team<size>::rank() * each;
    const int32_t first = start < length ? start : length;
    const int32_t end = length - first < each ? length : first + each;
    const int32_t held = end - first < held_most ? end : first + held_most;
    return {source, dtype, length, is_probability, {first, held, end}};
}

// A row that one block reads from memory.
FB_DEVICE Row<1> block_row(uint64_t source, int32_t dtype, int32_t length, bool is_probability) {
    return {source, dtype, length, is_probability, {0, 0, length}};
}

FB_DEVICE float mass_of(uint64_t sum) { return float(sum) * (1 / weight_one); }
