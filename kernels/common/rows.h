// Operators over rows: where rows lie, the threads that share one, and scales of rows.
//
// A team has a row: `lanes` neighbours of a warp where it is short, else a block. A thread takes
// every team-size-th chunk of it; of even rows (even.h) it holds up to `held`, so that as many
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

// The threads that share a row: a block of `warps`, or lanes of a warp where it is 0. A team
// without a row has dim 0: it takes part in what its warp does together, and reads and writes
// nothing.
template <int warps> struct Team {
    static constexpr bool block = warps > 0;

    int64_t row;
    int32_t dim;
    int32_t rank;
    int32_t size;
    float* shared; // of a block: two numbers for each thread
    bool second = false;

    FB_DEVICE int32_t step() const { return size * chunk; }

    // The half of what is shared that nobody reads any more: one barrier is between two uses.
    FB_DEVICE float* turn() {
        second = !second;
        return shared + (second ? 32 * warps : 0);
    }

    // The largest of what its threads have, NaN if there is one; the same in each.
    FB_DEVICE float most(float x) {
        FB_NO_UNROLL
        for (int distance = (block ? 32 : size) / 2; distance > 0; distance /= 2)
            x = max_nan(x, __shfl_xor_sync(~0u, x, distance));
        if constexpr (!block) return x;
        float* const parts = turn();
        if (rank % 32 == 0) parts[rank / 32] = x;
        __syncthreads();
        FB_UNROLL
        for (int warp = 0; warp < warps; warp++) x = max_nan(x, parts[warp]);
        return x;
    }
};

// The team of this thread among those of item blockIdx.x, which has row_threads / lanes rows.
FB_DEVICE Team<0> lanes_team(const fb_span_params& s) {
    const int64_t row = int64_t(blockIdx.x) * (row_threads / s.lanes) + threadIdx.x / s.lanes;
    const int32_t rank = int32_t(threadIdx.x) % s.lanes;
    return {row, row < live_rows(s) ? s.dim : 0, rank, s.lanes, nullptr};
}

// The block as the team of row blockIdx.x / parts.
template <int warps = row_warps>
FB_DEVICE Team<warps> block_team(const fb_span_params& s, float* shared) {
    const int64_t row = s.parts == 1 ? int64_t(blockIdx.x) : blockIdx.x / s.parts;
    return {row, row < live_rows(s) ? s.dim : 0, int32_t(threadIdx.x), 32 * warps, shared};
}

// ---- chunks

FB_DEVICE int32_t chunk_count(int32_t dim, int32_t start) {
    return dim - start < chunk ? dim - start : chunk;
}

// ---- scaling

// The smallest scale, so that a row of zeros has one that can be divided by.
constexpr float scale_least = 1.17549435e-38f;

// 1 / sqrt(x); of 0 that of the least number which is no denormal one, of NaN NaN.
FB_DEVICE float inverse_root(float x) { return rsqrt_approx(max_nan(x, scale_least)); }

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
    return s.scale == 0 || team.dim == 0 ? 1 : 1 / *items<const float>(s.scale);
}
