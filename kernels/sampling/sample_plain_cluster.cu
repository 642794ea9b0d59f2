// Tokens of rows of logits without top-k, a cluster for a row, which it holds: for GPUs that have
// clusters.
#include "../ptx/base.h"
#include "light.h"

// ---- compute

// The winner of what stands at `from` or before it, and the sum of the weights if that is asked
// for. `seen`: called by all threads once they have gone over the row.
template <bool is_cut, class Seen>
FB_DEVICE uint64_t race(Team<light_blocks>& team, const Progress& progress,
                        const Row<light_blocks>& row, bool is_summed, uint64_t& sum, Seen seen) {
    const LogitWeights weights = progress.weights;
    const float min_p = progress.task.n.min_p;
    const Keeps keeps = keeps_of(is_cut ? progress.from : 0);
    WeightSum part;
    const auto weigh = [&](int32_t start, const float* x, float* weight) {
        FB_UNROLL
        for (int i = 0; i < quad; i++) weight[i] = weights.of(x[i]);
        FB_UNROLL
        for (int i = 0; min_p > 0 && i < quad; i++)
            if (weight[i] < min_p) weight[i] = 0;
        if constexpr (is_cut) {
            FB_UNROLL
            for (int i = 0; i < quad; i++)
                if (!keeps(x[i], start + i)) weight[i] = 0;
        } else {
            FB_UNROLL
            for (int i = 0; is_summed && i < quad; i++) part.add(weight[i]);
        }
    };
    uint64_t first = run(team, row, progress.random, weigh, is_cut || min_p > 0).winner();
    seen();
    sum = part.total();
    if (!is_cut && is_summed) team.template reduce_two<Largest, Sum>(first, sum);
    else first = team.template reduce<Largest>(first);
    return first;
}

// The sum of the weights of what stands at `from` or before it.
FB_DEVICE uint64_t sum_until(Team<light_blocks>& team, const Progress& progress, uint64_t from,
                             float min_p) {
    const LogitWeights w = progress.weights;
    return progress.task.row.sum(team, {w.largest, w.scale, 1, false}, from, min_p);
}

// Both: what stands at `from` or before it, and the whole row.
FB_DEVICE uint64_t sums_of(Team<light_blocks>& team, const Progress& progress, uint64_t& whole) {
    const LogitWeights weights = progress.weights;
    const Keeps keeps = keeps_of(progress.from);
    WeightSum before, behind;
    progress.task.row.each_quad([&](int32_t start, const float* x, int32_t) {
        FB_UNROLL
        for (int i = 0; i < quad; i++) {
            const float weight = weights.of(x[i]);
            const bool is_before = keeps(x[i], start + i);
            before.add(is_before ? weight : 0);
            behind.add(is_before ? 0 : weight);
        }
    });
    uint64_t first = before.total();
    whole = first + behind.total();
    team.template reduce_two<Sum, Sum>(first, whole);
    return first;
}

// What top-p keeps, where trying takes too long: nothing is held from here on.
FB_DEVICE int32_t search(Team<light_blocks>& team, Progress& progress, bool is_joint) {
    Row<light_blocks> row = progress.task.row;
    row.part.held = row.part.first;
    const LogitWeights w = progress.weights;
    const Elements<light_blocks> each = {row, {w.largest, w.scale, 1, false}, true, keeps_of(0),
                                          is_joint ? 0 : progress.task.n.min_p};
    const uint64_t last = find_cut(team, each, part_of(progress.task.n.top_p)).place;
    if (threadIdx.x == 0) progress.from = last;
    __syncthreads();
    uint64_t ignored;
    const int32_t token = index_of_winner(race<true>(team, progress, row, false, ignored, [] {}));
    // The next row's copies write where bins were.
    fence_proxy_async_shared();
    __syncthreads();
    return token;
}

// As draw_top_p. `led`: who wins the race over the whole row, if that is known.
template <class Ahead>
FB_DEVICE int32_t draw(Team<light_blocks>& team, Progress& progress, bool is_joint, uint64_t led,
                       Ahead ahead) {
    const Row<light_blocks>& row = progress.task.row;
    const bool is_plain = progress.task.n.top_p == 1;
    if (!is_plain && is_joint && led == 0) {
        const uint64_t all = sum_until(team, progress, 0, 0);
        if (threadIdx.x == 0) progress.total = all;
    }
    FB_NO_UNROLL
    for (int turn = 0; turn < tries_most; turn++) {
        uint64_t sum;
        const auto seen = [&] {
            if (!is_plain) return;
            __syncthreads();
            ahead();
        };
        uint64_t winner = led;
        if (turn > 0) winner = race<true>(team, progress, row, false, sum, [] {});
        else if (led == 0)
            winner = race<false>(team, progress, row, !is_plain && !is_joint, sum, seen);
        const int32_t token = index_of_winner(winner);
        if (is_plain) return token;
        if (threadIdx.x == 0) {
            if (turn == 0 && !is_joint && led == 0) progress.total = sum;
            // What stands before the token.
            progress.from = place_of(row.at(token), token) + 1;
        }
        __syncthreads();
        uint64_t before;
        if (turn == 0 && led != 0) {
            before = sums_of(team, progress, sum);
            if (threadIdx.x == 0) progress.total = sum;
            __syncthreads();
        } else {
            before = sum_until(team, progress, progress.from, is_joint ? 0 : progress.task.n.min_p);
        }
        if (before < part_of(progress.task.n.top_p).of(progress.total)) return token;
    }
    return -1;
}

template <class Ahead>
FB_DEVICE void plain_row(const fb_sample_params& p, Team<light_blocks>& team, Progress& progress,
                         Ahead ahead) {
    const Task<light_blocks>& task = progress.task;
    const float temperature = task.n.temperature;
    // Where min-p keeps all, the largest and the winner are found together: not in a row with NaN,
    // or one that is not held as a whole.
    constexpr int32_t held_bytes = (light_bytes - held_start) * light_blocks;
    const bool is_held = task.row.length * element_bytes(task.row.dtype) <= held_bytes;
    const bool is_led = temperature != 0 && task.n.min_p == 0 && is_held;
    Lead lead;
    Most own;
    if (is_led) {
        if (threadIdx.x == 0) progress.random = noise_of(p, task.index);
        __syncthreads();
        lead = lead_of(team, task.row, progress.random, 1.44269504f / temperature);
        own = {lead.most, task.row.part.first, false};
    }
    if (!is_led || !(own.x == own.x)) {
        lead = {};
        own = task.row.most();
    }
    uint32_t status = 0;
    const uint64_t first = task.row.largest(team, own, status);
    const bool has_mass = (status & FB_SAMPLE_NO_MASS) == 0;
    if (team.is_leader())
        store_result(p, task.index, has_mass ? index_of(first) : 0, task.status | status);
    if (has_mass && temperature != 0) {
        if (threadIdx.x == 0) {
            progress.weights = {value_of(uint32_t(first >> index_bits)), 1.44269504f / temperature};
            if (!is_led) progress.random = noise_of(p, task.index);
        }
        __syncthreads();
        const LogitWeights weights = progress.weights;
        uint64_t led = 0;
        // Logarithms tell scores apart, unless they have no room for the numbers.
        const bool is_odd = (status & FB_SAMPLE_NAN) != 0;
        if (is_led && !is_odd && fabsf(weights.largest * weights.scale) < 1e30f) {
            if (task.n.top_p == 1) ahead();
            led = team.template reduce<Largest>(lead.winner(weights));
        }
        const bool is_joint = p.is_joint != 0;
        int32_t token = draw(team, progress, is_joint, led, ahead);
        if (token < 0) token = search(team, progress, is_joint);
        if (task.n.top_p < 1) ahead();
        if (team.is_leader() && threadIdx.x == 0) items<int32_t>(p.tokens)[task.index] = token;
    }
}

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_plain_cluster, fb_sample_params, team_threads, light_resident, 1,
            light_blocks, light_bytes) {
#if FB_ARCH >= 900
    each_light_row(p, [&](Team<light_blocks>& team, Progress& progress, const auto& ahead) {
        plain_row(p, team, progress, ahead);
    });
#endif
}
