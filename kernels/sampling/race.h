// A draw by weights: each token arrives after an exponentially distributed time divided by its
// weight, and the first one is drawn, which is the Gumbel maximum without its second logarithm.
#pragma once
#include "row.h"

FB_DEVICE int32_t index_of_winner(uint64_t winner) { return int32_t(~uint32_t(winner)); }

// Of numbers from 0 on.
FB_DEVICE float warp_most(float x) {
#if FB_ARCH >= 800
    return __uint_as_float(__reduce_max_sync(~0u, __float_as_uint(x)));
#else
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
#endif
}

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
// is past the row's end.
template <int size, class Weigh>
FB_DEVICE Runner run(Team<size>& team, const Row<size>& row, Philox random, Weigh weigh) {
    Runner best;
    PhiloxKeys& keys = team.shared.keys;
    keys.set(random.key);
    __syncthreads();
    row.each_quad([&](int32_t start, const float* x, int32_t) {
        float w[quad];
        weigh(start, x, w);
        const float bound = warp_most(best.best);
        if (!(w[0] > 0 || w[1] > 0 || w[2] > 0 || w[3] > 0)) return;
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
    });
    return best;
}
