// A token of each row by its probability, or the row's probabilities, after the filters.
#pragma once
#include "race.h"
#include "../ptx/pdl.h"

// ---- facts

// The numbers of one row; those that are not allowed are as if they were not given.
struct Numbers {
    float temperature;
    int32_t top_k; // 1 to the length
    float top_p;
    float min_p;
};

FB_DEVICE Numbers numbers_of(const fb_sample_params& p, int64_t row, uint32_t& status) {
    Numbers n = {number_of(p.temperatures, p.temperature, row),
                 number_of(p.top_ks, p.top_k == 0 ? p.vocabulary : p.top_k, row),
                 number_of(p.top_ps, p.top_p, row), number_of(p.min_ps, p.min_p, row)};
    const Numbers given = n;
    if (!(n.temperature >= 0 && n.temperature < FB_INFINITY)) n.temperature = 1;
    if (n.top_k < 1 || n.top_k > p.vocabulary) n.top_k = p.vocabulary;
    if (!(n.top_p > 0 && n.top_p <= 1)) n.top_p = 1;
    if (!(n.min_p >= 0 && n.min_p <= 1)) n.min_p = 0;
    if (n.temperature != given.temperature || n.top_k != given.top_k || n.top_p != given.top_p ||
        n.min_p != given.min_p)
        status |= FB_SAMPLE_PARAMETER;
    return n;
}

// ---- compute

// The last place that is kept, of those that weigh min_p or more.
template <int size>
FB_DEVICE uint64_t last_kept(Team<size>& team, const Row<size>& row, Weights weights, Numbers n,
                             bool is_joint) {
    uint64_t last = 0;
    if (n.top_k < row.length) {
        const auto each = [&](auto add) {
            row.each([&](int32_t index, float x) { add(place_of(x, index), 1.0f); });
        };
        const uint64_t k = uint64_t(n.top_k);
        last = find_cut<false>(team, each, [=](uint64_t) { return k; }).place;
    }
    if (n.top_p >= 1) return last;
    // Of what the other filters keep, or of the whole row.
    const uint64_t from = is_joint ? 0 : last;
    const float least = is_joint ? 0 : n.min_p;
    const auto each = [&](auto add) {
        row.each([&](int32_t index, float x) {
            const uint64_t place = place_of(x, index);
            if (place < from) return;
            const float weight = weights.of(x);
            if (weight >= least) add(place, weight);
        });
    };
    const double part = n.top_p;
    const auto target = [=](uint64_t total) {
        const uint64_t wanted = uint64_t(part * double(total));
        return wanted < 1 ? 1 : wanted;
    };
    return Most::of(last, find_cut<true>(team, each, target).place);
}

// The token that wins the race among what is kept.
template <int size>
FB_DEVICE int32_t draw(Team<size>& team, const Row<size>& row, Weights weights, uint64_t last,
                       float min_p, Philox random) {
    const auto weigh = [&](int32_t start, const float* x, int32_t count, float* weight) {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) {
            weight[i] = i < count && place_of(x[i], start + i) >= last ? weights.of(x[i]) : 0;
            if (weight[i] < min_p) weight[i] = 0;
        }
    };
    return index_of_winner(race(team, row, random, weigh));
}

// ---- store

template <int size>
FB_DEVICE void write_row(const fb_sample_params& p, int64_t index, const Row<size>& row,
                         Weights weights, uint64_t last, float min_p, float mass) {
    const uint64_t target = p.out + index * p.out_stride * element_bytes(p.out_dtype);
    const int32_t bytes = element_bytes(p.out_dtype);
    const bool is_masked = p.out_kind == FB_SAMPLE_MASKED;
    const float dropped = is_masked && !row.is_probability ? -FB_INFINITY : 0;
    const float factor = mass > 0 ? 1 / mass : 0;
    row.each_chunk([&](int32_t start, float* x, int32_t count) {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) {
            const float weight = mass > 0 ? weights.of(x[i]) : 0;
            const bool is_kept = mass > 0 && place_of(x[i], start + i) >= last && weight >= min_p;
            x[i] = !is_kept ? dropped : is_masked ? x[i] : weight * factor;
        }
        store_chunk(p.out_dtype, target + int64_t(start) * bytes, count, x);
    });
}

// ---- the kernel

// Row `item`, by its team.
template <int size> FB_DEVICE void sample_row(const fb_sample_params& p, TeamShared& shared) {
    Team<size> team = make_team<size>(shared);
    const int64_t index = blockIdx.x / size;
    if (index >= p.row_count) return;
    const Row<size> row = {p.x + index * p.x_stride * element_bytes(p.dtype), p.dtype,
                           p.vocabulary, p.is_probabilities != 0};
    uint32_t status = 0;
    const Numbers n = numbers_of(p, index, status);
    const uint64_t first = row.largest(team, status);
    const bool has_mass = (status & FB_SAMPLE_NO_MASS) == 0;
    const bool is_greedy = n.temperature == 0 || n.top_k == 1;
    const Weights weights = weights_of(value_of(uint32_t(first >> index_bits)), n.temperature,
                                       row.is_probability);
    uint64_t last = first;
    if (!is_greedy && has_mass) last = last_kept(team, row, weights, n, p.is_joint != 0);
    int32_t token = has_mass ? index_of(first) : 0;
    if (p.tokens != 0 && !is_greedy && has_mass) {
        const uint64_t seed = uint64_t(number_of(p.seeds, p.seed, index));
        const int64_t of_all = p.is_position_row != 0 ? index : p.position;
        const int64_t position =
            p.positions == 0 ? of_all : items<const int32_t>(p.positions)[index];
        const Philox random = {seed, uint64_t(position), draw_token};
        token = draw(team, row, weights, last, n.min_p, random);
    }
    if (p.out != 0) {
        float mass = has_mass ? 1 : 0;
        if (has_mass && p.out_kind == FB_SAMPLE_PROBABILITIES)
            mass = row.mass(team, weights, last, n.min_p);
        write_row(p, index, row, weights, last, n.min_p, mass);
    }
    if (team.rank() == 0 && threadIdx.x == 0) {
        if (p.tokens != 0) items<int32_t>(p.tokens)[index] = token;
        if (p.status != 0) items<int32_t>(p.status)[index] = int32_t(status);
    }
    // Nobody leaves while others may still read its memory.
    if (size > 1) team.sync();
}
