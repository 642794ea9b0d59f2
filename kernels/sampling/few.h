// The first few of a row, in order. A number that as many threads of a block have, or a larger one,
// is not above the last of them: what is at least the largest such number is listed, which is
// little more than is asked for. One meeting of the team is enough.
#pragma once
#include "listed.h"
#include "streamed.h"

// ---- facts

// More are listed the usual way.
constexpr int few_most = 128;
// So many more than what is asked for are as good.
constexpr int few_spare = 16;
// Threads that count for one element.
constexpr int rank_lanes = 4;

static_assert(few_most + few_spare <= ranked_most, "they have room");

// The first elements of a row, in lists.sorted.
struct Few {
    int32_t count; // below 0: unknown
    bool is_odd;   // the row has what is no number
};

// ---- compute

// What at least `wanted` of the numbers reach that threads have, each its own by each(visit), and
// little more than as many: found from a histogram between the least and the largest of them. Where
// there are fewer, -infinity.
template <class Each>
FB_DEVICE float reached_by(TeamShared& shared, int32_t wanted, Each each) {
    const int lane = threadIdx.x % 32;
    uint2 ends = {0, 0}; // the largest key, and that of the least, as bits of the opposite order
    each([&](float x) {
        const uint32_t key = key_of(x);
        ends = {key > ends.x ? key : ends.x, ~key > ends.y ? ~key : ends.y};
    });
    ends = {warp_max(ends.x), warp_max(ends.y)};
    if (lane == 0) shared.ends[threadIdx.x / 32] = ends;
    if (threadIdx.x < step_count) shared.steps[threadIdx.x] = 0;
    __syncthreads();
    ends = lane < team_warps ? shared.ends[lane] : make_uint2(0, 0);
    ends = {warp_max(ends.x), warp_max(ends.y)};
    if (ends.x == 0) return -FB_INFINITY;
    const float largest = value_of(ends.x), least = value_of(~ends.y);
    const float width = largest - least;
    const float scale = width < FB_INFINITY && width > 1e-30f ? (step_count - 1) / width : 0;
    each([&](float x) {
        const int32_t step = scale > 0 ? int32_t((x - least) * scale) : 0;
        atomicAdd(&shared.steps[step < step_count ? step_count - 1 - step : 0], 1u);
    });
    __syncthreads();
    // Each warp for itself: a lane has eight steps.
    constexpr int each_lane = step_count / 32;
    uint32_t counts[each_lane];
    uint32_t sum = 0;
    FB_UNROLL
    for (int i = 0; i < each_lane; i++) sum += counts[i] = shared.steps[lane * each_lane + i];
    uint32_t end = sum;
    FB_UNROLL
    for (int distance = 1; distance < 32; distance *= 2) {
        const uint32_t before = __shfl_up_sync(~0u, end, distance);
        if (lane >= distance) end += before;
    }
    const uint32_t reached = __ballot_sync(~0u, end >= uint32_t(wanted));
    if (reached == 0) return -FB_INFINITY;
    int32_t first = 0; // of the lane's steps before the one that reaches it
    uint32_t until = end - sum;
    FB_UNROLL
    for (int i = 0; i < each_lane - 1; i++) {
        until += counts[i];
        if (until < uint32_t(wanted)) first = i + 1;
    }
    const int owner = __ffs(int(reached)) - 1;
    const int32_t step = step_count - 1 - __shfl_sync(~0u, lane * each_lane + first, owner);
    // Below the step's begin by more than its roundings.
    const float spare = (fabsf(largest) + fabsf(least)) * 0x1p-20f;
    return fmaxf(least, least + float(step) * (width * (1.0f / (step_count - 1))) - spare);
}

// Puts `count` places of `from` in order into lists.sorted, by counting what is larger.
FB_DEVICE void rank_places(TeamShared& shared, const uint64_t* from, int32_t count) {
    constexpr int at_once = team_threads / rank_lanes;
    FB_NO_UNROLL
    for (int32_t first = 0; first < count; first += at_once) {
        const int32_t mine = first + int32_t(threadIdx.x) / rank_lanes;
        const uint64_t place = mine < count ? from[mine] : 0;
        uint32_t rank = 0;
        for (int32_t at = threadIdx.x % rank_lanes; at < count; at += rank_lanes)
            rank += from[at] > place ? 1 : 0;
        FB_UNROLL
        for (int distance = 1; distance < rank_lanes; distance *= 2)
            rank += __shfl_xor_sync(~0u, rank, distance);
        if (mine < count && threadIdx.x % rank_lanes == 0) shared.lists.sorted[rank] = place;
    }
    __syncthreads();
}

// lists.sorted, whose `total` places are in any order, in order as far as the first k.
FB_DEVICE int32_t order_few(TeamShared& shared, int32_t total, int32_t k) {
    const uint64_t* const places = shared.lists.sorted;
    float least = -FB_INFINITY;
    if (total > k + few_spare)
        least = reached_by(shared, k, [&](const auto& visit) {
            for (int32_t at = threadIdx.x; at < total; at += team_threads)
                visit(value_of(uint32_t(places[at] >> index_bits)));
        });
    if (threadIdx.x == 0) shared.ranked_count = 0;
    __syncthreads();
    for (int32_t at = threadIdx.x; at < total; at += team_threads) {
        const uint64_t place = places[at];
        if (!(value_of(uint32_t(place >> index_bits)) >= least)) continue;
        const uint32_t next = atomicAdd(&shared.ranked_count, 1u);
        if (next < ranked_most) shared.ranked[next] = place;
    }
    __syncthreads();
    const int32_t count = int32_t(shared.ranked_count);
    if (count > ranked_most) {
        sort_places(shared, total);
        return total;
    }
    rank_places(shared, shared.ranked, count);
    return count;
}

// As found_by, by whole warps: a lane asks one block. Where rows are held, that spills.
template <int size> FB_DEVICE Found found_by_lanes(const Team<size>& team) {
    const TeamShared& shared = team.shared;
    const int other = int(threadIdx.x) % size, mine = int(threadIdx.x) / (team_threads / size);
    const uint32_t own = team.load_4(team.in(other, &shared.own_count));
    const bool is_odd = team.load_4(team.in(other, &shared.own_odd)) != 0;
    uint32_t end = own;
    FB_UNROLL
    for (int distance = 1; distance < size; distance *= 2) {
        const uint32_t before = __shfl_up_sync(~0u, end, distance);
        if (other >= distance) end += before;
    }
    const int32_t count = int32_t(__shfl_sync(~0u, own, mine));
    const int32_t first = int32_t(__shfl_sync(~0u, end, mine)) - count;
    return {int32_t(__shfl_sync(~0u, end, size - 1)), first, count, __any_sync(~0u, is_odd) != 0};
}

// Lists what `keeps(x, index)` says of a block's part.
template <int size, class Keeps>
FB_DEVICE void list_kept(TeamShared& shared, const Row<size>& row, float least, Keeps keeps) {
    row.each_quad([&](int32_t start, const float* x, int32_t) {
        if (!(x[0] >= least || x[1] >= least || x[2] >= least || x[3] >= least)) return;
        FB_UNROLL
        for (int i = 0; i < quad; i++) {
            if (!keeps(x[i], start + i)) continue;
            const uint32_t at = atomicAdd(&shared.own_count, 1u);
            if (at < listed_most) shared.lists.own[at] = place_of(x[i], start + i);
        }
    });
}

// Lists the first k, of which the row has as many, where too much is as large as what bounds them.
template <int size>
FB_DEVICE void list_exactly(Team<size>& team, const Row<size>& row, int32_t k) {
    TeamShared& shared = team.shared;
    const auto each = [&](const auto& add) {
        row.each([&](int32_t index, float x) { add(index, x, 1.0f); });
    };
    const Keeps keeps = keeps_of(find_cut(team, each, count_of(k)).place);
    if (threadIdx.x == 0) shared.own_count = 0;
    team.sync(); // nobody needs the histograms
    list_kept(shared, row, keeps.x, keeps);
    team.sync();
}

// The first k of the row without what has no weight, if there are as many; by the leader alone if
// `leader_only`, for which the others only know how many are listed; `leaves`: the team is left if
// there is a list, which rows that are streamed always have. If not, no block may end before the
// others have met once more.
template <int size>
FB_DEVICE Few list_few(Team<size>& team, const Row<size>& row, Most own, int32_t k,
                       bool leader_only, bool leaves) {
    TeamShared& shared = team.shared;
    const bool is_odd = __syncthreads_or(own.is_odd) != 0;
    if (threadIdx.x == 0) {
        shared.own_count = 0;
        shared.own_odd = is_odd;
    }
    // Nothing without a weight: above 0, or a number at all.
    const float lowest = row.is_probability ? 0x1p-149f : -0x1.fffffep127f;
    const float reached = reached_by(shared, k, [&](const auto& visit) {
        if (own.x >= lowest) visit(own.x);
    });
    const float least = fmaxf(reached, lowest);
    // Only threads that have something to list read it again where that is not in shared memory.
    if (size == 1 || !rows_streamed || own.x >= least)
        list_kept(shared, row, least, [=](float x, int32_t) { return x >= least; });
    team.sync();
    Found found;
    if constexpr (size > 1 && rows_streamed) {
        found = found_by_lanes(team);
        if (found.total > listed_most) {
            list_exactly(team, row, k);
            found = found_by_lanes(team);
        }
    } else {
        found = found_by(team);
        if (found.total > listed_most) return {-1, found.is_odd};
    }
    const bool ends = !leader_only || team.is_leader();
    if (ends) gather_lists(team, found);
    if (leaves) team.leave();
    return {ends ? order_few(shared, found.total, k) : found.total, found.is_odd};
}
