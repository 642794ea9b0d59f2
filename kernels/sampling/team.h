// The blocks that take a row together: one, or a cluster. A row's chunks go to their threads in
// turn, so that each thread meets the same ones in every pass (from its cache, after the first).
#pragma once
#include "../ptx/base.h"
#include "../ptx/cluster.h"
#include "../ptx/memory.h"
#include "../common/chunk.h"

// ---- facts

constexpr int team_threads = 384;
constexpr int team_warps = team_threads / 32;
// Histograms: a digit's values, and copies of each bin, so that neighbours do not wait.
constexpr int bin_count = 256;
constexpr int bin_copies = 4;
// A bin has a count and the 45 bits of its weights in three parts.
constexpr int part_bits = 15;
constexpr int part_count = 3;
constexpr int distance_count = 2048;
constexpr int listed_most = 2048;

// ---- chunks of f32, f16 or bf16

// Elements of a chunk that the row has.
FB_DEVICE int32_t chunk_count(int32_t length, int32_t start) {
    const int32_t left = length - start;
    return left < 0 ? 0 : left < chunk ? left : chunk;
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

struct TeamShared {
    uint64_t results[2][team_warps];
    // One after the other, with a barrier of the team between two of them.
    union {
        // Turn, count or part of the weight, digit, copy.
        uint32_t bins[2][1 + part_count][bin_count][bin_copies];
        Distances distances;
        Lists lists;
    };
    uint64_t warp_sums[team_warps];
    uint64_t found[4]; // of the bin where a sum is reached: digit, sum before, its own, its count
    uint64_t total;
    float floors[team_warps]; // a quad of each warp has nothing larger, and none has less
    uint32_t own_count; // of lists.own; more than there is room for: the rest is left out
};

// ---- reductions

FB_DEVICE uint64_t shuffle_xor(uint64_t x, int distance) {
    const uint32_t low = __shfl_xor_sync(~0u, uint32_t(x), distance);
    const uint32_t high = __shfl_xor_sync(~0u, uint32_t(x >> 32), distance);
    return uint64_t(high) << 32 | low;
}

struct Sum {
    static FB_DEVICE uint64_t of(uint64_t a, uint64_t b) { return a + b; }
};

struct Most {
    static FB_DEVICE uint64_t of(uint64_t a, uint64_t b) { return a > b ? a : b; }
};

// The largest, and the highest bit of any.
struct MostAndFlag {
    static constexpr uint64_t flag = uint64_t(1) << 63;
    static FB_DEVICE uint64_t of(uint64_t a, uint64_t b) {
        return Most::of(a & ~flag, b & ~flag) | ((a | b) & flag);
    }
};

template <class Op> FB_DEVICE uint64_t reduce_warp(uint64_t x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) x = Op::of(x, shuffle_xor(x, distance));
    return x;
}

// The team of this block: `size` blocks, a cluster if more than one.
template <int size> struct Team {
    TeamShared& shared;
    // Of the shared memory that steps use in turn, so that one barrier a step is enough: results of
    // reductions, and histograms, of which the next one is empty.
    int turn = 0;
    int bins_turn = 0;
    bool is_empty = true; // shared.distances, when the team has met

    static FB_DEVICE int rank() { return size > 1 ? int(cluster_rank()) : 0; }

    // All threads of the team; what they wrote is visible afterwards.
    static FB_DEVICE void sync() {
        if (size > 1) cluster_sync();
        else __syncthreads();
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

    // Over all threads of the team, or of its first `blocks`; each thread gets the result.
    template <class Op> FB_DEVICE uint64_t reduce(uint64_t x, int blocks = size) {
        uint64_t* const mine = shared.results[turn];
        turn ^= 1;
        x = reduce_warp<Op>(x);
        if (threadIdx.x % 32 == 0) mine[threadIdx.x / 32] = x;
        sync();
        const int lane = threadIdx.x % 32;
        uint64_t all = 0;
        for (int pair = lane; pair < blocks * team_warps / 2; pair += 32) {
            const int other = pair / (team_warps / 2);
            const uint4 two = load_16(in(other, mine + pair % (team_warps / 2) * 2));
            all = Op::of(all, Op::of(uint64_t(two.y) << 32 | two.x, uint64_t(two.w) << 32 | two.z));
        }
        return reduce_warp<Op>(all);
    }

    // Calls body(index of the first, elements, how many of them) for this thread's chunks, by all
    // lanes of a warp together: those past the row's end have 0 elements. The next chunk is on its
    // way while one is worked on.
    template <class Body>
    static FB_DEVICE void each_chunk(int32_t dtype, uint64_t row, int32_t length, Body body) {
        const int32_t step = size * team_threads * chunk;
        int32_t start = (rank() * team_threads + int32_t(threadIdx.x)) * chunk;
        const int32_t end = length + int32_t(threadIdx.x) % 32 * chunk;
        RawChunk raw = {};
        if (start < end) raw.load(dtype, row, start, length);
        FB_NO_UNROLL
        for (; start < end; start += step) {
            float x[chunk];
            raw.widen(dtype, x);
            if (start + step < end) raw.load(dtype, row, start + step, length);
            body(start, x, chunk_count(length, start));
        }
    }
};
