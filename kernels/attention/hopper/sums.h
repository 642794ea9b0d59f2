// The tensor cores add products of fp8 to sums of about 14 bits, and cut off what is below: of many
// keys that would be felt. Every few tiles the sums are added in f32 to those before.
#pragma once
#include "softmax.h"

// None where products are not of fp8.
template <bool> struct LongSumsBy {
    int left = FB_SUM_TILES; // tiles until the sums are added
    bool any = false;
    float keep[2] = {1, 1}; // what the sums before are to be multiplied by

    FB_DEVICE static int thread() { return thread_now() - 128 * first_computing; }

    FB_DEVICE void shrink(const float (&by)[2]) {
        keep[0] *= by[0];
        keep[1] *= by[1];
    }

    // To `sums`, those before. A thread reads and writes only its own.
    template <class Memory> FB_DEVICE void take(const Memory& shared, Sums& sums) const {
        if (!any) return;
        FB_UNROLL
        for (int j = 0; j < FB_VALUE_DIM / 8; j++) {
            const float4 x = shared.long_sums[j][thread()];
            sums[4 * j] += x.x * keep[0];
            sums[4 * j + 1] += x.y * keep[0];
            sums[4 * j + 2] += x.z * keep[1];
            sums[4 * j + 3] += x.w * keep[1];
        }
    }

    // The sums of a tile more are there.
    template <class Memory> FB_DEVICE void add(Memory& shared, Sums& sums) {
        if (--left > 0) return;
        take(shared, sums);
        FB_UNROLL
        for (int j = 0; j < FB_VALUE_DIM / 8; j++) {
            shared.long_sums[j][thread()] =
                make_float4(sums[4 * j], sums[4 * j + 1], sums[4 * j + 2], sums[4 * j + 3]);
            for (int i = 0; i < 4; i++) sums[4 * j + i] = 0;
        }
        *this = {FB_SUM_TILES, true};
    }

    // All sums of a task; the next one has none.
    template <class Memory> FB_DEVICE void join(const Memory& shared, Sums& sums) {
        take(shared, sums);
        *this = {};
    }
};
template <> struct LongSumsBy<false> {
    FB_DEVICE void shrink(const float (&)[2]) {}
    template <class Memory> FB_DEVICE void add(Memory&, Sums&) {}
    template <class Memory> FB_DEVICE void join(const Memory&, Sums&) {}
};
using LongSums = LongSumsBy<fp8_products>;
