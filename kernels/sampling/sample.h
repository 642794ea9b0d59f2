// A token of each row by its probability, or the row's probabilities, after the filters.
#pragma once
#include "listed.h"
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

// Elements of a row with their weights, for sums over them: those kept so far that weigh
// `least` or more, or, to be counted, all.
template <int size> struct Elements {
    const Row<size>& row;
    Weights weights;
    bool weighted;
    Keeps kept;
    float least;

    template <class Add> FB_DEVICE void operator()(const Add& add) const {
        row.each([&](int32_t index, float x) {
            float weight = 1;
            if (weighted) {
                if (!kept(x, index)) return;
                weight = weights.of(x);
                if (!(weight >= least)) return;
            }
            add(index, x, weight);
        });
    }
};

// The last place that is kept, of those that weigh min_p or more.
struct Kept {
    uint64_t last;
    bool is_listed; // the first top_k are the first block's list; other filters are not applied
};

// `first_lists`: a list that holds all that is kept will do, of the first block.
template <int size>
FB_DEVICE Kept last_kept(Team<size>& team, const Row<size>& row, Weights weights, Numbers n,
                         bool is_joint, bool first_lists) {
    const TeamShared& shared = team.shared;
    uint64_t last = 0;
    // By top-k, then by top-p.
    FB_NO_UNROLL
    for (int turn = n.top_k < row.length ? 0 : 1; turn < (n.top_p < 1 ? 2 : 1); turn++) {
        const bool weighted = turn == 1;
        const Target wanted = weighted ? part_of(n.top_p) : count_of(n.top_k);
        // Top-p is of what the other filters keep, or of the whole row.
        const Elements<size> each = {row, weights, weighted, keeps_of(is_joint ? 0 : last),
                                     is_joint ? 0 : n.min_p};
        const bool first_only = first_lists && !weighted;
        Listed listed = {-1, false, 0};
        if (weighted || n.top_k <= listed_most)
            listed = list_cut(team, bins_of(weights, weighted), each, wanted, first_only);
        if (first_only && listed.is_whole) return {0, true};
        uint64_t place;
        if (listed.count < 0 || first_only) {
            place = find_cut(team, each, wanted).place;
        } else if (!weighted) {
            place = shared.lists.sorted[listed.target - 1];
        } else {
            const auto weight_of = [&](uint64_t at) {
                return integer_weight(weights.of(value_of(uint32_t(at >> index_bits))));
            };
            place = reached_place(team.shared, listed.count, weight_of,
                                  {false, listed.target, 0});
        }
        last = Most::of(last, place);
    }
    return {last, false};
}

// The token that wins the race among what is kept.
template <int size>
FB_DEVICE int32_t draw(Team<size>& team, const Row<size>& row, Weights weights, uint64_t last,
                       float min_p, Philox random) {
    const Keeps keeps = keeps_of(last);
    const auto weigh = [&](int32_t start, const float* x, int32_t count, float* weight) {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) {
            weight[i] = i < count && keeps(x[i], start + i) ? weights.of(x[i]) : 0;
            if (weight[i] < min_p) weight[i] = 0;
        }
    };
    return index_of_winner(race(team, row, random, weigh));
}

// The same among the first top_k of a sorted list, by one block.
FB_DEVICE int32_t draw_listed(TeamShared& shared, Weights weights, Numbers n, Philox random) {
    const uint64_t* const places = shared.lists.sorted;
    const auto weight_of = [=](uint64_t place) {
        const float weight = weights.of(value_of(uint32_t(place >> index_bits)));
        return weight >= n.min_p ? weight : 0;
    };
    uint64_t last = 0;
    if (n.top_p < 1) {
        const auto whole = [=](uint64_t place) { return integer_weight(weight_of(place)); };
        last = reached_place(shared, n.top_k, whole, part_of(n.top_p));
    }
    Runner best;
    for (int32_t at = threadIdx.x; at < n.top_k; at += team_threads) {
        const uint64_t place = places[at];
        if (place < last) break;
        best.take(weight_of(place), random, uint32_t(index_of(place)));
    }
    Team<1> block = {shared};
    return index_of_winner(block.reduce<Most>(best.winner()));
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
    const Keeps keeps = keeps_of(last);
    row.each_chunk([&](int32_t start, float* x, int32_t count) {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) {
            const float weight = mass > 0 ? weights.of(x[i]) : 0;
            const bool is_kept = mass > 0 && keeps(x[i], start + i) && weight >= min_p;
            x[i] = !is_kept ? dropped : is_masked ? x[i] : weight * factor;
        }
        store_chunk(p.out_dtype, target + int64_t(start) * bytes, count, x);
    });
}

// ---- the kernel

FB_DEVICE Philox noise_of(const fb_sample_params& p, int64_t row) {
    const uint64_t seed = uint64_t(number_of(p.seeds, p.seed, row));
    const int64_t of_all = p.is_position_row != 0 ? row : p.position;
    const int64_t position = p.positions == 0 ? of_all : items<const int32_t>(p.positions)[row];
    return {seed, uint64_t(position), draw_token};
}

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
    int32_t token = has_mass ? index_of(first) : 0;
    if (!is_greedy && has_mass) {
        const bool is_joint = p.is_joint != 0;
        const bool first_lists = p.out == 0 && !(is_joint && n.top_p < 1);
        const Kept kept = last_kept(team, row, weights, n, is_joint, first_lists);
        last = kept.last;
        const Philox random = noise_of(p, index);
        if (kept.is_listed) {
            if (team.rank() == 0) token = draw_listed(shared, weights, n, random);
        } else if (p.tokens != 0) {
            token = draw(team, row, weights, last, n.min_p, random);
        }
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
