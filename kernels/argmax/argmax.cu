// Where rows are largest.
#include "../ptx/base.h"
#include "../params/argmax.h"
#include "../ptx/pdl.h"
#include "../common/rows.h"

// ---- compute

// Larger for larger numbers, and for lower indices of one number; 0 for NaN.
FB_DEVICE uint64_t rank_of(float x, int32_t index) {
    if (x != x) return 0;
    const uint32_t bits = __float_as_uint(x + 0.0f); // -0 as 0
    const uint32_t rising = bits >> 31 ? ~bits : bits | 0x80000000u;
    return uint64_t(rising) << 32 | (0xffffffffu - uint32_t(index));
}

FB_DEVICE uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

// The team's row. `tops`: shared memory of a block, a word for each warp.
template <bool block>
FB_DEVICE void argmax_row(const fb_argmax_params& p, const Team<block>& team, uint64_t* tops) {
    const int32_t dim = team.dim, step = team.step(), segment = step * held;
    const uint64_t row = row_address(p.x, team.row);
    const int32_t bytes = element_bytes(p.x.dtype);
    const bool holds = can_hold(p.x.dtype, row, dim);
    HeldRow kept;
    uint64_t top = 0;
    FB_NO_UNROLL
    for (int32_t start = team.rank * chunk; start < dim; start += segment) {
        if (holds) kept.load(row, dim, start, step);
        FB_NO_UNROLL
        for (int32_t i = 0, at = start; i < held && at < dim; i++, at += step) {
            const int32_t count = chunk_count(dim, at);
            float x[chunk];
            if (holds) widen_words(p.x.dtype, kept.words[0], x);
            else load_chunk(p.x.dtype, row + int64_t(at) * bytes, count, x);
            FB_UNROLL
            for (int j = 0; j < chunk; j++)
                if (j < count) top = larger(top, rank_of(x[j], at + j));
            kept.rotate();
        }
    }
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
