// A draw by weights: each token arrives after an exponentially distributed time divided by its
// weight, and the first one is drawn, which is the Gumbel maximum without its second logarithm.
#pragma once
#include "row.h"
#include "../common/philox.h"

FB_DEVICE int32_t index_of_winner(uint64_t winner) { return int32_t(~uint32_t(winner)); }

// Over the row's chunks, whose weights weigh(start, x, count, weight) writes. 0: none has any.
template <int size, class Weigh>
FB_DEVICE uint64_t race(Team<size>& team, const Row<size>& row, Philox random, Weigh weigh) {
    float best = 0;
    uint64_t winner = 0;
    row.each_chunk([&](int32_t start, const float* x, int32_t count) {
        float weight[chunk];
        weigh(start, x, count, weight);
        FB_UNROLL
        for (int four = 0; four < chunk; four += 4) {
            const float* const w = weight + four;
            if (!(w[0] > 0 || w[1] > 0 || w[2] > 0 || w[3] > 0)) continue;
            const uint4 random_four = random.at(uint32_t(start + four) / 4);
            const uint32_t bits[4] = {random_four.x, random_four.y, random_four.z, random_four.w};
            FB_UNROLL
            for (int i = 0; i < 4; i++) {
                // No time is shorter than its v, so that most need no logarithm.
                const float v = uniform_of(bits[i]);
                if (w[i] <= v * best * 0.999999f) continue;
                const float score = w[i] / exponential_of(v);
                const uint32_t index = uint32_t(start + four + i);
                // In the order of indices: of equal ones the first stays.
                if (score > best) {
                    best = score;
                    winner = uint64_t(__float_as_uint(score)) << 32 | ~index;
                }
            }
        }
    });
    return team.template reduce<Most>(winner);
}
