// A draw by weights: each token arrives after an exponentially distributed time divided by its
// weight, and the first one is drawn, which is the Gumbel maximum without its second logarithm.
#pragma once
#include "row.h"
#include "../ptx/relaxed.h"

FB_DEVICE int32_t index_of_winner(uint64_t winner) { return int32_t(~uint32_t(winner)); }

// The first to arrive so far.
struct Runner {
    float best = 0;
    uint32_t index = 0;

    // `v` of the token's noise; `bound`: a score that another token has. Of equal ones the first in
    // the order of indices stays.
    FB_DEVICE void take(float weight, float v, uint32_t at, float bound) {
        if (weight <= v * bound * 0.999999f) return;
        const float score = weight / exponential_of(v);
        if (score > best || (score == best && at < index)) {
            best = score;
            index = at;
        }
    }

    FB_DEVICE void take(float weight, const Philox& random, uint32_t at) {
        if (!(weight > 0)) return;
        const uint4 four = random.at(at / 4);
        const uint2 two = at % 4 < 2 ? make_uint2(four.x, four.y) : make_uint2(four.z, four.w);
        take(weight, uniform_of(at % 2 == 0 ? two.x : two.y), at, best);
    }

    FB_DEVICE uint64_t winner() const {
        return best > 0 ? uint64_t(__float_as_uint(best)) << 32 | ~index : 0;
    }
};

// Whether a token may arrive before one with the score `bound`: no time is shorter than its v, of
// which the upper bits are enough, so that most need no more.
FB_DEVICE bool may_win(float weight, uint32_t bits, float bound) {
    return weight > fmaf(__uint_as_float(bits >> 9 | 0x3f800000u), bound, -bound);
}

// This thread's best over the row's quads, whose weights weigh(start, x, weight) writes: 0 for what
// is past the row's end. What one thread finds bounds what others look at. `is_sparse`: many are 0.
template <int size, class Weigh>
FB_DEVICE Runner run(Team<size>& team, const Row<size>& row, const Philox& random, Weigh weigh,
                     bool is_sparse = true) {
    Runner best;
    const uint32_t keys = hold(shared_address(&team.shared.keys));
    uint32_t* const shared_bound = &team.shared.bound;
    team.shared.keys.set(random);
    if (threadIdx.x == 0) *shared_bound = 0;
    __syncthreads();
    row.each_quad([&](int32_t start, const float* x, int32_t) {
        float w[quad];
        weigh(start, x, w);
        if (is_sparse && !(w[0] > 0 || w[1] > 0 || w[2] > 0 || w[3] > 0)) return;
        const float bound = __uint_as_float(load_shared_relaxed_4(shared_bound));
        const uint4 four = PhiloxKeys::at(keys, uint32_t(start) / quad);
        const uint32_t bits[quad] = {four.x, four.y, four.z, four.w};
        const float less = bound * 0.999999f;
        bool may = false;
        FB_UNROLL
        for (int i = 0; i < quad; i++) may |= may_win(w[i], bits[i], less);
        if (!may) return;
        FB_UNROLL
        for (int i = 0; i < quad; i++)
            best.take(w[i], uniform_of(bits[i]), uint32_t(start + i), fmaxf(bound, best.best));
        if (best.best > bound) atomicMax(shared_bound, __float_as_uint(best.best));
    });
    return best;
}

// ---- a race whose weights are not known yet

// Less than the true logarithm of a score, however it was rounded.
FB_DEVICE float below_score(float score) { return score - fmaf(fabsf(score), 1e-6f, 1e-3f); }

// A thread's largest element, and the first of its tokens to arrive.
struct Lead {
    float most = -FB_INFINITY; // NaN if one is
    float x = 0;
    float time = 0; // 0: none has come
    uint32_t index = 0;

    // Whether `other` comes before this one, by logarithms to base 2 of weights and times.
    FB_DEVICE bool is_behind(float other, float its_time, uint32_t at, float scale) const {
        if (time == 0) return true;
        const float ahead =
            fmaf(other - x, scale, log2_approx(time) - log2_approx(its_time));
        return ahead > 0 || (ahead == 0 && at < index);
    }

    FB_DEVICE uint64_t winner(const LogitWeights& weights) const {
        const float score = time == 0 ? 0 : weights.of(x) / time;
        return score > 0 ? uint64_t(__float_as_uint(score)) << 32 | ~index : 0;
    }
};

// The same order as that of floats, as whole numbers that an atomic maximum takes.
FB_DEVICE int32_t ordered(float x) {
    const int32_t bits = __float_as_int(x);
    return bits ^ (bits >> 31 & 0x7fffffff);
}

FB_DEVICE float unordered(int32_t order) {
    return __int_as_float(order ^ (order >> 31 & 0x7fffffff));
}

// Of logits that are held: the pass that finds the largest runs the race, too. The logarithm of a
// score is that of a weight, but for the same number in all, less that of a time, which is at least
// that of its v. What one warp finds bounds what others look at.
template <int size>
FB_DEVICE Lead lead_of(Team<size>& team, const Row<size>& row, const Philox& random,
                       float scale) {
    Lead lead;
    const uint32_t keys = hold(shared_address(&team.shared.keys));
    uint32_t* const shared_bound = &team.shared.bound;
    team.shared.keys.set(random);
    if (threadIdx.x == 0) *shared_bound = uint32_t(ordered(-FB_INFINITY));
    __syncthreads();
    const auto look = [&](int32_t start, const float* x) {
        const uint4 four = PhiloxKeys::at(keys, uint32_t(start) / quad);
        const uint32_t bits[quad] = {four.x, four.y, four.z, four.w};
        float bound = unordered(int32_t(load_shared_relaxed_4(shared_bound)));
        float most[quad]; // that a token's score can be
        FB_UNROLL
        for (int i = 0; i < quad; i++) {
            const float v = __uint_as_float(bits[i] >> 9 | 0x3f800000u) - 1;
            most[i] = fmaf(x[i], scale, -log2_approx(v));
        }
        lead.most = max_nan(lead.most, max_nan(max_nan(x[0], x[1]), max_nan(x[2], x[3])));
        FB_NO_UNROLL
        for (;;) {
            // The other number where one is NaN.
            const float best = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
            const bool may = best > bound;
            if (!__any_sync(~0u, may)) return;
            float logit = x[0];
            uint32_t drawn = bits[0], at = uint32_t(start);
            FB_UNROLL
            for (int i = quad - 1; i >= 0; i--) {
                if (most[i] != best) continue;
                logit = x[i];
                drawn = bits[i];
                at = uint32_t(start + i);
            }
            FB_UNROLL
            for (int i = 0; i < quad; i++)
                if (at == uint32_t(start + i)) most[i] = -FB_INFINITY;
            const float time = exponential_of(uniform_of(drawn));
            if (may && lead.is_behind(logit, time, at, scale)) {
                lead.x = logit;
                lead.time = time;
                lead.index = at;
            }
            const float score = below_score(fmaf(logit, scale, -log2_approx(time)));
            // NaN, of infinities, counts as nothing.
            const uint32_t order = may && score == score ? uint32_t(ordered(score)) ^ 1u << 31 : 0;
            const int32_t first = int32_t(warp_max(order) ^ 1u << 31);
            bound = fmaxf(bound, unordered(first));
            if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<int32_t*>(shared_bound), first);
        }
    };
    const int32_t first = row.part.first, held = row.part.held - first;
    const int32_t lane = int32_t(threadIdx.x) % 32 * quad;
    const uint32_t address = hold(held_address());
    FB_NO_UNROLL
    for (int32_t at = int32_t(threadIdx.x) * quad; at - lane < held; at += team_threads * quad) {
        float x[quad];
        load_held(address, row.dtype, at, x);
        look(first + at, x);
    }
    return lead;
}
