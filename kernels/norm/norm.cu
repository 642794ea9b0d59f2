// Norms of rows: sums in f32, in an order that follows from the row's length alone.
#include "../ptx/base.h"
#include "../params/norm.h"
#include "../ptx/pdl.h"
#include "../common/even.h"

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

// The residual becomes its sum with x, rounded as it keeps it, and is the row from here on.
template <class Team>
FB_DEVICE fb_rows_params add_residual(const fb_norm_params& p, const Team& team) {
    const uint64_t row = row_address(p.x, team.row), sum = row_address(p.residual, team.row);
    FB_NO_UNROLL
    for (int32_t at = team.rank * chunk; at < team.dim; at += team.step()) {
        const int32_t count = chunk_count(team.dim, at);
        const uint64_t place = sum + int64_t(at) * element_bytes(p.residual.dtype);
        float x[chunk], y[chunk];
        load_chunk(p.x.dtype, row + int64_t(at) * element_bytes(p.x.dtype), count, x);
        load_chunk(p.residual.dtype, place, count, y);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] += y[i];
        store_chunk(p.residual.dtype, place, count, x);
    }
    return p.residual;
}

// What the passes over a row have found; `result`: of all its team's threads.
struct Found {
    float mean = 0;
    float factor = 0;
    float inverse = 1;

    template <class Team>
    FB_DEVICE Pass after(Pass pass, const fb_norm_params& p, const Team& team, float result) {
        if (pass == pass_mean) {
            mean = result / p.span.dim;
            return pass_squares;
        }
        if (pass == pass_squares) factor = 1 / sqrtf(result / p.span.dim + p.eps);
        // Without scales of rows their largest results are not looked for.
        if (pass == pass_squares && p.scaling.token_scales != 0) return pass_most;
        inverse = inverse_scale(p.scaling, team, p.out.dtype, result);
        return pass_write;
    }
};

// The team's row, which each pass reads again; it may be written where it lies, as each thread
// writes only what it has read itself.
template <class Team> FB_DEVICE void norm_row(const fb_norm_params& p, const Team& team) {
    const int32_t dim = team.dim, step = team.step();
    const fb_rows_params rows = p.residual.address != 0 ? add_residual(p, team) : p.x;
    const uint64_t row = row_address(rows, team.row), target = row_address(p.out, team.row);
    Found found;
    FB_NO_UNROLL
    for (Pass pass = p.centered ? pass_mean : pass_squares;;) {
        float result = 0;
        FB_NO_UNROLL
        for (int32_t at = team.rank * chunk; at < dim; at += step) {
            const int32_t count = chunk_count(dim, at);
            float x[chunk];
            load_chunk(rows.dtype, row + int64_t(at) * element_bytes(rows.dtype), count, x);
            if (pass <= pass_squares) {
                result += sum_of(pass, x, count, found.mean);
                continue;
            }
            normalize(p, at, count, found.mean, found.factor, x);
            result = max_nan(result, chunk_most(x, count));
            if (pass == pass_most) continue;
            FB_UNROLL
            for (int i = 0; i < chunk; i++) x[i] *= found.inverse;
            store_chunk(p.out.dtype, target + int64_t(at) * element_bytes(p.out.dtype), count, x);
        }
        if (pass == pass_write) return;
        pass = found.after(pass, p, team, team.reduce(result, pass == pass_most));
    }
}

// A chunk of an even row becomes results.
FB_DEVICE void normalize_even(const fb_norm_params& p, int32_t at, const Found& found,
                              float (&x)[chunk]) {
    float y[chunk];
    load_term(p.weight_dtype, p.weight, at, y);
    FB_UNROLL
    for (int i = 0; i < chunk; i++)
        x[i] = (x[i] - found.mean) * found.factor * (y[i] + p.weight_offset);
    if (p.bias == 0) return;
    load_term(p.weight_dtype, p.bias, at, y);
    FB_UNROLL
    for (int i = 0; i < chunk; i++) x[i] += y[i];
}

// Even rows from the team's on, which it holds side by side: so many loads are in flight, and all
// rows wait at the same barriers.
template <int rows, class Team>
FB_DEVICE void norm_even(const fb_norm_params& p, const Team& first_team) {
    constexpr int chunks = held / rows;
    const int32_t dtype = p.x.dtype, step = first_team.step();
    const int32_t first = first_team.rank * chunk;
    const int64_t live = live_rows(p.span);
    Team teams[rows];
    uint4 raw[rows][chunks];
    FB_UNROLL
    for (int r = 0; r < rows; r++) {
        teams[r] = first_team;
        teams[r].row += r;
        if (teams[r].row >= live) teams[r].dim = 0;
        const uint64_t source = row_address(p.x, teams[r].row);
        FB_UNROLL
        for (int i = 0; i < chunks; i++)
            if (first + i * step < teams[r].dim) raw[r][i] = load_even(source, first + i * step);
    }
    FB_UNROLL
    for (int r = 0; p.residual.address != 0 && r < rows; r++) {
        const uint64_t sum = row_address(p.residual, teams[r].row);
        FB_UNROLL
        for (int i = 0; i < chunks; i++) {
            const int32_t at = first + i * step;
            if (at >= teams[r].dim) break;
            float x[chunk], y[chunk];
            widen_even(dtype, raw[r][i], x);
            widen_even(dtype, load_even(sum, at), y);
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] += y[j];
            raw[r][i] = round_even(dtype, x);
            *items<uint4>(sum + int64_t(at) * 2) = raw[r][i];
        }
    }
    Found found[rows];
    FB_NO_UNROLL
    for (Pass pass = p.centered ? pass_mean : pass_squares;;) {
        float results[rows];
        FB_UNROLL
        for (int r = 0; r < rows; r++) {
            const uint64_t target = row_address(p.out, teams[r].row);
            results[r] = 0;
            FB_UNROLL
            for (int i = 0; i < chunks; i++) {
                const int32_t at = first + i * step;
                if (at >= teams[r].dim) break;
                float x[chunk];
                widen_even(dtype, raw[r][i], x);
                if (pass <= pass_squares) {
                    results[r] += sum_of(pass, x, chunk, found[r].mean);
                    continue;
                }
                normalize_even(p, at, found[r], x);
                if (pass == pass_most) {
                    results[r] = max_nan(results[r], chunk_most(x, chunk));
                    continue;
                }
                FB_UNROLL
                for (int j = 0; j < chunk; j++) x[j] *= found[r].inverse;
                store_even(p.out.dtype, target, at, x);
            }
        }
        if (pass == pass_write) return;
        first_team.reduce_all(results, pass == pass_most);
        const Pass now = pass;
        FB_UNROLL
        for (int r = 0; r < rows; r++) pass = found[r].after(now, p, teams[r], results[r]);
    }
}

// ---- the kernels

// A product that follows reads its weight meanwhile. This kernel's own is in the L2 cache then.
FB_DEVICE void begin_norm(const fb_norm_params& p) {
    pdl_launch_dependents();
    const uint32_t bytes = uint32_t(p.span.dim * element_bytes(p.weight_dtype)) & ~15u;
    if (threadIdx.x == 0 && p.weight % 16 == 0 && bytes > 0)
        prefetch_l2_bulk(items<const void>(p.weight), bytes);
    pdl_wait();
}

// Rows of more elements than a warp holds: row `item`, by the whole block.
FB_OPERATOR(norm_long, fb_norm_params, 256, 3, 1) {
    FB_SHARED(float, parts, [row_warps]);
    begin_norm(p);
    norm_row(p, block_team(p.span, parts));
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(norm_short, fb_norm_params, 256, 2, 8) {
    begin_norm(p);
    norm_row(p, lanes_team(p.span));
}

// The same of even rows.
FB_OPERATOR(norm_even_long, fb_norm_params, 256, 4, 1) {
    FB_SHARED(float, parts, [row_warps]);
    begin_norm(p);
    norm_even<1>(p, block_team(p.span, parts));
}

// Rows 2 * item and the next one, of which a block holds both.
FB_OPERATOR(norm_even_two, fb_norm_params, 256, 4, 2) {
    FB_SHARED(float, parts, [2 * row_warps]);
    begin_norm(p);
    norm_even<2>(p, block_team(p.span, parts, 2));
}

FB_OPERATOR(norm_even_short, fb_norm_params, 256, 4, 8) {
    begin_norm(p);
    norm_even<1>(p, lanes_team(p.span));
}
