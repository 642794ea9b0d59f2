// The usual way to find where a row is cut: by a list of the few elements about the cut. One pass
// over the row makes a histogram of how far elements lie below the largest, which tells them apart
// better than digits of their values do; the next lists those of the bin in which the sum is
// reached (and, where they are counted, those before it), which are sorted. Where the cut lies too
// far from the largest number, or too much with it in its bin, select.h finds it digit by digit.
#pragma once
#include "row.h"

// ---- facts

// Bins for each unit of a logit, and octaves of weights: the last bin has what is further away.
constexpr float bins_by_logit = 32;
constexpr float bins_by_octave = 64;
// The same of probabilities: bits of a number's key that a bin leaves out.
constexpr int probability_bits = 17;

static_assert(sizeof(Distances) <= sizeof(TeamShared::bins), "they lie in one place");
static_assert(sizeof(Lists) <= sizeof(TeamShared::bins), "they lie in one place");

// Bins of distances from the largest: no smaller number has an earlier one.
struct DistanceBins {
    float largest;
    float scale;
    bool is_probability;

    FB_DEVICE int32_t of(float x) const {
        if (is_probability) {
            const uint32_t bin = (key_of(largest) - key_of(x)) >> probability_bits;
            return bin < distance_count - 1 ? int32_t(bin) : distance_count - 1;
        }
        const float bin = (largest - x) * scale;
        return bin < distance_count - 1 ? int32_t(bin) : distance_count - 1;
    }
};

FB_DEVICE DistanceBins bins_of(Weights weights, bool weighted) {
    const float scale = weighted ? weights.scale * bins_by_octave : bins_by_logit;
    return {weights.largest, scale, weights.is_probability};
}

// The bin in which a sum is reached.
struct ReachedBin {
    int32_t bin;   // below 0: the sum is not reached
    uint64_t before; // the sum of the bins before
    uint64_t own;
    uint64_t target;
};

// The list of a block: `count` places in falling order, the first of which follows what adds up to
// `before`.
struct Listed {
    int32_t count; // below 0: there is no list
    bool is_whole; // nothing stands before it
    uint64_t target; // what is left of it
};

// ---- compute

FB_DEVICE void add_distance(TeamShared& shared, bool weighted, int32_t bin, uint64_t whole) {
    FB_UNROLL
    for (int part = 0; part < part_count; part++) {
        const uint32_t bits = uint32_t(whole >> part * part_bits) &
                              (part + 1 < part_count ? (1u << part_bits) - 1 : ~0u);
        if (bits != 0) atomicAdd(&shared.distances.parts[part][bin], bits);
        if (!weighted) return;
    }
}

// What the whole team added to a bin.
template <int size>
FB_DEVICE uint64_t distance_sum(const Team<size>& team, bool weighted, int32_t bin) {
    uint64_t sum = 0;
    FB_UNROLL_BY(2)
    for (int other = 0; other < size; other++) {
        FB_UNROLL
        for (int part = 0; part < part_count; part++) {
            if (part > 0 && !weighted) break;
            const uint32_t* const place = &team.shared.distances.parts[part][bin];
            sum += uint64_t(team.load_4(team.in(other, place))) << part * part_bits;
        }
    }
    return sum;
}

template <int size> FB_DEVICE uint64_t load_8(const Team<size>& team, int other, const void* from) {
    const uint32_t address = team.in(other, from);
    return uint64_t(team.load_4(address + 4)) << 32 | team.load_4(address);
}

// A block sums its part of the bins for all; then each finds the bin by itself.
template <int size> FB_DEVICE ReachedBin reached_bin(Team<size>& team, Target wanted) {
    constexpr int of_thread = distance_count / size / bin_count;
    TeamShared& shared = team.shared;
    const auto first_of = [=](int owner) {
        return (owner * bin_count + int(threadIdx.x)) * of_thread;
    };
    const bool sums = threadIdx.x < bin_count;
    uint64_t mine = 0;
    FB_NO_UNROLL
    for (int i = 0; sums && i < of_thread; i++)
        mine += distance_sum(team, wanted.weighted, first_of(team.rank()) + i);
    mine = scan_bins(shared, mine);
    if (sums) shared.distances.sums[threadIdx.x] = mine;
    team.sync();
    uint64_t total = 0;
    FB_UNROLL_BY(2)
    for (int other = 0; other < size; other++) total += load_8(team, other, &shared.total);
    const uint64_t target = wanted.of(total);
    if (target > total || total == 0) return {-1, 0, 0, target};
    int owner = 0;
    uint64_t before = 0, end_before = 0;
    FB_NO_UNROLL
    for (int other = 0; other < size - 1; other++) {
        end_before += load_8(team, other, &shared.total);
        if (end_before >= target) continue;
        owner = other + 1;
        before = end_before;
    }
    if (sums) {
        const uint64_t* const last = &shared.distances.sums[threadIdx.x];
        uint64_t sum = before + (threadIdx.x == 0 ? 0 : load_8(team, owner, last - 1));
        const uint64_t end = before + load_8(team, owner, last);
        FB_NO_UNROLL
        for (int i = 0; sum < target && target <= end && i < of_thread; i++) {
            const int32_t bin = first_of(owner) + i;
            const uint64_t own =
                of_thread == 1 ? end - sum : distance_sum(team, wanted.weighted, bin);
            if (sum + own >= target) {
                shared.found[0] = uint64_t(bin);
                shared.found[1] = sum;
                shared.found[2] = own;
            }
            sum += own;
        }
    }
    __syncthreads();
    return {int32_t(shared.found[0]), shared.found[1], shared.found[2], target};
}

// Falling, by a network in which every exchange puts the larger first, so that what is missing
// behind `count` would stay there.
template <class Get, class Set> FB_DEVICE void sort_falling(int32_t count, Get get, Set set) {
    for (int64_t size = 2; size / 2 < count; size *= 2)
        for (int64_t distance = size / 2; distance > 0; distance /= 2) {
            for (int64_t pair = threadIdx.x; 2 * pair - distance < count; pair += team_threads) {
                const int64_t within = pair & (distance - 1);
                const int64_t low = 2 * pair - within;
                // The first step of a size compares with the mirrored place.
                const int64_t high =
                    distance == size / 2 ? (low | (size - 1)) - within : low + distance;
                if (low >= count || high >= count) continue;
                const uint64_t a = get(int32_t(low));
                const uint64_t b = get(int32_t(high));
                if (a >= b) continue;
                set(int32_t(low), b);
                set(int32_t(high), a);
            }
            __syncthreads();
        }
}

// What the blocks of the team found. A thread copies one's: `own` places to `first` and on.
struct Found {
    int32_t total;
    int32_t first;
    int32_t own;
    bool is_odd;
};

template <int size> FB_DEVICE Found found_by(const Team<size>& team) {
    const TeamShared& shared = team.shared;
    const int mine = int(threadIdx.x) / (team_threads / size);
    Found found = {0, 0, 0, false};
    FB_UNROLL
    for (int other = 0; other < size; other++) {
        const int32_t count = int32_t(team.load_4(team.in(other, &shared.own_count)));
        if (team.load_4(team.in(other, &shared.own_odd)) != 0) found.is_odd = true;
        if (other < mine) found.first += count;
        if (other == mine) found.own = count;
        found.total += count;
    }
    return found;
}

// Copies it side by side.
template <int size> FB_DEVICE void gather_lists(const Team<size>& team, const Found& found) {
    constexpr int threads = team_threads / size;
    TeamShared& shared = team.shared;
    const int other = int(threadIdx.x) / threads;
    for (int32_t i = threadIdx.x % threads; i < found.own; i += threads)
        shared.lists.sorted[found.first + i] = load_8(team, other, &shared.lists.own[i]);
    __syncthreads();
}

FB_DEVICE void sort_places(TeamShared& shared, int32_t count) {
    sort_falling(
        count, [&](int32_t at) { return shared.lists.sorted[at]; },
        [&](int32_t at, uint64_t place) { shared.lists.sorted[at] = place; });
}

// The list about the place at which the sum over the row reaches the target; elements come by
// `each(add)` as in find_cut. Sorted by the first block alone if `first_only`, else by all. No
// block may end before the others have met once more.
template <int size, class Each>
FB_DEVICE Listed list_cut(Team<size>& team, DistanceBins bins, const Each& each, Target wanted,
                          bool first_only) {
    const bool weighted = wanted.weighted;
    TeamShared& shared = team.shared;
    team.sync(); // nobody needs what was there before
    clear_distances(shared);
    if (threadIdx.x == 0) shared.own_count = 0;
    __syncthreads();
    uint64_t rest = 0;
    each([&](int32_t, float x, float weight) {
        const int32_t bin = bins.of(x);
        const uint64_t whole = weighted ? integer_weight(weight) : 1;
        if (bin == distance_count - 1) rest += whole;
        else add_distance(shared, weighted, bin, whole);
    });
    rest = reduce_warp<Sum>(rest);
    if (threadIdx.x % 32 == 0) add_distance(shared, weighted, distance_count - 1, rest);
    team.sync();
    const ReachedBin reached = reached_bin(team, wanted);
    const bool is_whole = !weighted && reached.before + reached.own <= listed_most;
    if (reached.bin < 0 || reached.bin == distance_count - 1 ||
        (!weighted && reached.own > listed_most))
        return {-1, false, reached.target};
    each([&](int32_t index, float x, float) {
        const int32_t bin = bins.of(x);
        if (bin != reached.bin && !(is_whole && bin < reached.bin)) return;
        const uint32_t at = atomicAdd(&shared.own_count, 1u);
        if (at < listed_most) shared.lists.own[at] = place_of(x, index);
    });
    team.sync();
    const Found found = found_by(team);
    const uint64_t target = reached.target - (is_whole ? 0 : reached.before);
    if (found.total > listed_most) return {-1, false, target};
    if (!first_only || team.rank() == 0) {
        gather_lists(team, found);
        sort_places(shared, found.total);
    }
    return {found.total, is_whole, target};
}

// The place in the sorted list at which the sum of whole weights, weight_of(place), reaches the
// target; 0 where it does not.
template <class Weight>
FB_DEVICE uint64_t reached_place(TeamShared& shared, int32_t count, const Weight& weight_of,
                                 Target wanted) {
    const int32_t each = (count + team_threads - 1) / team_threads;
    const int32_t first = int32_t(threadIdx.x) * each;
    const int32_t end = first + each < count ? first + each : count;
    uint64_t mine = 0;
    FB_NO_UNROLL
    for (int32_t at = first; at < end; at++) mine += weight_of(shared.lists.sorted[at]);
    uint64_t sum = scan_bins(shared, mine) - mine;
    const uint64_t target = wanted.of(shared.total);
    if (target > shared.total || shared.total == 0) return 0;
    FB_NO_UNROLL
    for (int32_t at = first; sum < target && at < end; at++) {
        sum += weight_of(shared.lists.sorted[at]);
        if (sum >= target) shared.found[0] = shared.lists.sorted[at];
    }
    __syncthreads();
    return shared.found[0];
}
