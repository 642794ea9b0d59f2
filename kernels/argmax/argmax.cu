// Where rows are largest.
#include "../ptx/base.h"
#include "../params/argmax.h"
#include "../ptx/pdl.h"
#include "../common/even.h"

// ---- facts

// Chunks of an even row that a thread has on their way.
constexpr int flight = 2;
// Blocks of 256 threads on a multiprocessor, as many as it has threads for.
constexpr int most_blocks = FB_ARCH < 800 ? 4 : 8;

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

FB_DEVICE float chunk_largest(const float (&x)[chunk]) {
    const float low = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    return fmaxf(low, fmaxf(fmaxf(x[4], x[5]), fmaxf(x[6], x[7])));
}

// Of a thread's chunks of an even row, several of which are on their way at a time. Only the first
// chunk with the largest number is looked for on the way; where in it, when the team's largest is
// known.
template <class Team>
FB_DEVICE void take_even(int32_t dtype, uint64_t row, Team& team, Top& top) {
    const int32_t dim = team.dim, first = team.rank * chunk, step = team.step();
    float most = -FB_INFINITY;
    int32_t place = first;
    FB_NO_UNROLL
    for (int32_t start = first; start < dim; start += step * flight) {
        uint4 raw[flight];
        FB_UNROLL
        for (int i = 0; i < flight; i++)
            if (start + i * step < dim) raw[i] = load_even(row, start + i * step);
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            if (start + i * step >= dim) break;
            float x[chunk];
            widen_even(dtype, raw[i], x);
            const float here = chunk_largest(x);
            if (here > most) place = start + i * step;
            most = fmaxf(most, here);
        }
    }
    const float all = team.most(most);
    if (most < all || place >= dim) return;
    // A row without a number above -infinity is looked at once more as a whole.
    const int32_t end = all == -FB_INFINITY ? dim : place + 1;
    for (int32_t at = place; at < end; at += step) {
        float x[chunk];
        widen_even(dtype, load_even(row, at), x);
        top.take(x, chunk, at);
    }
}

// The team's row. `tops`: shared memory of a block, a word for each warp.
template <int warps>
FB_DEVICE void argmax_row(const fb_argmax_params& p, Team<warps> team, uint64_t* tops) {
    constexpr bool block = warps > 0;
    const int32_t dim = team.dim, step = team.step(), first = team.rank * chunk;
    const uint64_t row = row_address(p.x, team.row);
    const int32_t bytes = element_bytes(p.x.dtype);
    Top own;
    if (are_even(p.x, p.span.dim)) {
        take_even(p.x.dtype, row, team, own);
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
FB_OPERATOR(argmax_long, fb_argmax_params, 256, most_blocks, 1) {
    FB_SHARED(uint64_t, tops, [row_warps]);
    FB_SHARED(float, shared, [2 * row_threads]);
    pdl_wait();
    pdl_launch_dependents();
    argmax_row(p, block_team(p.span, shared), tops);
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(argmax_short, fb_argmax_params, 256, 4, 8) {
    pdl_wait();
    pdl_launch_dependents();
    argmax_row(p, lanes_team(p.span), nullptr);
}
