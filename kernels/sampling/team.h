// The blocks that take a row together: one, or a cluster of which each has a part of the row. A
// thread meets the same elements in every pass.
#pragma once
#include "../ptx/base.h"
#include "../ptx/cluster.h"
#include "../ptx/mbarrier.h"
#include "../ptx/memory.h"
#include "../common/chunk.h"
#include "../common/philox.h"

// ---- facts

constexpr int team_threads = 384; // of a block
constexpr int team_warps = team_threads / 32;
// Histograms: a digit's values, and copies of each bin, so that neighbours do not wait.
constexpr int bin_count = 256;
constexpr int bin_copies = 4;
// A bin has a count and the 45 bits of its weights in three parts.
constexpr int part_bits = 15;
constexpr int part_count = 3;
constexpr int distance_count = 2048;
constexpr int listed_most = 2048;

// Whether the blocks of a cluster read their parts where they lie, in each pass, or hold them
// (held.h).
#ifdef FB_STREAMED
constexpr bool rows_streamed = true;
#else
constexpr bool rows_streamed = false;
#endif
// Quads of a thread in flight where they are read.
constexpr int flight = 4;
// Whether reductions of a cluster are sent to its blocks, or fetched once all have met.
#ifdef FB_PUSHED
constexpr bool results_pushed = true;
#else
constexpr bool results_pushed = false;
#endif
// Blocks of a cluster at most.
constexpr int team_most = 8;
// Where what is held begins in a block's dynamic shared memory.
#ifndef FB_HELD_START
#define FB_HELD_START 0
#endif
constexpr int32_t held_start = FB_HELD_START;

// ---- chunks and quads of f32, f16 or bf16

// Elements that a thread takes at a time.
constexpr int quad = 4;
// Of a warp.
constexpr int warp_quads = 32 * quad;

// Elements of a chunk that the row has; 0 or less where it has none. (ptxas 13.0 may take a wrong
// predicate for `== chunk` of what is clamped at both ends: scripts/machine-code.ts.)
FB_DEVICE int32_t chunk_count(int32_t length, int32_t start) {
    const int32_t left = length - start;
    return left < chunk ? left : chunk;
}

FB_DEVICE int32_t quad_count(int32_t length, int32_t start) {
    const int32_t left = length - start;
    return left < quad ? left : quad;
}

struct RawChunk {
    uint32_t words[chunk];

    FB_DEVICE void load(int32_t dtype, uint64_t row, int32_t start, int32_t length) {
        const int32_t count = chunk_count(length, start);
        if (dtype == FB_F32) load_words<4>(row + int64_t(start) * 4, count, words);
        else load_words<2>(row + int64_t(start) * 2, count, words);
    }

    FB_DEVICE void widen(int32_t dtype, float (&x)[chunk]) const {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = __uint_as_float(words[i]);
        if (dtype == FB_F32) return;
        FB_UNROLL
        for (int i = 0; i < chunk; i += 2) {
            x[i] = dtype == FB_F16 ? f16_low(words[i / 2]) : bf16_low(words[i / 2]);
            x[i + 1] = dtype == FB_F16 ? f16_high(words[i / 2]) : bf16_high(words[i / 2]);
        }
    }
};

FB_DEVICE void widen_quad(int32_t dtype, const uint32_t* words, float* x) {
    if (dtype == FB_F32) {
        FB_UNROLL
        for (int i = 0; i < quad; i++) x[i] = __uint_as_float(words[i]);
        return;
    }
    FB_UNROLL
    for (int i = 0; i < quad; i += 2) {
        x[i] = dtype == FB_F16 ? f16_low(words[i / 2]) : bf16_low(words[i / 2]);
        x[i + 1] = dtype == FB_F16 ? f16_high(words[i / 2]) : bf16_high(words[i / 2]);
    }
}

// Up to a quad of numbers; the others are 0.
FB_DEVICE void load_quad(int32_t dtype, uint64_t address, int32_t count, float* x) {
    const int32_t bytes = dtype == FB_F32 ? 4 : 2;
    uint32_t words[chunk] = {};
    if (count == quad && (address & uint64_t(quad * bytes - 1)) == 0) {
        const uint2* const pairs = items<const uint2>(address);
        words[0] = pairs[0].x;
        words[1] = pairs[0].y;
        if (bytes == 4) {
            words[2] = pairs[1].x;
            words[3] = pairs[1].y;
        }
    } else if (bytes == 4) {
        FB_UNROLL
        for (int i = 0; i < quad; i++)
            if (i < count) words[i] = items<const uint32_t>(address)[i];
    } else {
        FB_UNROLL
        for (int i = 0; i < quad; i++)
            if (i < count)
                words[i / 2] |= uint32_t(items<const uint16_t>(address)[i]) << i % 2 * 16;
    }
    widen_quad(dtype, words, x);
}

// Rounds up to a quad of numbers.
FB_DEVICE void store_quad(int32_t dtype, uint64_t address, int32_t count, const float* x) {
    if (dtype == FB_F32) {
        if (count == quad && (address & 15) == 0) {
            *items<uint4>(address) = make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]),
                                                __float_as_uint(x[2]), __float_as_uint(x[3]));
            return;
        }
        FB_UNROLL
        for (int i = 0; i < quad; i++)
            if (i < count) items<float>(address)[i] = x[i];
        return;
    }
    uint32_t words[quad / 2];
    FB_UNROLL
    for (int i = 0; i < quad; i += 2)
        words[i / 2] = dtype == FB_F16 ? pack_f16(x[i], x[i + 1]) : pack_bf16(x[i], x[i + 1]);
    if (count == quad && (address & 7) == 0) {
        *items<uint2>(address) = make_uint2(words[0], words[1]);
        return;
    }
    FB_UNROLL
    for (int i = 0; i < quad; i++)
        if (i < count) items<uint16_t>(address)[i] = uint16_t(words[i / 2] >> i % 2 * 16);
}

// A block's elements of a row, [first, end); those before `held` lie in its dynamic shared memory,
// and behind them what is missing to a whole number of quads for each warp.
struct Part {
    int32_t first;
    int32_t held;
    int32_t end;

    FB_DEVICE int32_t padded() const {
        return (held - first + warp_quads - 1) / warp_quads * warp_quads;
    }
};

FB_DEVICE unsigned char* held_memory() {
    FB_DYNAMIC_SHARED(memory);
    return memory + held_start;
}

FB_DEVICE uint32_t held_address() { return shared_address(held_memory()); }

// The quad at element `at` of what is held.
FB_DEVICE void load_held(uint32_t address, int32_t dtype, int32_t at, float* x) {
    uint32_t words[quad] = {};
    if (dtype == FB_F32) {
        const uint4 v = load_shared_16(address + uint32_t(at) * 4);
        words[0] = v.x;
        words[1] = v.y;
        words[2] = v.z;
        words[3] = v.w;
    } else {
        const uint2 v = load_shared_8(address + uint32_t(at) * 2);
        words[0] = v.x;
        words[1] = v.y;
    }
    widen_quad(dtype, words, x);
}

// ---- shared memory

// Of distances below a row's largest number: one copy. A part of the bins is each block's to sum.
struct Distances {
    uint32_t parts[part_count][distance_count];
    uint64_t sums[bin_count]; // up to and with the bins of a thread
};

// The elements that a cut is looked for in: those that the block found, and the team's, in order.
struct Lists {
    uint64_t own[listed_most];
    uint64_t sorted[listed_most];
};

// Bins between the least and the largest of a few numbers, the largest first.
constexpr int step_count = 256;
// As many are put in order by counting, for each, what is larger.
constexpr int ranked_most = 160;

// What all need.
struct TeamHead {
    uint64_t results[2][2][team_warps];
    uint64_t warp_sums[team_warps];
    uint64_t found[4]; // of the bin where a sum is reached: digit, sum before, its own, its count
    uint64_t total;
    PhiloxKeys keys;
    uint32_t bound; // a score, as bits, that a token has
    uint2 ends[team_warps]; // the largest and the least key of each warp
    uint32_t ranked_count;
    int32_t leader;     // of the team: the block that ends what takes one
    uint32_t own_count; // of lists.own; more than there is room for: the rest is left out
    uint32_t own_odd;   // whether the block's part has what is no number
    // Where results are pushed: what each block found, and how much of it is there.
    uint4 pushed[2][results_pushed ? team_most : 1];
    uint64_t push_barriers[2];
    uint32_t push_turn; // as Team::turn, but registers are few
};

// And what cuts are looked for with.
struct TeamShared : TeamHead {
    // One after the other, with a barrier of the team between two of them.
    union {
        // Turn, count or part of the weight, digit, copy.
        alignas(16) uint32_t bins[2][1 + part_count][bin_count][bin_copies];
        Distances distances;
        Lists lists;
    };
    union {
        uint32_t steps[step_count];
        uint64_t ranked[ranked_most];
    };
};

// ---- reductions

FB_DEVICE uint64_t shuffle_xor(uint64_t x, int distance) {
    const uint32_t low = __shfl_xor_sync(~0u, uint32_t(x), distance);
    const uint32_t high = __shfl_xor_sync(~0u, uint32_t(x >> 32), distance);
    return uint64_t(high) << 32 | low;
}

FB_DEVICE uint32_t warp_max(uint32_t x) {
#if FB_ARCH >= 800
    return __reduce_max_sync(~0u, x);
#else
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
        const uint32_t other = __shfl_xor_sync(~0u, x, distance);
        x = other > x ? other : x;
    }
    return x;
#endif
}

struct Sum {
    static FB_DEVICE uint64_t of(uint64_t a, uint64_t b) { return a + b; }

    static FB_DEVICE uint64_t of_warp(uint64_t x) {
        FB_UNROLL
        for (int distance = 16; distance > 0; distance /= 2) x += shuffle_xor(x, distance);
        return x;
    }
};

struct Largest {
    static FB_DEVICE uint64_t of(uint64_t a, uint64_t b) { return a > b ? a : b; }

    static FB_DEVICE uint64_t of_warp(uint64_t x) {
        const uint32_t high = warp_max(uint32_t(x >> 32));
        return uint64_t(high) << 32 | warp_max(uint32_t(x >> 32) == high ? uint32_t(x) : 0);
    }
};

// The largest, and the highest bit of any.
struct LargestAndFlag {
    static constexpr uint64_t flag = uint64_t(1) << 63;
    static FB_DEVICE uint64_t of(uint64_t a, uint64_t b) {
        return Largest::of(a & ~flag, b & ~flag) | ((a | b) & flag);
    }

    static FB_DEVICE uint64_t of_warp(uint64_t x) {
        const bool any = __any_sync(~0u, (x & flag) != 0) != 0;
        return Largest::of_warp(x & ~flag) | (any ? flag : 0);
    }
};

template <class Op> FB_DEVICE uint64_t reduce_warp(uint64_t x) { return Op::of_warp(x); }

// The team of this block: `size` blocks, a cluster if more than one.
template <int size> struct Team {
    TeamShared& shared;
    int turn = 0; // results of reductions lie in two places in turn: one barrier each is enough

    static FB_DEVICE int rank() { return size > 1 ? int(cluster_rank()) : 0; }
    FB_DEVICE bool is_leader() const { return size == 1 || rank() == shared.leader; }

    // All threads of the team; what they wrote is visible afterwards.
    static FB_DEVICE void sync() {
        if (size > 1) cluster_sync();
        else __syncthreads();
    }

    // A meeting in two parts: none of what others read changes between them.
    static FB_DEVICE void leave() {
        if (size > 1) cluster_arrive();
    }
    static FB_DEVICE void meet() {
        if (size > 1) cluster_wait();
    }

    // Where `place` of this block's memory lies in that of another one of the team.
    static FB_DEVICE uint32_t in(int other, const void* place) {
        const uint32_t address = shared_address(place);
        return size > 1 ? map_shared(address, uint32_t(other)) : address;
    }

    static FB_DEVICE uint32_t load_4(uint32_t address) {
        return size > 1 ? load_cluster_4(address) : load_shared_4(address);
    }

    static FB_DEVICE uint4 load_16(uint32_t address) {
        return size > 1 ? load_cluster_16(address) : load_shared_16(address);
    }

    template <class Op> FB_DEVICE uint64_t joined(const uint64_t* mine, int blocks) const {
        constexpr int lanes = 32 / size; // for each block's results
        const int other = int(threadIdx.x) % 32 / lanes;
        uint64_t all = 0;
        FB_NO_UNROLL
        for (int pair = threadIdx.x % lanes; pair < team_warps / 2; pair += lanes) {
            if (other >= blocks) break;
            const uint4 two = load_16(in(other, mine + 2 * pair));
            all = Op::of(all, Op::of(uint64_t(two.y) << 32 | two.x, uint64_t(two.w) << 32 | two.z));
        }
        return reduce_warp<Op>(all);
    }

    // Ahead of the first reduction whose results are pushed, and of a meeting of the team.
    FB_DEVICE void begin_pushes() const {
        if (threadIdx.x == 0) shared.push_turn = 0;
        if (threadIdx.x < 2) mbarrier_init(shared_address(&shared.push_barriers[threadIdx.x]), 1);
    }

    // Two reductions, whose results each block sends to all: sooner than if all met. A block that
    // sends its next ones but one has those of all others, who are done with these then.
    template <class OpX, class OpY> FB_DEVICE void push_two(uint64_t& x, uint64_t& y) {
        static_assert(size <= team_most, "they have room");
        const uint32_t now = shared.push_turn, slot = now % 2, parity = now / 2 % 2;
        auto& mine = shared.results[slot];
        x = reduce_warp<OpX>(x);
        y = reduce_warp<OpY>(y);
        const int lane = threadIdx.x % 32;
        if (lane == 0) {
            mine[0][threadIdx.x / 32] = x;
            mine[1][threadIdx.x / 32] = y;
        }
        __syncthreads();
        uint4* const all = shared.pushed[slot];
        const uint32_t barrier = shared_address(&shared.push_barriers[slot]);
        if (threadIdx.x < 32) {
            x = reduce_warp<OpX>(lane < team_warps ? mine[0][lane] : 0);
            y = reduce_warp<OpY>(lane < team_warps ? mine[1][lane] : 0);
            if (lane == 0) {
                // All have read it; what they wait for is complete only after this.
                shared.push_turn = now + 1;
                mbarrier_arrive_expect(barrier, uint32_t(size * sizeof(uint4)));
            }
            const uint4 both = {uint32_t(x), uint32_t(x >> 32), uint32_t(y), uint32_t(y >> 32)};
            if (lane < size)
                store_async_16(in(lane, &all[rank()]), both, map_shared(barrier, uint32_t(lane)));
        }
        mbarrier_wait(barrier, parity);
        const uint4 one = all[lane % size];
        x = reduce_warp<OpX>(lane < size ? uint64_t(one.y) << 32 | one.x : 0);
        y = reduce_warp<OpY>(lane < size ? uint64_t(one.w) << 32 | one.z : 0);
    }

    // Over all threads of the team, or of its first `blocks`; each thread gets the result.
    template <class Op> FB_DEVICE uint64_t reduce(uint64_t x, int blocks = size) {
        if constexpr (size > 1 && results_pushed) {
            uint64_t none = 0;
            push_two<Op, Largest>(x, none);
            return x;
        }
        uint64_t* const mine = shared.results[turn][0];
        turn ^= 1;
        x = reduce_warp<Op>(x);
        if (threadIdx.x % 32 == 0) mine[threadIdx.x / 32] = x;
        sync();
        return joined<Op>(mine, blocks);
    }

    // The same of two at a time.
    template <class OpX, class OpY> FB_DEVICE void reduce_two(uint64_t& x, uint64_t& y) {
        if constexpr (size > 1 && results_pushed) return push_two<OpX, OpY>(x, y);
        auto& mine = shared.results[turn];
        turn ^= 1;
        x = reduce_warp<OpX>(x);
        y = reduce_warp<OpY>(y);
        if (threadIdx.x % 32 == 0) {
            mine[0][threadIdx.x / 32] = x;
            mine[1][threadIdx.x / 32] = y;
        }
        sync();
        x = joined<OpX>(mine[0], size);
        y = joined<OpY>(mine[1], size);
    }

    // Calls body(index of the first, elements, how many of them) for this thread's quads, by all
    // lanes of a warp together (not of streamed rows: no shuffles there): past the row's end they
    // are `lowest`. What is not held is cleaned.
    template <class Clean, class Body>
    static FB_DEVICE void each_quad(Part part, int32_t dtype, uint64_t row, float lowest,
                                    Clean clean, Body body) {
        if constexpr (size == 1) each_read(part, dtype, row, lowest, clean, body);
        else if constexpr (rows_streamed) each_streamed(part, dtype, row, lowest, clean, body);
        else each_held(part, dtype, row, lowest, clean, body);
    }

    template <class Clean, class Body>
    static FB_DEVICE void each_streamed(Part part, int32_t dtype, uint64_t row, float lowest,
                                        Clean clean, Body body) {
        constexpr int32_t step = team_threads * quad;
        const int32_t bytes = element_bytes(dtype);
        const bool is_aligned = (row & uint64_t(quad * bytes - 1)) == 0;
        FB_NO_UNROLL
        for (int32_t at = part.first + int32_t(threadIdx.x) * quad; at < part.end;
             at += flight * step) {
            uint4 raw[flight];
            const uint64_t first = row + int64_t(at) * bytes;
            const int32_t left = is_aligned ? part.end - at - quad : -1;
            if (bytes == 4) {
                FB_UNROLL
                for (int i = 0; i < flight; i++)
                    if (i * step <= left) raw[i] = *items<const uint4>(first + i * step * 4);
            } else {
                FB_UNROLL
                for (int i = 0; i < flight; i++) {
                    if (i * step > left) continue;
                    const uint2 two = *items<const uint2>(first + i * step * 2);
                    raw[i] = make_uint4(two.x, two.y, 0, 0);
                }
            }
            FB_UNROLL
            for (int i = 0; i < flight; i++) {
                if (i * step > left) continue;
                const uint32_t words[quad] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
                float x[quad];
                widen_quad(dtype, words, x);
                FB_UNROLL
                for (int j = 0; j < quad; j++) x[j] = clean(x[j]);
                body(at + i * step, x, quad);
            }
            // Of rows at odd addresses, and the end of one.
            FB_NO_UNROLL
            for (int i = left < 0 ? 0 : left / step + 1; i < flight; i++) {
                const int32_t start = at + i * step, count = quad_count(part.end, start);
                if (count <= 0) break;
                float x[quad];
                load_quad(dtype, row + int64_t(start) * bytes, count, x);
                FB_UNROLL
                for (int j = 0; j < quad; j++) x[j] = j < count ? clean(x[j]) : lowest;
                body(start, x, count);
            }
        }
    }

    template <class Clean, class Body>
    static FB_DEVICE void each_held(Part part, int32_t dtype, uint64_t row, float lowest,
                                    Clean clean, Body body) {
        constexpr int32_t step = team_threads * quad;
        const int32_t length = part.end - part.first;
        const int32_t held = part.held - part.first;
        const int32_t lane = int32_t(threadIdx.x) % 32 * quad;
        const uint32_t address = hold(held_address());
        int32_t at = int32_t(threadIdx.x) * quad;
        FB_NO_UNROLL
        for (; at - lane < held; at += step) {
            float x[quad];
            load_held(address, dtype, at, x);
            body(part.first + at, x, quad_count(length, at));
        }
        // Of long rows.
        FB_NO_UNROLL
        for (; at - lane < length; at += step) {
            float x[quad];
            const int32_t count = quad_count(length, at);
            load_quad(dtype, row + int64_t(part.first + at) * element_bytes(dtype), count, x);
            FB_UNROLL
            for (int i = 0; i < quad; i++) x[i] = i < count ? clean(x[i]) : lowest;
            body(part.first + at, x, count);
        }
    }

    template <class Clean, class Body>
    static FB_DEVICE void each_read(Part part, int32_t dtype, uint64_t row, float lowest,
                                    Clean clean, Body body) {
        constexpr int32_t step = team_threads * chunk;
        int32_t start = int32_t(threadIdx.x) * chunk;
        const int32_t end = part.end + int32_t(threadIdx.x) % 32 * chunk;
        RawChunk raw = {};
        if (start < end) raw.load(dtype, row, start, part.end);
        FB_NO_UNROLL
        for (; start < end; start += step) {
            float x[chunk];
            raw.widen(dtype, x);
            if (start + step < end) raw.load(dtype, row, start + step, part.end);
            FB_UNROLL
            for (int i = 0; i < chunk; i++) x[i] = start + i < part.end ? clean(x[i]) : lowest;
            FB_UNROLL
            for (int i = 0; i < chunk; i += quad)
                body(start + i, x + i, quad_count(part.end, start + i));
        }
    }
};
