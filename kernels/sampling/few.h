// The first few of a row, in order. A number that as many threads of a block have, or a larger one,
// is not above the last of them: what is at least the largest such number is listed, which is
// little more than is asked for. One meeting of the team is enough.
#pragma once
#include "listed.h"

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

// About the largest key of which count_of(key) is `wanted` or more, counted by all threads at once:
// at most `spare` more have it, if that can be.
template <class Count>
FB_DEVICE uint32_t shared_key(int32_t wanted, int32_t spare, Count count_of) {
    uint32_t key = 0;
    FB_NO_UNROLL
    for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
        const int32_t count = count_of(key | bit);
        if (count < wanted) continue;
        key |= bit;
        if (count <= wanted + spare) break;
    }
    return key;
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
    uint32_t key = 0;
    if (total > k + few_spare)
        key = shared_key(k, few_spare, [&](uint32_t least) {
            int32_t count = 0;
            for (int32_t start = 0; start < total; start += team_threads) {
                const int32_t at = start + int32_t(threadIdx.x);
                count += __syncthreads_count(at < total &&
                                             uint32_t(places[at] >> index_bits) >= least);
            }
            return count;
        });
    if (threadIdx.x == 0) shared.ranked_count = 0;
    __syncthreads();
    for (int32_t at = threadIdx.x; at < total; at += team_threads) {
        const uint64_t place = places[at];
        if (uint32_t(place >> index_bits) < key) continue;
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

// The first k of the row without what has no weight, if there are as many; by the first block alone
// if `first_only`. No block may end before the others have met once more.
template <int size>
FB_DEVICE Few list_few(Team<size>& team, const Row<size>& row, Most own, int32_t k,
                       bool first_only) {
    TeamShared& shared = team.shared;
    const bool is_odd = __syncthreads_or(own.is_odd) != 0;
    if (threadIdx.x == 0) {
        shared.own_count = 0;
        shared.own_odd = is_odd;
    }
    const uint32_t mine = own.index < 0 ? 0 : key_of(own.x);
    const uint32_t key = shared_key(k, 0, [&](uint32_t least) {
        return __syncthreads_count(mine >= least);
    });
    // Nothing without a weight: above 0, or a number at all.
    const float lowest = row.is_probability ? 0x1p-149f : -0x1.fffffep127f;
    const float least = key <= key_of(lowest) ? lowest : value_of(key);
    row.each_quad([&](int32_t start, const float* x, int32_t) {
        if (!(x[0] >= least || x[1] >= least || x[2] >= least || x[3] >= least)) return;
        FB_UNROLL
        for (int i = 0; i < quad; i++) {
            if (!(x[i] >= least)) continue;
            const uint32_t at = atomicAdd(&shared.own_count, 1u);
            if (at < listed_most) shared.lists.own[at] = place_of(x[i], start + i);
        }
    });
    team.sync();
    const Found found = found_by(team);
    if (found.total > listed_most) return {-1, found.is_odd};
    if (first_only && team.rank() != 0) return {found.total, found.is_odd};
    gather_lists(team, found);
    return {order_few(shared, found.total, k), found.is_odd};
}
