// Where rows are largest.
#include "../ptx/base.h"
#include "../params/argmax.h"
#include "../ptx/pdl.h"
#include "../common/even.h"

// ---- compute

// Larger for larger numbers, and for lower indices of one number; above 0.
FB_DEVICE uint64_t rank_of(float x, int32_t index) {
    const uint32_t bits = __float_as_uint(x + 0.0f); // -0 as 0
    const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    return uint64_t(rising) << 32 | (0xffffffffu - uint32_t(index));
}

FB_DEVICE uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// The largest that a thread has met, the first of several; in the order of indices.
struct Top {
    float x = -FB_INFINITY;
    int32_t index = -1;

    FB_DEVICE void take(const float (&next)[chunk], int32_t count, int32_t at) {
        FB_UNROLL
        for (int j = 0; j < chunk; j++) {
            // NaN is larger than nothing, and -infinity than NaN.
            if (j >= count || !(next[j] > x || (index < 0 && next[j] == next[j]))) continue;
            x = next[j];
            index = at + j;
        }
    }
    FB_DEVICE uint64_t rank() const { return index < 0 ? 0 : rank_of(x, index); }
};

// Of a thread's chunks of an even row, several of which are on their way at a time.
FB_DEVICE void take_even(int32_t dtype, uint64_t row, int32_t dim, int32_t first, int32_t step,
                         Top& top) {
    FB_NO_UNROLL
    for (int32_t start = first; start < dim; start += step * held) {
        uint4 raw[held];
        FB_UNROLL
        for (int i = 0; i < held; i++)
            if (start + i * step < dim) raw[i] = load_even(row, start + i * step);
        FB_UNROLL
        for (int i = 0; i < held; i++) {
            if (start + i * step >= dim) break;
            float x[chunk];
            widen_even(dtype, raw[i], x);
            top.take(x, chunk, start + i * step);
        }
    }
}

// The team's row. `tops`: shared memory of a block, a word for each warp.
template <bool block>
FB_DEVICE void argmax_row(const fb_argmax_params& p, const Team<block>& team, uint64_t* tops) {
    const int32_t dim = team.dim, step = team.step(), first = team.rank * chunk;
    const uint64_t row = row_address(p.x, team.row);
    const int32_t bytes = element_bytes(p.x.dtype);
    Top own;
    if (bytes == 2 && row % 16 == 0 && dim % chunk == 0) {
        take_even(p.x.dtype, row, dim, first, step, own);
    } else {
        FB_NO_UNROLL
        for (int32_t at = first; at < dim; at += step) {
            const int32_t count = chunk_count(dim, at);
            float x[chunk];
            load_chunk(p.x.dtype, row + int64_t(at) * bytes, count, x);
            own.take(x, count, at);
        }
    }
    uint64_t top = own.rank();
    FB_NO_UNROLL
    for (int distance = (block ? 32 : team.size) / 2; distance > 0; distance /= 2)
        top = larger(top, __shfl_xor_sync(~0u, top, distance));
    if constexpr (block) {
        if (team.rank % 32 == 0) tops[team.rank / 32] = top;
        __syncthreads();
        FB_UNROLL
        for (int warp = 0; warp < row_warps; warp++) top = larger(top, tops[warp]);
    }
    if (team.rank != 0 || dim == 0) return;
    items<int32_t>(p.out)[team.row] = top == 0 ? 0 : int32_t(0xffffffffu - uint32_t(top));
}

// ---- the kernels

// Rows of more elements than a warp holds: row `item`, by the whole block.
FB_OPERATOR(argmax_long, fb_argmax_params, 256, 4, 1) {
    FB_SHARED(uint64_t, tops, [row_warps]);
    pdl_wait();
    pdl_launch_dependents();
    argmax_row(p, block_team(p.span, nullptr), tops);
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(argmax_short, fb_argmax_params, 256, 4, 8) {
    pdl_wait();
    pdl_launch_dependents();
    argmax_row(p, lanes_team(p.span), nullptr);
}
