// A token of each row by its probability, or the row's probabilities, after the filters.
#pragma once
#include "few.h"
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

// The last place that is kept, of those that weigh min_p or more; top-p counts if `is_whole`.
template <int size>
FB_DEVICE uint64_t last_kept(Team<size>& team, const Row<size>& row, Weights weights,
                             const Numbers& n, bool is_joint, bool is_whole) {
    const TeamShared& shared = team.shared;
    uint64_t last = 0;
    // By top-k, then by top-p.
    const int turns = is_whole && n.top_p < 1 ? 2 : 1;
    FB_NO_UNROLL
    for (int turn = n.top_k < row.length ? 0 : 1; turn < turns; turn++) {
        const bool weighted = turn == 1;
        const Target wanted = weighted ? part_of(n.top_p) : count_of(n.top_k);
        // Top-p is of what the other filters keep, or of the whole row.
        const Elements<size> each = {row, weights, weighted, keeps_of(is_joint ? 0 : last),
                                     is_joint ? 0 : n.min_p};
        Listed listed = {-1, false, 0};
        if (weighted || n.top_k <= listed_most)
            listed = list_cut(team, bins_of(weights, weighted), each, wanted, false);
        uint64_t place;
        if (listed.count < 0) {
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
        last = Largest::of(last, place);
    }
    return last;
}

// What a draw is made of: what is kept from `last` on and weighs min_p or more.
template <int size> struct Draw {
    Team<size>& team;
    const Row<size>& row;
    Weights weights;
    float min_p;
    Philox random;

    // Its winner, and the sum of the weights if that is asked for.
    FB_DEVICE uint64_t winner(uint64_t last, bool is_summed, uint64_t& sum) const {
        const Keeps keeps = keeps_of(last);
        WeightSum part;
        uint64_t own = 0;
        const auto run_by = [&](const auto& of_kind) {
            return run(team, row, random, [&](int32_t start, const float* x, float* weight) {
                FB_UNROLL
                for (int i = 0; i < quad; i++) {
                    weight[i] = of_kind.of(x[i]);
                    if (weight[i] < min_p) weight[i] = 0;
                }
                FB_UNROLL
                for (int i = 0; last != 0 && i < quad; i++)
                    if (!keeps(x[i], start + i)) weight[i] = 0;
                if (!is_summed) return;
                FB_UNROLL
                for (int i = 0; i < quad; i++) part.add(weight[i]);
                if (size > 1) return;
                own += part.total();
                part = {};
            });
        };
        uint64_t first = by_kind(weights, run_by).winner();
        own += part.total();
        if (is_summed) {
            team.template reduce_two<Largest, Sum>(first, own);
            sum = own;
            return first;
        }
        return team.template reduce<Largest>(first);
    }
};

// Draws, and looks whether the part `top_p` of the mass reaches as far as the winner. If not, the
// winner among what stands before it is the next one to try: what top-p keeps is a beginning.
constexpr int tries_most = 8;

// Below 0: too many tries. `last`: of what else is kept; top_p 1: everything of it.
template <int size>
FB_DEVICE int32_t draw_top_p(const Draw<size>& draw, uint64_t last, float top_p, bool is_joint) {
    const Target wanted = part_of(top_p);
    uint64_t total = 0;
    uint64_t from = 0;
    int32_t token = -1;
    // Of the whole row first, where that counts.
    FB_NO_UNROLL
    for (int turn = top_p < 1 && is_joint ? -1 : 0; turn < tries_most; turn++) {
        if (turn >= 0) {
            const bool is_summed = turn == 0 && top_p < 1 && !is_joint;
            token = index_of_winner(draw.winner(turn == 0 ? last : from, is_summed, total));
            if (top_p == 1) return token;
            // What stands before the token.
            from = place_of(draw.row.at(token), token) + 1;
        }
        const uint64_t before =
            draw.row.sum(draw.team, draw.weights, from, is_joint ? 0 : draw.min_p);
        if (turn < 0) total = before;
        else if (before < wanted.of(total)) return token;
    }
    return -1;
}

// What a row's own pass writes: what is kept, and of which mass; 0: nothing.
struct Kept {
    Weights weights;
    uint64_t last;
    float mass;
};

// Of `count` places in lists.sorted, by one block.
FB_DEVICE Kept keep_few(TeamShared& shared, Weights weights, Numbers n, int32_t count) {
    const uint64_t* const places = shared.lists.sorted;
    const auto whole = [=](uint64_t place) {
        const float weight = weights.of(value_of(uint32_t(place >> index_bits)));
        return weight >= n.min_p ? integer_weight(weight) : 0;
    };
    uint64_t last = places[count - 1];
    if (n.top_p < 1)
        last = Largest::of(last, reached_place(shared, count, whole, part_of(n.top_p)));
    uint64_t sum = 0;
    for (int32_t at = threadIdx.x; at < count; at += team_threads)
        if (places[at] >= last) sum += whole(places[at]);
    Team<1> block = {shared};
    return {weights, last, mass_of(block.reduce<Sum>(sum))};
}

// A token of the first `count` in lists.sorted, by the first warp of a block.
FB_DEVICE int32_t draw_few(const TeamShared& shared, Weights weights, const Numbers& n,
                           int32_t count, Philox random) {
    constexpr int each_lane = few_most / 32;
    const int lane = threadIdx.x;
    uint64_t places[each_lane];
    float weight[each_lane];
    uint64_t own = 0;
    FB_UNROLL
    for (int i = 0; i < each_lane; i++) {
        const int32_t at = lane * each_lane + i;
        places[i] = at < count ? shared.lists.sorted[at] : 0;
        weight[i] = at < count ? weights.of(value_of(uint32_t(places[i] >> index_bits))) : 0;
        if (weight[i] < n.min_p) weight[i] = 0;
        own += integer_weight(weight[i]);
    }
    uint64_t before = 0, target = ~uint64_t(0);
    if (n.top_p < 1) {
        const uint64_t end = scan_warp(own);
        target = part_of(n.top_p).of(shuffle(end, 31));
        before = end - own;
    }
    Runner best;
    FB_UNROLL
    for (int i = 0; i < each_lane; i++) {
        if (before < target) best.take(weight[i], random, uint32_t(index_of(places[i])));
        before += integer_weight(weight[i]);
    }
    return index_of_winner(reduce_warp<Largest>(best.winner()));
}

// ---- store

template <int size>
FB_DEVICE void write_row(const fb_sample_params& p, int64_t index, const Row<size>& row,
                         const Kept& kept, float min_p) {
    auto [weights, last, mass] = kept;
    weights.is_probability = row.is_probability; // not held in a register until here
    const uint64_t target = p.out + index * p.out_stride * element_bytes(p.out_dtype);
    const int32_t bytes = element_bytes(p.out_dtype);
    const bool is_masked = p.out_kind == FB_SAMPLE_MASKED;
    const float dropped = is_masked && !row.is_probability ? -FB_INFINITY : 0;
    const float factor = mass > 0 ? 1 / mass : 0;
    const Keeps keeps = keeps_of(last);
    const bool is_none = !(mass > 0);
    const bool is_all = !is_none && last == 0 && min_p == 0;
    by_kind(weights, [&](const auto& weigh) {
        row.each_quad([&](int32_t start, const float* x, int32_t count) {
            float y[quad];
            FB_UNROLL
            for (int i = 0; i < quad; i++) y[i] = is_masked ? x[i] : weigh.of(x[i]) * factor;
            FB_UNROLL
            for (int i = 0; !is_all && i < quad; i++)
                if (is_none | !keeps(x[i], start + i) | !(weigh.of(x[i]) >= min_p)) y[i] = dropped;
            if (count > 0) store_quad(p.out_dtype, target + int64_t(start) * bytes, count, y);
        });
    });
}

// ---- the kernel

FB_DEVICE Philox noise_of(const fb_sample_params& p, int64_t row) {
    const uint64_t seed = uint64_t(number_of(p.seeds, p.seed, row));
    const int64_t of_all = p.is_position_row != 0 ? row : p.position;
    const int64_t position = p.positions == 0 ? of_all : items<const int32_t>(p.positions)[row];
    return {seed, uint64_t(position), draw_token};
}

// By the team's leader.
FB_DEVICE void store_result(const fb_sample_params& p, int64_t index, int32_t token,
                            uint32_t status) {
    if (threadIdx.x != 0) return;
    if (p.tokens != 0) items<int32_t>(p.tokens)[index] = token;
    if (p.status != 0) items<int32_t>(p.status)[index] = int32_t(status);
}

// A row and how it is treated, the same for all threads: where registers are few, in shared memory.
template <int size> struct Task {
    Row<size> row;
    int64_t index;
    Numbers n;
    uint32_t status; // of n
};

template <int size>
FB_DEVICE Task<size> task_of(const fb_sample_params& p, int64_t index, const Row<size>& row) {
    uint32_t status = 0;
    const Numbers n = numbers_of(p, index, status);
    return {row, index, n, status};
}

// By the first top_k alone, if they are few; false: by all that follows. `ahead` is called once
// the row itself is no longer needed.
template <int size, class Ahead>
FB_DEVICE bool take_few(const fb_sample_params& p, Team<size>& team, const Task<size>& task,
                        Most own, Ahead ahead, Kept& kept) {
    const Row<size>& row = task.row;
    const Numbers n = task.n;
    const bool is_drawn = p.out == 0;
    const bool is_greedy = n.temperature == 0 || n.top_k == 1;
    if (is_greedy || n.top_k > few_most || n.top_k >= row.length) return false;
    if (p.is_joint != 0 && n.top_p < 1) return false;
    const Few few = list_few(team, row, own, n.top_k, is_drawn, true);
    if (few.count < 0) return false;
    if (is_drawn) ahead();
    if (is_drawn && (!team.is_leader() || threadIdx.x >= 32)) return true;
    const int32_t count = few.count < n.top_k ? few.count : n.top_k;
    int32_t token = 0;
    if (count > 0) {
        const float largest = value_of(uint32_t(team.shared.lists.sorted[0] >> index_bits));
        const Weights weights = weights_of(largest, n.temperature, row.is_probability);
        if (is_drawn) token = draw_few(team.shared, weights, n, count, noise_of(p, task.index));
        else kept = keep_few(team.shared, weights, n, count);
    }
    if (team.is_leader())
        store_result(p, task.index, token, task.status | (few.is_odd ? FB_SAMPLE_NAN : 0) |
                                          (count == 0 ? FB_SAMPLE_NO_MASS : 0));
    return true;
}

template <int size, class Ahead>
FB_DEVICE void take_all(const fb_sample_params& p, Team<size>& team, const Task<size>& task,
                        Most own, Ahead ahead, Kept& kept) {
    const Row<size>& row = task.row;
    uint32_t status = task.status;
    const uint64_t first = row.largest(team, own, status);
    const bool has_mass = (status & FB_SAMPLE_NO_MASS) == 0;
    const bool is_first = team.is_leader();
    if (is_first) store_result(p, task.index, has_mass ? index_of(first) : 0, status);
    if (!has_mass) return;
    const Weights weights = weights_of(value_of(uint32_t(first >> index_bits)),
                                       task.n.temperature, row.is_probability);
    uint64_t last = first;
    if (task.n.temperature != 0 && task.n.top_k != 1) {
        const bool is_joint = p.is_joint != 0;
        // Top-p is tried, and looked for where that fails.
        FB_NO_UNROLL
        for (bool is_tried = p.out == 0 && task.n.top_p < 1;; is_tried = false) {
            last = last_kept(team, row, weights, task.n, is_joint, !is_tried);
            if (p.out != 0) break;
            const Draw<size> draw = {team, row, weights, task.n.min_p, noise_of(p, task.index)};
            const int32_t token = draw_top_p(draw, last, is_tried ? task.n.top_p : 1, is_joint);
            if (token < 0 && is_tried) continue;
            if (is_first && threadIdx.x == 0) items<int32_t>(p.tokens)[task.index] = token;
            break;
        }
    }
    if (p.out == 0) {
        // The likeliest alone is found sooner than the next row's copies are begun.
        if (task.n.temperature != 0 && task.n.top_k != 1) ahead();
        return;
    }
    const bool is_renormalized = p.out_kind == FB_SAMPLE_PROBABILITIES;
    const float mass = is_renormalized ? mass_of(row.sum(team, weights, last, task.n.min_p)) : 1;
    kept = {weights, last, mass};
}

// A row, by its team, which meets once all have seen their part for the first time, and is left.
template <int size, class Ahead>
FB_DEVICE void sample_row(const fb_sample_params& p, Team<size>& team, const Task<size>& task,
                          Ahead ahead) {
    Kept kept = {};
    const Most own = task.row.most();
    team.meet();
    const bool is_left = take_few(p, team, task, own, ahead, kept);
    if (!is_left) take_all(p, team, task, own, ahead, kept);
    if (p.out != 0) write_row(p, task.index, task.row, kept, task.n.min_p);
    if (!is_left) team.leave();
}
