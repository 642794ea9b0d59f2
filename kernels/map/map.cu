// Rows made from others, element by element: activations, sums, caps, rows by index.
#include "../ptx/base.h"
#include "../params/map.h"
#include "../ptx/pdl.h"
#include "../common/activate.h"
#include "../common/even.h"

// ---- facts

// Chunks of an even row that a thread has on their way, of a and of b.
constexpr int flight = 2;
// Blocks of 256 threads on a multiprocessor, where it has threads for them.
constexpr int even_blocks = FB_ARCH < 800 ? 4 : 5;
// The same where rows are only copied.
constexpr bool has_1536_threads =
    FB_ARCH == 860 || FB_ARCH == 870 || FB_ARCH == 890 || FB_ARCH >= 1200;
constexpr int moved_blocks = FB_ARCH < 800 ? 4 : has_1536_threads ? 6 : 8;

// ---- compute

template <class Element>
FB_DEVICE void map_each(float (&x)[chunk], const float (&y)[chunk], Element element) {
    FB_UNROLL
    for (int i = 0; i < chunk; i++) x[i] = element(x[i], y[i]);
}

template <int activation>
FB_DEVICE void map_gated(float (&x)[chunk], const float (&y)[chunk]) {
    map_each(x, y, [](float a, float b) { return activate(activation, a) * b; });
}

// x becomes the results.
FB_DEVICE void map_chunk(int32_t operation, float factor, float (&x)[chunk],
                         const float (&y)[chunk]) {
    switch (operation) {
    case FB_MAP_ADD: return map_each(x, y, [](float a, float b) { return a + b; });
    case FB_MAP_SILU: return map_gated<FB_ACTIVATION_SILU>(x, y);
    case FB_MAP_GELU: return map_gated<FB_ACTIVATION_GELU>(x, y);
    case FB_MAP_GELU_TANH: return map_gated<FB_ACTIVATION_GELU_TANH>(x, y);
    case FB_MAP_CAP:
        return map_each(x, y, [=](float a, float) { return factor * tanhf(a / factor); });
    default: return map_each(x, y, [=](float a, float) { return a * factor; });
    }
}

// ---- rows

// A row that is read; zeros where there is none.
struct MapRow {
    uint64_t address;
    int32_t dtype;
    bool there;

    FB_DEVICE void load(int32_t at, int32_t count, float (&x)[chunk]) const {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = 0;
        if (there) load_chunk(dtype, address + int64_t(at) * element_bytes(dtype), count, x);
    }
};

// The row that an index names, or the same without indices; below 0 if there is none.
FB_DEVICE int64_t row_by(uint64_t indices, int64_t row, int32_t rows) {
    if (indices == 0) return row;
    const int32_t index = items<const int32_t>(indices)[row];
    return index < rows ? index : -1;
}

FB_DEVICE MapRow row_of(const fb_rows_params& rows, int64_t row, bool there) {
    return {there ? row_address(rows, row) : 0, rows.dtype, there};
}

// What a team makes, and where.
struct MapRows {
    MapRow a, b;
    uint64_t out;
    int32_t first, end; // of this thread: none where nothing is written
};

// Elements [first, end) of the team's row.
template <class Team>
FB_DEVICE MapRows map_rows(const fb_map_params& p, const Team& team, int32_t first, int32_t end) {
    const bool live = team.dim > 0;
    const int64_t source = live ? row_by(p.sources, team.row, p.source_rows) : -1;
    const int64_t target = live ? row_by(p.targets, team.row, p.target_rows) : -1;
    const bool writes = target >= 0;
    return {row_of(p.a, source, source >= 0),
            row_of(p.b, source, source >= 0 && p.b.address != 0),
            writes ? row_address(p.out, target) : 0, first + team.rank * chunk, writes ? end : 0};
}

// Calls pass(inverse, writes), which returns the largest result, once, or first for the scale.
template <class Team, class Rows>
FB_DEVICE void with_scale(const fb_map_params& p, Team& team, Rows pass) {
    const bool scales_rows = p.scaling.token_scales != 0;
    float inverse = scales_rows ? 1 : inverse_scale(p.scaling, team, p.out.dtype, 0);
    FB_NO_UNROLL
    for (bool writes = !scales_rows;; writes = true) {
        const float most = pass(inverse, writes);
        if (writes) return;
        inverse = inverse_scale(p.scaling, team, p.out.dtype, team.most(most));
    }
}

template <class Team>
FB_DEVICE void map_row(const fb_map_params& p, Team team, int32_t first, int32_t end) {
    const MapRows rows = map_rows(p, team, first, end);
    with_scale(p, team, [&](float inverse, bool writes) {
        float most = 0;
        FB_NO_UNROLL
        for (int32_t at = rows.first; at < rows.end; at += team.step()) {
            const int32_t count = chunk_count(rows.end, at);
            float x[chunk], y[chunk];
            rows.a.load(at, count, x);
            rows.b.load(at, count, y);
            map_chunk(p.operation, p.factor, x, y);
            most = max_nan(most, chunk_most(x, count));
            if (!writes) continue;
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] *= inverse;
            store_chunk(p.out.dtype, rows.out + int64_t(at) * element_bytes(p.out.dtype), count, x);
        }
        return most;
    });
}

// The same of even rows: the chunks of a turn are on their way together.
template <class Team>
FB_DEVICE float pass_even(const fb_map_params& p, const Team& team, const MapRows& rows,
                          float inverse, bool writes) {
    const int32_t dtype = p.a.dtype, step = team.step();
    float most = 0;
    FB_NO_UNROLL
    for (int32_t start = rows.first; start < rows.end; start += flight * step) {
        uint4 a[flight] = {}, b[flight] = {};
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int32_t at = start + i * step;
            if (at < rows.end && rows.a.there) a[i] = load_even(rows.a.address, at);
            if (at < rows.end && rows.b.there) b[i] = load_even(rows.b.address, at);
        }
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int32_t at = start + i * step;
            if (at >= rows.end) break;
            float x[chunk], y[chunk];
            widen_even(dtype, a[i], x);
            widen_even(dtype, b[i], y);
            map_chunk(p.operation, p.factor, x, y);
            if (!writes) {
                most = max_nan(most, chunk_most(x, chunk));
                continue;
            }
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] *= inverse;
            store_even(p.out.dtype, rows.out, at, x);
        }
    }
    return most;
}

// Rows that may have scales of their own.
template <class Team> FB_DEVICE void map_even(const fb_map_params& p, Team team) {
    const MapRows rows = map_rows(p, team, 0, p.span.dim);
    with_scale(p, team, [&](float inverse, bool writes) {
        return pass_even(p, team, rows, inverse, writes);
    });
}

// ---- the kernels

// The elements of part `item` of a row.
struct Part {
    int32_t first, end;
};

FB_DEVICE Part part_now(const fb_span_params& s) {
    const int32_t first = s.parts == 1 ? 0 : int32_t(blockIdx.x) % s.parts * s.part_elements;
    return {first, s.dim - first < s.part_elements ? s.dim : first + s.part_elements};
}

// Part `item` of rows of more elements than a warp holds, by the whole block.
FB_OPERATOR(map_long, fb_map_params, 256, 2, 1) {
    FB_SHARED(float, shared, [2 * row_threads]);
    pdl_wait();
    pdl_launch_dependents();
    const Part part = part_now(p.span);
    map_row(p, block_team(p.span, shared), part.first, part.end);
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(map_short, fb_map_params, 256, 2, 8) {
    pdl_wait();
    pdl_launch_dependents();
    map_row(p, lanes_team(p.span), 0, p.span.dim);
}

// What this thread makes of even rows, once it may: worked out before the wait unless memory says
// which rows there are, as one row takes little longer than that.
FB_DEVICE MapRows rows_now(const fb_map_params& p) {
    const Part part = part_now(p.span);
    Team<row_warps> team = {int64_t(blockIdx.x), p.span.dim, int32_t(threadIdx.x), row_threads,
                            nullptr};
    if (p.span.parts != 1) team.row = int32_t(blockIdx.x) / p.span.parts;
    const bool is_known = (p.sources | p.targets | p.span.live) == 0;
    if (!is_known) {
        pdl_wait();
        if (team.row >= live_rows(p.span)) team.dim = 0;
    }
    const MapRows rows = map_rows(p, team, part.first, part.end);
    if (is_known) pdl_wait();
    return rows;
}

// The same of even rows: of those without scales of their own, of those that are only copied (as
// reads wait for indices, more blocks have some on their way), of those with scales, of short ones.
FB_OPERATOR(map_even_long, fb_map_params, 256, even_blocks, 1) {
    pdl_launch_dependents();
    const MapRows rows = rows_now(p);
    const Team<row_warps> team = {0, p.span.dim, int32_t(threadIdx.x), row_threads, nullptr};
    pass_even(p, team, rows, inverse_scale(p.scaling, team, p.out.dtype, 0), true);
}

FB_OPERATOR(map_even_moved, fb_map_params, 256, moved_blocks, 1) {
    pdl_launch_dependents();
    const MapRows rows = rows_now(p);
    constexpr int32_t step = row_threads * chunk;
    FB_NO_UNROLL
    for (int32_t start = rows.first; start < rows.end; start += flight * step) {
        uint4 raw[flight] = {};
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int32_t at = start + i * step;
            if (at < rows.end && rows.a.there) raw[i] = load_even(rows.a.address, at);
        }
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int32_t at = start + i * step;
            if (at < rows.end) store_raw(rows.out, at, raw[i]);
        }
    }
}

FB_OPERATOR(map_even_scaled, fb_map_params, 256, 4, 1) {
    FB_SHARED(float, shared, [2 * row_threads]);
    pdl_wait();
    pdl_launch_dependents();
    map_even(p, block_team(p.span, shared));
}

FB_OPERATOR(map_even_short, fb_map_params, 256, 4, 8) {
    pdl_wait();
    pdl_launch_dependents();
    map_even(p, lanes_team(p.span));
}
