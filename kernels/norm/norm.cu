// Norms of rows: sums in f32, in an order that follows from the row's length alone.
#include "../ptx/base.h"
#include "../params/norm.h"
#include "../ptx/pdl.h"
#include "../common/even.h"

// ---- facts

// What is done with a row, one pass after the other; each but the last ends in a number that all of
// the team need.
enum Pass { pass_mean, pass_squares, pass_most, pass_write };

// Parts of a long row's sum: chunk c is of part c / 32 modulo so many, in lane c % 32.
constexpr int sum_parts = 16;

// ---- compute

// Adds the upper half of neighbours to the lower one until one is left.
template <int count> FB_DEVICE float fold(float (&x)[count]) {
    FB_UNROLL
    for (int half = 1; half < count; half *= 2) {
        FB_UNROLL
        for (int i = 0; i < count; i++)
            if (i < count / (2 * half)) x[i] += x[i + count / (2 * half)];
    }
    return x[0];
}

// Parts of the sum that a thread of a team adds up by itself.
template <int warps> constexpr int own_parts = warps > 0 ? sum_parts / warps : 2;

// The sum of a row, in each of its team's threads: its bits are the same whatever the number of
// warps that share it.
template <int warps>
FB_DEVICE float sum_of_row(Team<warps>& team, float (&own)[own_parts<warps>]) {
    float sum = fold(own);
    if constexpr (warps > 1) {
        float* const sums = team.turn();
        sums[threadIdx.x] = sum;
        __syncthreads();
        float each[warps];
        FB_UNROLL
        for (int i = 0; i < warps; i++) each[i] = sums[32 * i + threadIdx.x % 32];
        sum = fold(each);
    }
    if constexpr (warps > 0) {
        FB_UNROLL
        for (int distance = 16; distance > 0; distance /= 2)
            sum += __shfl_xor_sync(~0u, sum, distance);
    } else {
        FB_NO_UNROLL
        for (int distance = team.size / 2; distance > 0; distance /= 2)
            sum += __shfl_xor_sync(~0u, sum, distance);
    }
    return sum;
}

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

// What a row is multiplied by; -0 stays -0 without an offset.
FB_DEVICE float weight_of(const fb_norm_params& p, float weight) {
    return p.weight_offset == 0 ? weight : weight + p.weight_offset;
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
            x[i] = term == 0 ? (x[i] - mean) * factor * weight_of(p, y[i]) : x[i] + y[i];
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
        if (pass == pass_squares) factor = inverse_root(fmaf(result, 1.0f / p.span.dim, p.eps));
        // Without scales of rows their largest results are not looked for.
        if (pass == pass_squares && p.scaling.token_scales != 0) return pass_most;
        inverse = inverse_scale(p.scaling, team, p.out.dtype, result);
        return pass_write;
    }
};

// The team's row, which each pass reads again; it may be written where it lies, as each thread
// writes only what it has read itself.
template <int warps> FB_DEVICE void norm_row(const fb_norm_params& p, Team<warps> team) {
    const int32_t dim = team.dim, step = team.step();
    const fb_rows_params rows = p.residual.address != 0 ? add_residual(p, team) : p.x;
    const uint64_t row = row_address(rows, team.row), target = row_address(p.out, team.row);
    Found found;
    FB_NO_UNROLL
    for (Pass pass = p.centered ? pass_mean : pass_squares;;) {
        float most = 0, sums[own_parts<warps>] = {};
        FB_NO_UNROLL
        for (int32_t at = team.rank * chunk; at < dim; at += step) {
            const int32_t count = chunk_count(dim, at);
            float x[chunk];
            load_chunk(rows.dtype, row + int64_t(at) * element_bytes(rows.dtype), count, x);
            if (pass <= pass_squares) {
                const float sum = sum_of(pass, x, count, found.mean);
                if (at / step % 2 == 0) sums[0] += sum;
                else sums[1] += sum;
                continue;
            }
            normalize(p, at, count, found.mean, found.factor, x);
            most = max_nan(most, chunk_most(x, count));
            if (pass == pass_most) continue;
            FB_UNROLL
            for (int i = 0; i < chunk; i++) x[i] *= found.inverse;
            store_chunk(p.out.dtype, target + int64_t(at) * element_bytes(p.out.dtype), count, x);
        }
        if (pass == pass_write) return;
        const float result = pass == pass_most ? team.most(most) : sum_of_row(team, sums);
        pass = found.after(pass, p, team, result);
    }
}

// ---- even rows, which a team holds

// Chunks of a team's even row in a thread's registers, `chunks` or fewer. What all of the row's
// teams do has no branch by thread: a team without a row passes through the same instructions.
template <int chunks> struct HeldRow {
    uint4 raw[chunks];
    int32_t first; // element, of this thread
    int32_t step;
    int32_t dim;   // 0: no row
    int32_t whole; // elements of any row

    // Calls each(i, at, whether that is in the row).
    template <class Each> FB_DEVICE void for_each(Each each) const {
        FB_UNROLL
        for (int i = 0; i < chunks; i++) {
            if (i * step >= whole) break;
            each(i, first + i * step, first + i * step < dim);
        }
    }
    FB_DEVICE void rotate() {
        const uint4 front = raw[0];
        FB_UNROLL
        for (int i = 1; i < chunks; i++) raw[i - 1] = raw[i];
        raw[chunks - 1] = front;
    }
    // The same elements of another row, none of them read yet.
    FB_DEVICE HeldRow other() const { return {{}, first, step, dim, whole}; }
    FB_DEVICE void load(uint64_t row) {
        for_each([&](int i, int32_t at, bool inside) {
            raw[i] = inside ? load_even(row, at) : make_uint4(0, 0, 0, 0);
        });
    }
    // The residual, `kept` of it read, becomes its sum with the row, and is the row from here on.
    template <int type> FB_DEVICE void add(uint64_t residual, const HeldRow& kept) {
        for_each([&](int i, int32_t at, bool inside) {
            float x[chunk], y[chunk];
            widen_8<type>(&raw[i], x);
            widen_8<type>(&kept.raw[i], y);
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] += y[j];
            raw[i] = round_8<type>(x);
            if (inside) store_raw(residual, at, raw[i]);
        });
    }
};

// Where a row is read and written.
struct Places {
    uint64_t x, residual, out;
};

FB_DEVICE Places places_of(const fb_norm_params& p, int64_t row) {
    const uint64_t residual = p.residual.address == 0 ? 0 : row_address(p.residual, row);
    return {row_address(p.x, row), residual, row_address(p.out, row)};
}

// Results of a row that are neither scaled nor of another type than it and the weights.
template <int type, bool early, int chunks>
FB_DEVICE void write_plain(const fb_norm_params& p, const HeldRow<chunks>& row,
                           const HeldRow<chunks>& weights, uint64_t target, const Found& found) {
    row.for_each([&](int i, int32_t at, bool inside) {
        uint4 terms = weights.raw[i];
        if (!early) terms = inside ? load_even(p.weight, at) : make_uint4(0, 0, 0, 0);
        float x[chunk], y[chunk];
        widen_8<type>(&row.raw[i], x);
        widen_8<type>(&terms, y);
        FB_UNROLL
        for (int j = 0; j < chunk; j++) x[j] = (x[j] - found.mean) * found.factor * y[j];
        if (p.bias != 0) {
            if (inside) terms = load_even(p.bias, at);
            widen_8<type>(&terms, y);
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] += y[j];
        }
        if (inside) store_raw(target, at, round_8<type>(x));
    });
}

// All others, first their largest magnitude where rows have scales of their own. Each turn works
// with the first chunk, so that its code is there once and no register is indexed.
template <int chunks, int warps>
FB_DEVICE void write_any(const fb_norm_params& p, HeldRow<chunks>& row, Found& found,
                         Team<warps>& team, uint64_t target) {
    FB_NO_UNROLL
    for (Pass pass = p.scaling.token_scales != 0 ? pass_most : pass_write;; pass = pass_write) {
        float most = 0;
        FB_NO_UNROLL
        for (int i = 0, at = row.first; i < chunks; i++, at += row.step) {
            float x[chunk], y[chunk];
            widen_even(p.x.dtype, row.raw[0], x);
            row.rotate();
            if (at >= row.dim) continue;
            load_term(p.weight_dtype, p.weight, at, y);
            FB_UNROLL
            for (int j = 0; j < chunk; j++)
                x[j] = (x[j] - found.mean) * found.factor * weight_of(p, y[j]);
            if (p.bias != 0) {
                load_term(p.weight_dtype, p.bias, at, y);
                FB_UNROLL
                for (int j = 0; j < chunk; j++) x[j] += y[j];
            }
            most = max_nan(most, chunk_most(x, chunk));
            if (pass == pass_most) continue;
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] *= found.inverse;
            store_even(p.out.dtype, target, at, x);
        }
        if (pass == pass_write) return;
        found.after(pass, p, team, team.most(most));
    }
}

// Reads a row and finds what it is normalised by. False: it is left to be written. `early`: weights
// are read beside it, so that one row waits for memory once.
template <int type, bool centered, bool early, int chunks, int warps>
FB_DEVICE bool norm_held(const fb_norm_params& p, Team<warps>& team, const Places& places,
                         HeldRow<chunks>& row, Found& found) {
    constexpr int parts = own_parts<warps>;
    const bool plain = (p.scaling.scale | p.scaling.token_scales) == 0 && p.weight_offset == 0 &&
                       p.out.dtype == type && p.weight_dtype == type;
    HeldRow<chunks> weights = row.other();
    if (p.residual.address != 0) {
        HeldRow<chunks> kept = row.other();
        row.load(places.x);
        kept.load(places.residual);
        if (early && plain) weights.load(p.weight);
        row.template add<type>(places.residual, kept);
    } else {
        row.load(places.x);
        if (early && plain) weights.load(p.weight);
    }
    const auto sum = [&](Pass pass) {
        float sums[parts] = {};
        row.for_each([&](int i, int32_t, bool inside) {
            float x[chunk];
            widen_8<type>(&row.raw[i], x);
            const float more = sum_of(pass, x, chunk, centered ? found.mean : 0);
            sums[i % parts] += inside ? more : 0;
        });
        return sum_of_row(team, sums);
    };
    if (centered) found.after(pass_mean, p, team, sum(pass_mean));
    found.after(pass_squares, p, team, sum(pass_squares));
    if (!plain) return false;
    write_plain<type, early>(p, row, weights, places.out, found);
    return true;
}

// An even row, read once.
template <int chunks, bool early = false, int warps>
FB_DEVICE void norm_even(const fb_norm_params& p, Team<warps>& team, const Places& places) {
    HeldRow<chunks> row = {{}, team.rank * chunk, team.step(), team.dim, p.span.dim};
    Found found;
    bool done;
    if (p.x.dtype == FB_F16)
        done = p.centered ? norm_held<FB_F16, true, early>(p, team, places, row, found)
                          : norm_held<FB_F16, false, early>(p, team, places, row, found);
    else
        done = p.centered ? norm_held<FB_BF16, true, early>(p, team, places, row, found)
                          : norm_held<FB_BF16, false, early>(p, team, places, row, found);
    if (!done) write_any(p, row, found, team, places.out);
}

// ---- the kernels

// Rows of more elements than a warp holds: row `item`, by the whole block.
FB_OPERATOR(norm_long, fb_norm_params, 256, 3, 1) {
    FB_SHARED(float, shared, [2 * row_threads]);
    pdl_wait();
    pdl_launch_dependents();
    norm_row(p, block_team(p.span, shared));
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(norm_short, fb_norm_params, 256, 2, 8) {
    pdl_wait();
    pdl_launch_dependents();
    norm_row(p, lanes_team(p.span));
}

// The same of even rows: of up to 8192 elements, up to 4096, and short ones.
FB_OPERATOR(norm_even_wide, fb_norm_params, 128, 6, 1) {
    FB_SHARED(float, shared, [row_threads]);
    pdl_wait();
    pdl_launch_dependents();
    Team<4> team = block_team<4>(p.span, shared);
    norm_even<8>(p, team, places_of(p, team.row));
}

FB_OPERATOR(norm_even_long, fb_norm_params, 128, 8, 1) {
    FB_SHARED(float, shared, [row_threads]);
    pdl_wait();
    pdl_launch_dependents();
    Team<4> team = block_team<4>(p.span, shared);
    norm_even<4>(p, team, places_of(p, team.row));
}

FB_OPERATOR(norm_even_short, fb_norm_params, 256, 4, 8) {
    pdl_wait();
    pdl_launch_dependents();
    Team<0> team = lanes_team(p.span);
    norm_even<held>(p, team, places_of(p, team.row));
}

// A product that follows reads its weight meanwhile. This kernel's own is in the L2 cache then.
FB_DEVICE void begin_norm(const fb_norm_params& p) {
    pdl_launch_dependents();
    const uint32_t bytes = uint32_t(p.span.dim * element_bytes(p.weight_dtype)) & ~15u;
    if (threadIdx.x == 0 && p.weight % 16 == 0 && bytes > 0)
        prefetch_l2_bulk(items<const void>(p.weight), bytes);
}

// Few long rows. Instructions that nobody has run for a while take longer than a row: they are run
// once without one, while the kernel before still runs.
FB_OPERATOR(norm_even_few, fb_norm_params, 256, 2, 1) {
    FB_SHARED(float, shared, [2 * 256]);
    begin_norm(p);
    Team<8> team = {blockIdx.x, 0, int32_t(threadIdx.x), 256, shared};
    const Places places = places_of(p, team.row);
    FB_NO_UNROLL
    for (int turn = 0; turn < 2; turn++) {
        if (turn == 1) {
            pdl_wait();
            team.dim = team.row < live_rows(p.span) ? p.span.dim : 0;
        }
        norm_even<4, true>(p, team, places);
    }
}
