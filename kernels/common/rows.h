// Operators over rows: where rows lie, the threads that share one, and rows in registers.
//
// A team has a row: `lanes` neighbours of a warp where it is short, else a block. A thread takes
// every team-size-th chunk of it. Of 16-bit numbers it holds up to `held` chunks, so that as many
// 16-byte loads are in flight and no later pass reads again. What is summed depends on the row's
// length alone.
#pragma once
#include "../ptx/math.h"
#include "../params/rows.h"
#include "chunk.h"

constexpr int row_threads = 256;
constexpr int row_warps = 8;
// Chunks of a row that a thread keeps: short rows have at most 32 * held of them.
constexpr int held = 4;

static_assert(row_threads == 32 * row_warps, "a warp has 32 threads");

// ---- where rows lie

FB_DEVICE uint64_t row_address(const fb_rows_params& t, int64_t row) {
    int64_t outer = 0;
    if (row >= t.inner) {
        outer = row / t.inner;
        row -= outer * t.inner;
    }
    return t.address + (outer * t.outer_stride + row * t.stride) * element_bytes(t.dtype);
}

FB_DEVICE int64_t live_rows(const fb_span_params& s) {
    int32_t outer = s.outer;
    if (s.live != 0) {
        const int32_t live = *items<const int32_t>(s.live);
        if (live < outer) outer = live;
    }
    return int64_t(outer) * s.inner;
}

// ---- teams

// The threads that share a row. A team without a row has dim 0: it takes part in what its warp does
// together, and reads and writes nothing.
template <bool block> struct Team {
    int64_t row;
    int32_t dim;
    int32_t rank;
    int32_t size;
    float* parts; // of a block: shared, one for each warp

    // The sum of what its threads have, or the largest, NaN if there is one; the same in each.
    FB_DEVICE float reduce(float x, bool largest) const {
        float one[1] = {x};
        reduce_all(one, largest);
        return one[0];
    }

    // The same of several numbers; `parts` has one of each for each warp.
    template <int count> FB_DEVICE void reduce_all(float (&x)[count], bool largest) const {
        const auto join = [=](float a, float b) { return largest ? max_nan(a, b) : a + b; };
        FB_NO_UNROLL
        for (int distance = (block ? 32 : size) / 2; distance > 0; distance /= 2) {
            FB_UNROLL
            for (int i = 0; i < count; i++)
                x[i] = join(x[i], __shfl_xor_sync(~0u, x[i], distance));
        }
        if constexpr (!block) return;
        __syncthreads(); // all have read what the reduction before left
        FB_UNROLL
        for (int i = 0; i < count; i++)
            if (rank % 32 == 0) parts[i * row_warps + rank / 32] = x[i];
        __syncthreads();
        FB_UNROLL
        for (int i = 0; i < count; i++) {
            x[i] = parts[i * row_warps];
            FB_UNROLL
            for (int warp = 1; warp < row_warps; warp++)
                x[i] = join(x[i], parts[i * row_warps + warp]);
        }
    }
    FB_DEVICE int32_t step() const { return size * chunk; }
};

// The team of this thread among those of item blockIdx.x, which has row_threads / lanes rows.
FB_DEVICE Team<false> lanes_team(const fb_span_params& s) {
    const int64_t row = int64_t(blockIdx.x) * (row_threads / s.lanes) + threadIdx.x / s.lanes;
    const int32_t rank = int32_t(threadIdx.x) % s.lanes;
    return {row, row < live_rows(s) ? s.dim : 0, rank, s.lanes, nullptr};
}

// The block as the team of row blockIdx.x / parts, or of the first of its `rows`.
FB_DEVICE Team<true> block_team(const fb_span_params& s, float* parts, int rows = 1) {
    const int64_t row = s.parts == 1 ? int64_t(blockIdx.x) * rows : blockIdx.x / s.parts;
    return {row, row < live_rows(s) ? s.dim : 0, int32_t(threadIdx.x), row_threads, parts};
}

// ---- rows in registers

FB_DEVICE int32_t chunk_count(int32_t dim, int32_t start) {
    return dim - start < chunk ? dim - start : chunk;
}

// Whether chunks of a row can be held as they lie in memory.
FB_DEVICE bool can_hold(int32_t dtype, uint64_t row, int32_t dim) {
    return element_bytes(dtype) == 2 && row % 16 == 0 && dim % chunk == 0;
}

// Chunks of a row of 16-bit numbers. A pass over them uses the front and rotates, in a loop of
// `held` turns that is not unrolled: its code is there once, and no register is indexed.
struct HeldRow {
    uint32_t words[held][4];

    // Chunks start, start + step, ... below dim.
    FB_DEVICE void load(uint64_t row, int32_t dim, int32_t start, int32_t step) {
        FB_UNROLL
        for (int i = 0; i < held; i++) {
            const int32_t at = start + i * step;
            if (at < dim) load_vector<2>(row + int64_t(at) * 2, words[i]);
        }
    }
    FB_DEVICE void rotate() {
        FB_UNROLL
        for (int word = 0; word < 4; word++) {
            const uint32_t front = words[0][word];
            FB_UNROLL
            for (int i = 1; i < held; i++) words[i - 1][word] = words[i][word];
            words[held - 1][word] = front;
        }
    }
};

// ---- scaling

// The smallest scale, so that a row of zeros has one that can be divided by.
constexpr float scale_least = 1.17549435e-38f;

// The largest number of a type that results are scaled to.
FB_DEVICE float largest_of(int32_t dtype) {
    return dtype == FB_F8E4M3 ? 448.0f : dtype == FB_F8E5M2 ? 57344.0f : 127.0f;
}

FB_DEVICE float scale_of(float most, int32_t dtype) {
    return max_nan(most / largest_of(dtype), scale_least);
}

// Largest magnitude of `count` numbers; NaN if there is one.
FB_DEVICE float chunk_most(const float (&x)[chunk], int32_t count) {
    float most = 0;
    FB_UNROLL
    for (int i = 0; i < chunk; i++)
        if (i < count) most = max_nan(most, fabsf(x[i]));
    return most;
}

// What results of a row are multiplied by; `most` is their largest magnitude where rows have scales
// of their own, which the first of the team writes.
template <class Team>
FB_DEVICE float inverse_scale(const fb_scaling_params& s, const Team& team, int32_t dtype,
                              float most) {
    if (s.token_scales != 0) {
        const float scale = scale_of(most, dtype);
        if (team.rank == 0 && team.dim > 0) items<float>(s.token_scales)[team.row] = scale;
        return 1 / scale;
    }
    return s.scale == 0 ? 1 : 1 / *items<const float>(s.scale);
}
