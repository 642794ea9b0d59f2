// Rows made from others, element by element: activations, sums, caps, rows by index.
#include "../ptx/base.h"
#include "../params/map.h"
#include "../ptx/pdl.h"
#include "../common/activate.h"
#include "../common/rows.h"

// ---- compute

FB_DEVICE float map_element(int32_t operation, float factor, float x, float y) {
    switch (operation) {
    case FB_MAP_ADD: return x + y;
    case FB_MAP_SILU: return activate(FB_ACTIVATION_SILU, x) * y;
    case FB_MAP_GELU: return activate(FB_ACTIVATION_GELU, x) * y;
    case FB_MAP_GELU_TANH: return activate(FB_ACTIVATION_GELU_TANH, x) * y;
    case FB_MAP_CAP: return factor * tanhf(x / factor);
    default: return x * factor;
    }
}

// ---- rows

// A row that is read: held in part as it lies, or taken chunk by chunk; zeros where there is none.
struct MapRow {
    uint64_t address;
    int32_t dtype;
    bool there;
    HeldRow kept;

    FB_DEVICE void front(bool holds, int32_t at, int32_t count, float (&x)[chunk]) const {
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = 0;
        if (!there) return;
        if (holds) widen_words(dtype, kept.words[0], x);
        else load_chunk(dtype, address + int64_t(at) * element_bytes(dtype), count, x);
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

// Elements [first, end) of the team's row, a segment of what the team holds after the other.
template <class Team>
FB_DEVICE void map_row(const fb_map_params& p, const Team& team, int32_t first, int32_t end) {
    if (team.dim == 0) first = end = 0;
    const bool live = team.dim > 0;
    const int64_t source = live ? row_by(p.sources, team.row, p.source_rows) : -1;
    const int64_t target = live ? row_by(p.targets, team.row, p.target_rows) : -1;
    if (target < 0) first = end;
    const int32_t step = team.step(), segment = step * held, dim = p.span.dim;
    MapRow a = row_of(p.a, source, source >= 0);
    MapRow b = row_of(p.b, source, source >= 0 && p.b.address != 0);
    const bool holds = can_hold(a.dtype, a.address, dim) &&
                       (p.b.address == 0 || can_hold(b.dtype, b.address, dim));
    const bool scales_rows = p.scaling.token_scales != 0;
    const uint64_t out = target < 0 ? 0 : row_address(p.out, target);
    float inverse = scales_rows ? 1 : inverse_scale(p.scaling, team, p.out.dtype, 0);
    FB_NO_UNROLL
    for (bool writes = !scales_rows;; writes = true) {
        float most = 0;
        FB_NO_UNROLL
        for (int32_t start = first + team.rank * chunk; start < end; start += segment) {
            if (holds && a.there) a.kept.load(a.address, end, start, step);
            if (holds && b.there) b.kept.load(b.address, end, start, step);
            FB_NO_UNROLL
            for (int32_t i = 0, at = start; i < held && at < end; i++, at += step) {
                const int32_t count = chunk_count(end, at);
                float x[chunk], y[chunk];
                a.front(holds, at, count, x);
                b.front(holds, at, count, y);
                FB_UNROLL
                for (int j = 0; j < chunk; j++)
                    x[j] = map_element(p.operation, p.factor, x[j], y[j]);
                if (writes) {
                    FB_UNROLL
                    for (int j = 0; j < chunk; j++) x[j] *= inverse;
                    store_chunk(p.out.dtype, out + int64_t(at) * element_bytes(p.out.dtype),
                                count, x);
                } else {
                    most = max_nan(most, chunk_most(x, count));
                }
                a.kept.rotate();
                b.kept.rotate();
            }
        }
        if (writes) return;
        inverse = inverse_scale(p.scaling, team, p.out.dtype, team.reduce(most, true));
    }
}

// ---- the kernels

// Part `item` of rows of more elements than a warp holds, by the whole block.
FB_OPERATOR(map_long, fb_map_params, 256, 2, 1) {
    FB_SHARED(float, parts, [row_warps]);
    pdl_wait();
    pdl_launch_dependents();
    const int32_t part = p.span.parts == 1 ? 0 : int32_t(blockIdx.x) % p.span.parts;
    const int32_t first = part * p.span.part_elements;
    const int32_t end = p.span.dim - first < p.span.part_elements ? p.span.dim
                                                                  : first + p.span.part_elements;
    map_row(p, block_team(p.span, parts), first, end);
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(map_short, fb_map_params, 256, 2, 8) {
    pdl_wait();
    pdl_launch_dependents();
    map_row(p, lanes_team(p.span), 0, p.span.dim);
}
