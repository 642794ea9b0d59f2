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
FB_DEVICE Runner run(Team<size>& team, const Row<size>& row, Philox random, Weigh weigh,
                     bool is_sparse = true) {
    Runner best;
    PhiloxKeys& keys = team.shared.keys;
    uint32_t* const shared_bound = &team.shared.bound;
    keys.set(random.key);
    if (threadIdx.x == 0) *shared_bound = 0;
    __syncthreads();
    row.each_quad([&](int32_t start, const float* x, int32_t) {
        float w[quad];
        weigh(start, x, w);
        if (is_sparse && !(w[0] > 0 || w[1] > 0 || w[2] > 0 || w[3] > 0)) return;
        const float bound = __uint_as_float(load_shared_relaxed_4(shared_bound));
        const uint4 four = random.at(uint32_t(start) / quad, keys);
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
