// Where a row is cut: its elements stand in one order, by value and of equal ones the first first,
// and a sum over them, of ones or of weights, is reached at one of them. Found digit by digit from
// histograms, in at most seven passes over the row. All sums are integers: they are the same
// however a row is spread over threads.
#pragma once
#include "team.h"
#include "../ptx/special.h"

// ---- facts

constexpr int digit_bits = 8;
constexpr int index_bits = 24;
constexpr int place_bits = 32 + index_bits;
// A weight of 1.
constexpr float weight_one = 0x1p45f;

// ---- compute

// Larger for larger numbers; -0 is 0.
FB_DEVICE uint32_t key_of(float x) {
    const uint32_t bits = __float_as_uint(x + 0.0f);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

FB_DEVICE float value_of(uint32_t key) {
    return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

// Larger for what comes first.
FB_DEVICE uint64_t place_of(float x, int32_t index) {
    return uint64_t(key_of(x)) << index_bits | uint32_t(0xffffff - index);
}

FB_DEVICE int32_t index_of(uint64_t place) { return 0xffffff - int32_t(place & 0xffffff); }

// Weights from 0 to 1 as whole multiples of 2^-45, and their sum: in two parts, of 2^-23 and of the
// rest, which additions of floats round to. A thread sums up to 500 of them.
struct WeightSum {
    uint32_t high = 0;
    uint32_t low = 0;
    uint32_t count = 0;

    FB_DEVICE void add(float weight) {
        const float lifted = weight + 1.0f;
        const float rest = weight - (lifted - 1.0f);
        high += __float_as_uint(lifted);
        low += __float_as_uint(fmaf(rest, weight_one, 0x1.8p23f));
        count++;
    }

    FB_DEVICE uint64_t total() const {
        const uint32_t parts = high - count * __float_as_uint(1.0f);
        const uint32_t rests = low - count * __float_as_uint(0x1.8p23f);
        return (uint64_t(parts) << 22) + uint64_t(int64_t(int32_t(rests)));
    }
};

FB_DEVICE uint64_t integer_weight(float weight) {
    WeightSum sum;
    sum.add(weight);
    return sum.total();
}

// What a place keeps: those before it and its own.
struct Keeps {
    float x;
    int32_t index;

    FB_DEVICE bool operator()(float other, int32_t at) const {
        return (other > x) | ((other == x) & (at <= index));
    }
};

FB_DEVICE Keeps keeps_of(uint64_t last) {
    if (last == 0) return {-FB_INFINITY, 0xffffff};
    return {value_of(uint32_t(last >> index_bits)), index_of(last)};
}

template <int size>
FB_DEVICE void add_to_bin(Team<size>& team, int bins_turn, bool weighted, uint32_t bin,
                          float weight) {
    const int copy = threadIdx.x % bin_copies;
    auto& bins = team.shared.bins[bins_turn];
    atomicAdd(&bins[0][bin][copy], 1u);
    if (!weighted) return;
    const uint64_t whole = integer_weight(weight);
    FB_UNROLL
    for (int part = 0; part < part_count; part++) {
        const uint32_t bits = uint32_t(whole >> part * part_bits) &
                              (part + 1 < part_count ? (1u << part_bits) - 1 : ~0u);
        if (bits != 0) atomicAdd(&bins[1 + part][bin][copy], bits);
    }
}

FB_DEVICE void clear_bins(TeamShared& shared, int turn) {
    uint32_t* const words = &shared.bins[turn][0][0][0];
    for (int i = recomputed(int(threadIdx.x)); i < (1 + part_count) * bin_count * bin_copies;
         i += team_threads)
        words[i] = 0;
}

FB_DEVICE void clear_distances(TeamShared& shared) {
    uint32_t* const words = &shared.distances.parts[0][0];
    for (int i = threadIdx.x; i < part_count * distance_count; i += team_threads) words[i] = 0;
}

struct Bin {
    uint64_t sum;
    uint32_t count;
};

// What the whole team added to this thread's bin.
template <int size> FB_DEVICE Bin team_bin(Team<size>& team, bool weighted, int turn) {
    Bin bin = {0, 0};
    if (threadIdx.x >= bin_count) return bin;
    FB_NO_UNROLL
    for (int other = 0; other < size; other++) {
        FB_UNROLL
        for (int part = 0; part < 1 + part_count; part++) {
            if (part > 0 && !weighted) break;
            const uint4 copies =
                team.load_16(team.in(other, team.shared.bins[turn][part][threadIdx.x]));
            const uint64_t sum = uint64_t(copies.x) + copies.y + copies.z + copies.w;
            if (part == 0) bin.count += uint32_t(sum);
            else bin.sum += sum << (part - 1) * part_bits;
        }
    }
    if (!weighted) bin.sum = bin.count;
    return bin;
}

FB_DEVICE uint64_t shuffle(uint64_t x, int lane) {
    const uint32_t low = __shfl_sync(~0u, uint32_t(x), lane);
    return uint64_t(__shfl_sync(~0u, uint32_t(x >> 32), lane)) << 32 | low;
}

// The sum of this lane's and all earlier ones.
FB_DEVICE uint64_t scan_warp(uint64_t sum) {
    FB_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t low = __shfl_up_sync(~0u, uint32_t(sum), distance);
        const uint32_t high = __shfl_up_sync(~0u, uint32_t(sum >> 32), distance);
        if (int(threadIdx.x) % 32 >= distance) sum += uint64_t(high) << 32 | low;
    }
    return sum;
}

// The sum of this thread's and all earlier bins; of all threads it is `shared.total`.
FB_DEVICE uint64_t scan_bins(TeamShared& shared, uint64_t sum) {
    sum = scan_warp(sum);
    if (threadIdx.x % 32 == 31) shared.warp_sums[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int warp = 0; warp < int(threadIdx.x) / 32; warp++) sum += shared.warp_sums[warp];
    if (threadIdx.x == team_threads - 1) shared.total = sum;
    __syncthreads();
    return sum;
}

// What a search ends with: the last place that belongs to the sum.
struct Cut {
    uint64_t place; // 0: all, as the sum is not reached
    uint64_t total; // the sum over everything that was searched
};

// What a sum is to reach: a number of elements, or a part of the whole sum of their weights.
struct Target {
    bool weighted;
    uint64_t count;
    float part;

    FB_DEVICE uint64_t of(uint64_t total) const {
        if (!weighted) return count;
        const uint64_t wanted = uint64_t(double(part) * double(total));
        return wanted < 1 ? 1 : wanted;
    }
};

FB_DEVICE Target count_of(int32_t count) { return {false, uint64_t(count), 0}; }

FB_DEVICE Target part_of(float part) { return {true, 0, part}; }

// The place at which the sum over the row reaches the target. Each element comes by `each(add)`, as
// add(index, element, weight).
template <int size, class Each>
FB_DEVICE Cut find_cut(Team<size>& team, const Each& each, Target wanted) {
    const bool weighted = wanted.weighted;
    TeamShared& shared = team.shared;
    team.sync(); // nobody needs what was there before
    int bins_turn = 0;
    clear_bins(shared, bins_turn);
    __syncthreads();
    uint64_t prefix = 0;
    uint64_t total = 0;
    uint64_t target = 0; // what is left of it
    FB_NO_UNROLL
    for (int shift = place_bits - digit_bits; shift >= 0; shift -= digit_bits) {
        each([&](int32_t index, float x, float weight) {
            const uint64_t place = place_of(x, index);
            if (place >> shift >> digit_bits != prefix) return;
            const uint32_t digit = uint32_t(place >> shift) % bin_count;
            add_to_bin(team, bins_turn, weighted, bin_count - 1 - digit, weight);
        });
        team.sync();
        const Bin bin = team_bin(team, weighted, bins_turn);
        bins_turn ^= 1;
        clear_bins(shared, bins_turn);
        const uint64_t sum = scan_bins(shared, bin.sum);
        if (shift == place_bits - digit_bits) {
            total = shared.total;
            target = wanted.of(total);
            if (target > total || total == 0) break;
        }
        if (threadIdx.x < bin_count && sum >= target && sum - bin.sum < target) {
            shared.found[0] = bin_count - 1 - threadIdx.x;
            shared.found[1] = sum - bin.sum;
            shared.found[2] = bin.sum;
            shared.found[3] = bin.count;
        }
        __syncthreads();
        prefix = prefix << digit_bits | shared.found[0];
        target -= shared.found[1];
        // Alone in its bin, or the bin is wanted as a whole (a sum of weights may be reached before
        // its end, where weights are 0). The last digit tells all apart.
        if (shared.found[3] == 1 || (!weighted && target == shared.found[2]))
            return {prefix << shift, total};
    }
    return {0, total};
}
