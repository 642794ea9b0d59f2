// The k largest of each row in falling order, as they are or as log-probabilities.
#pragma once
#include "few.h"
#include "../ptx/pdl.h"

// ---- facts

// Logarithms of probabilities to base e.
struct LogProbabilities {
    Weights weights;
    float log_mass; // to base 2, as weights are

    FB_DEVICE float of(float x) const {
        const float weight = x == weights.largest ? 0 : (x - weights.largest) * weights.scale;
        return (weight - log_mass) * 0.693147181f;
    }
};

// ---- load

// The row of results: places as pairs of a value and an index.
struct Results {
    uint64_t values;
    int32_t* indices;
    int32_t dtype;

    FB_DEVICE float value(int32_t at) const {
        if (dtype == FB_F32) return items<const float>(values)[at];
        const uint16_t bits = items<const uint16_t>(values)[at];
        return dtype == FB_F16 ? f16_to_float(bits) : bf16_to_float(bits);
    }

    FB_DEVICE void set_value(int32_t at, float x) const {
        if (dtype == FB_F32) items<float>(values)[at] = x;
        else items<uint16_t>(values)[at] =
            uint16_t(dtype == FB_F16 ? pack_f16(x, 0) : pack_bf16(x, 0));
    }

    FB_DEVICE uint64_t get(int32_t at) const { return place_of(value(at), indices[at]); }

    FB_DEVICE void set(int32_t at, uint64_t place) const {
        set_value(at, value_of(uint32_t(place >> index_bits)));
        indices[at] = index_of(place);
    }
};

// ---- compute

// What stands at `last` or before it, in any order.
template <int size>
FB_DEVICE void gather(Team<size>& team, const Row<size>& row, uint64_t last, uint32_t& next,
                      const Results& results) {
    uint64_t mine = 0;
    row.each([&](int32_t index, float x) { mine += place_of(x, index) >= last ? 1 : 0; });
    // A block's places come behind those of the blocks before it.
    const uint64_t before = team.template reduce<Sum>(mine, team.rank());
    if (threadIdx.x == 0) next = uint32_t(before);
    __syncthreads();
    row.each([&](int32_t index, float x) {
        const uint64_t place = place_of(x, index);
        if (place >= last) results.set(int32_t(atomicAdd(&next, 1u)), place);
    });
}

FB_DEVICE void store_sorted(const TeamShared& shared, int32_t k, const Results& results) {
    for (int32_t at = threadIdx.x; at < k; at += team_threads)
        results.set(at, shared.lists.sorted[at]);
}

// By the first block of the team.
FB_DEVICE void sort_results(TeamShared& shared, int32_t k, const Results& results) {
    if (k > listed_most) {
        sort_falling(
            k, [&](int32_t at) { return results.get(at); },
            [&](int32_t at, uint64_t place) { results.set(at, place); });
        return;
    }
    uint64_t* const places = shared.lists.sorted;
    for (int32_t at = threadIdx.x; at < k; at += team_threads) places[at] = results.get(at);
    __syncthreads();
    sort_falling(
        k, [&](int32_t at) { return places[at]; },
        [&](int32_t at, uint64_t place) { places[at] = place; });
    store_sorted(shared, k, results);
}

// ---- the kernel

// Row `index`, by its team, which has to meet before another one follows.
template <int size>
FB_DEVICE void top_k_row(const fb_top_k_params& p, Team<size>& team, const Row<size>& row,
                         int64_t index, uint32_t& next) {
    TeamShared& shared = team.shared;
    const bool is_log = p.is_log_probabilities != 0;
    const bool is_few = p.k > 0 && p.k <= few_most;
    const bool is_first = team.rank() == 0;
    const Most own = row.most();
    uint32_t status = 0;
    Few few = {-1, false};
    // The list has the largest too.
    if (is_few && !is_log) few = list_few(team, row, own, p.k, true, false);
    bool is_listed = is_few && few.count >= p.k;
    if (is_listed && few.is_odd) status |= FB_SAMPLE_NAN;
    uint64_t first = 0;
    if (!is_listed) first = row.largest(team, own, status);
    const bool has_mass = (status & FB_SAMPLE_NO_MASS) == 0;
    LogProbabilities log_of = {
        weights_of(value_of(uint32_t(first >> index_bits)), p.temperature, false), FB_INFINITY};
    if (is_log && has_mass) log_of.log_mass = log2f(mass_of(row.sum(team, log_of.weights, 0, 0)));
    if (is_first && threadIdx.x == 0) {
        if (p.status != 0) items<int32_t>(p.status)[index] = int32_t(status);
        if (p.tokens != 0) {
            const int32_t token = items<const int32_t>(p.tokens)[index];
            const bool is_there = token >= 0 && token < p.row_length && has_mass;
            items<float>(p.chosen)[index] = is_there ? log_of.of(row.at(token)) : -FB_INFINITY;
        }
    }
    if (p.k == 0) return;
    const int32_t dtype = is_log ? FB_F32 : p.dtype;
    const Results results = {p.values + index * p.values_stride * element_bytes(dtype),
                             items<int32_t>(p.indices) + index * p.indices_stride, dtype};
    const auto each = [&](const auto& add) {
        row.each([&](int32_t at, float x) { add(at, x, 1.0f); });
    };
    const Target wanted = count_of(p.k);
    if (is_few && is_log) is_listed = list_few(team, row, own, p.k, true, false).count >= p.k;
    if (!is_listed && p.k <= listed_most)
        is_listed = list_cut(team, bins_of(log_of.weights, false), each, wanted, true).is_whole;
    if (!is_listed) {
        const uint64_t last = p.k < p.row_length ? find_cut(team, each, wanted).place : 0;
        gather(team, row, last, next, results);
        team.sync();
    }
    if (!is_first) return;
    if (is_listed) store_sorted(shared, p.k, results);
    else sort_results(shared, p.k, results);
    // Each thread its own: what it stored last, or all did before a barrier.
    for (int32_t at = threadIdx.x; is_log && at < p.k; at += team_threads)
        results.set_value(at, has_mass ? log_of.of(results.value(at)) : -FB_INFINITY);
}
