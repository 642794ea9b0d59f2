// The tensor cores add products of fp8 to sums of about 14 bits, and cut off what is below: of many
// keys that would be felt. Every few tiles the sums are added in f32 to those before.
#pragma once
#include "softmax.h"

// None where products are not of fp8.
template <bool> struct LongSumsBy {
    int left = FB_SUM_TILES + 1; // calls of add until there are so many tiles in the sums
    bool any = false;
    float keep[2] = {1, 1}; // what the sums before are to be multiplied by

    // So many tiles, at most, are added without a call before the sums move.
    FB_DEVICE int ahead(int most) {
        const int count = min(uniform(left - 1), most);
        left -= count;
        return count;
    }

    FB_DEVICE static int thread() { return thread_now() - 128 * first_computing; }

    FB_DEVICE void shrink(const float (&by)[2]) {
        keep[0] *= by[0];
        keep[1] *= by[1];
    }

    template <class Memory> FB_DEVICE static uint32_t at(const Memory& shared, int j) {
        return shared_address(&shared.long_sums[j][thread()]);
    }

    // To `sums`, those before: a thread reads and writes only its own.
    FB_DEVICE void take(uint32_t from, int j, Sums& sums) const {
        const uint4 x = load_shared_16(from);
        sums[4 * j] += __uint_as_float(x.x) * keep[0];
        sums[4 * j + 1] += __uint_as_float(x.y) * keep[0];
        sums[4 * j + 2] += __uint_as_float(x.z) * keep[1];
        sums[4 * j + 3] += __uint_as_float(x.w) * keep[1];
    }
    FB_DEVICE static void put(uint32_t to, int j, const Sums& sums) {
        const float* x = &sums[4 * j];
        store_shared_16(to, make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]),
                                       __float_as_uint(x[2]), __float_as_uint(x[3])));
    }

    // Before the product of the next tile: the sums are `fresh` once they moved to those before.
    // A few at a time, since registers are scarce.
    template <class Memory> FB_DEVICE void add(Memory& shared, Sums& sums, bool& fresh) {
        if (--left > 0) return;
        constexpr int chunks = FB_VALUE_DIM / 8;
        FB_UNROLL
        for (int first = 0; first < chunks; first += 4) {
            if (any) {
                FB_UNROLL
                for (int j = first; j < first + 4; j++) take(at(shared, j), j, sums);
            }
            FB_UNROLL
            for (int j = first; j < first + 4; j++) put(at(shared, j), j, sums);
        }
        *this = {FB_SUM_TILES, true};
        fresh = true;
    }

    // All sums of a task; the next one has none.
    template <class Memory> FB_DEVICE void join(const Memory& shared, Sums& sums) {
        FB_UNROLL
        for (int j = 0; j < FB_VALUE_DIM / 8 && any; j++) take(at(shared, j), j, sums);
        *this = {};
    }
};
template <> struct LongSumsBy<false> {
    FB_DEVICE int ahead(int) { return 0; }
    FB_DEVICE void shrink(const float (&)[2]) {}
    template <class Memory> FB_DEVICE void add(Memory&, Sums&, bool&) {}
    template <class Memory> FB_DEVICE void join(const Memory&, Sums&) {}
};
using LongSums = LongSumsBy<fp8_products>;
