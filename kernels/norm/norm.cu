// Norms of rows: sums in f32, in an order that follows from the row's length alone.
#include "../ptx/base.h"
#include "../params/norm.h"
#include "../ptx/pdl.h"
#include "../common/rows.h"

// ---- facts

// What is done with a row, one pass after the other; each but the last ends in a number that all of
// the team need.
enum Pass { pass_mean, pass_squares, pass_most, pass_write };

// ---- compute

// What one chunk adds to the sum of a pass; elements past the row's end add nothing.
FB_DEVICE float sum_of(Pass pass, const float (&x)[chunk], int32_t count, float mean) {
    float sum = 0;
    FB_UNROLL
    for (int i = 0; i < chunk; i++) {
        const float distance = i < count ? x[i] - mean : 0;
        sum = pass == pass_mean ? sum + distance : fmaf(distance, distance, sum);
    }
    return sum;
}

// A chunk of x becomes results.
FB_DEVICE void normalize(const fb_norm_params& p, int32_t at, int32_t count, float mean,
                         float factor, float (&x)[chunk]) {
    FB_NO_UNROLL
    for (int term = 0; term < 2; term++) {
        const uint64_t terms = term == 0 ? p.weight : p.bias;
        if (terms == 0) return;
        float y[chunk];
        load_chunk(p.weight_dtype, terms + int64_t(at) * element_bytes(p.weight_dtype), count, y);
        FB_UNROLL
        for (int i = 0; i < chunk; i++)
            x[i] = term == 0 ? (x[i] - mean) * factor * (y[i] + p.weight_offset) : x[i] + y[i];
    }
}

// Where the team's row lies, and what of it the team holds.
struct NormRow {
    uint64_t address;
    int32_t dtype;
    bool holds;
    HeldRow kept;

    FB_DEVICE void front(int32_t at, int32_t count, float (&x)[chunk]) const {
        if (holds) widen_words(dtype, kept.words[0], x);
        else load_chunk(dtype, address + int64_t(at) * element_bytes(dtype), count, x);
    }
};

// The residual becomes its sum with x, rounded as it keeps it, and is the row from here on.
template <class Team>
FB_DEVICE void add_residual(const fb_norm_params& p, const Team& team, NormRow& row) {
    const int32_t step = team.step(), first = team.rank * chunk;
    const int32_t end = row.holds ? step * held : team.dim;
    NormRow sum = {row_address(p.residual, team.row), p.residual.dtype, row.holds};
    if (sum.holds) sum.kept.load(sum.address, team.dim, first, step);
    FB_NO_UNROLL
    for (int32_t at = first; at < end; at += step) {
        const int32_t count = chunk_count(team.dim, at);
        if (count > 0) {
            float x[chunk], y[chunk];
            row.front(at, count, x);
            sum.front(at, count, y);
            FB_UNROLL
            for (int i = 0; i < chunk; i++) x[i] += y[i];
            store_chunk(sum.dtype, sum.address + int64_t(at) * element_bytes(sum.dtype), count, x);
            uint32_t words[chunk];
            pack_words(sum.dtype, x, words);
            FB_UNROLL
            for (int word = 0; word < 4; word++) sum.kept.words[0][word] = words[word];
        }
        row.kept.rotate();
        sum.kept.rotate();
    }
    row = sum;
}

// The team's row. Where it is not held each pass reads it again; it may be written where it lies,
// as each thread writes only what it has read itself.
template <class Team> FB_DEVICE void norm_row(const fb_norm_params& p, const Team& team) {
    const int32_t dim = team.dim, step = team.step(), first = team.rank * chunk;
    const bool adds = p.residual.address != 0;
    NormRow row = {row_address(p.x, team.row), p.x.dtype, false};
    row.holds = can_hold(row.dtype, row.address, dim) && dim <= step * held &&
                (!adds || can_hold(p.residual.dtype, row_address(p.residual, team.row), dim));
    if (row.holds) row.kept.load(row.address, dim, first, step);
    if (adds) add_residual(p, team, row);
    const uint64_t target = row_address(p.out, team.row);
    const int32_t end = row.holds ? step * held : dim;
    float mean = 0, factor = 0, inverse = 1;
    FB_NO_UNROLL
    for (Pass pass = p.centered ? pass_mean : pass_squares;;) {
        float result = 0;
        FB_NO_UNROLL
        for (int32_t at = first; at < end; at += step) {
            const int32_t count = chunk_count(dim, at);
            float x[chunk];
            if (count > 0) {
                row.front(at, count, x);
                if (pass <= pass_squares) {
                    result += sum_of(pass, x, count, mean);
                } else {
                    normalize(p, at, count, mean, factor, x);
                    result = max_nan(result, chunk_most(x, count));
                }
                if (pass == pass_write) {
                    FB_UNROLL
                    for (int i = 0; i < chunk; i++) x[i] *= inverse;
                    store_chunk(p.out.dtype, target + int64_t(at) * element_bytes(p.out.dtype),
                                count, x);
                }
            }
            row.kept.rotate();
        }
        if (pass == pass_write) return;
        result = team.reduce(result, pass == pass_most);
        if (pass == pass_mean) {
            mean = result / p.span.dim;
            pass = pass_squares;
        } else if (pass == pass_squares) {
            factor = 1 / sqrtf(result / p.span.dim + p.eps);
            pass = pass_most;
        } else {
            pass = pass_write;
        }
        // Without scales of rows their largest results are not looked for.
        if (pass == pass_most && p.scaling.token_scales == 0) pass = pass_write;
        if (pass == pass_write) inverse = inverse_scale(p.scaling, team, p.out.dtype, result);
    }
}

// ---- the kernels

// Rows of more elements than a warp holds: row `item`, by the whole block.
FB_OPERATOR(norm_long, fb_norm_params, 256, 3, 1) {
    FB_SHARED(float, parts, [row_warps]);
    pdl_wait();
    pdl_launch_dependents();
    norm_row(p, block_team(p.span, parts));
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(norm_short, fb_norm_params, 256, 2, 8) {
    pdl_wait();
    pdl_launch_dependents();
    norm_row(p, lanes_team(p.span));
}
