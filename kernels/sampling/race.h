// A draw by weights: each token arrives after an exponentially distributed time divided by its
// weight, and the first one is drawn, which is the Gumbel maximum without its second logarithm.
#pragma once
#include "row.h"
#include "../common/philox.h"

FB_DEVICE int32_t index_of_winner(uint64_t winner) { return int32_t(~uint32_t(winner)); }

FB_DEVICE float warp_most(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}

// The first to arrive so far.
struct Runner {
    float best = 0;
    uint32_t index = 0;

    // `v` of the token's noise; `bound`: a score that another token has. Of equal ones the first in
    // the order of indices stays.
    FB_DEVICE void take(float weight, float v, uint32_t at, float bound) {
        // No time is shorter than its v, so that most need no logarithm.
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

// Over the row's chunks, whose weights weigh(start, x, count, weight) writes. 0: none has any.
template <int size, class Weigh>
FB_DEVICE uint64_t race(Team<size>& team, const Row<size>& row, Philox random, Weigh weigh) {
    Runner best;
    row.each_chunk([&](int32_t start, const float* x, int32_t count) {
        float weight[chunk];
        weigh(start, x, count, weight);
        const float bound = warp_most(best.best);
        FB_UNROLL
        for (int four = 0; four < chunk; four += 4) {
            const float* const w = weight + four;
            if (!(w[0] > 0 || w[1] > 0 || w[2] > 0 || w[3] > 0)) continue;
            const uint4 random_four = random.at(uint32_t(start + four) / 4);
            const uint32_t bits[4] = {random_four.x, random_four.y, random_four.z, random_four.w};
            FB_UNROLL
            for (int i = 0; i < 4; i++)
                best.take(w[i], uniform_of(bits[i]), uint32_t(start + four + i),
                          fmaxf(bound, best.best));
        }
    });
    return team.template reduce<Most>(best.winner());
}
