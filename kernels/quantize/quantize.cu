// Matrices in few bits, with a scale for each block.
#include "../ptx/base.h"
#include "../params/quantize.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "../common/rows.h"

// ---- facts

// Neighbours that have 128 elements of a row in a turn; teams are at least as large.
constexpr int group_lanes = 128 / chunk;

// ---- compute

// A scale is at least this one from here on; others may be raising it. Positive numbers rise with
// their bits, and NaN is above all.
FB_DEVICE void raise(uint64_t scale, float least) {
    const uint32_t bits = __float_as_uint(least);
    if (load_acquire_4(items<const void>(scale)) < bits) atomicMax(items<uint32_t>(scale), bits);
}

// Raises the scales of a chunk's blocks; `most`: of the 128 elements that the chunk is in.
FB_DEVICE void raise_scales(const fb_quantize_params& p, uint64_t scales, int32_t at, int32_t count,
                            const float (&x)[chunk], float most) {
    if (p.block_columns > 1) {
        if (threadIdx.x % group_lanes == 0)
            raise(scales + at / p.block_columns * 4, scale_of(most, p.out.dtype));
        return;
    }
    FB_UNROLL
    for (int i = 0; i < chunk; i++)
        if (i < count) raise(scales + (at + i) * 4, scale_of(fabsf(x[i]), p.out.dtype));
}

// What the elements of a chunk are multiplied by.
FB_DEVICE void factors_of(const fb_quantize_params& p, uint64_t scales, int32_t at, int32_t count,
                          float (&factors)[chunk]) {
    if (p.block_columns == 1) load_chunk(FB_F32, scales + int64_t(at) * 4, count, factors);
    else {
        const float scale = items<const float>(scales)[at / p.block_columns];
        FB_UNROLL
        for (int i = 0; i < chunk; i++) factors[i] = scale;
    }
    if (p.mode == FB_DEQUANTIZE) return;
    FB_UNROLL
    for (int i = 0; i < chunk; i++) factors[i] = 1 / factors[i];
}

// Elements [first, end) of the team's row. All turns are taken by all threads, as groups of them
// join what they find.
template <class Team>
FB_DEVICE void quantize_row(const fb_quantize_params& p, const Team& team, int32_t first,
                            int32_t end) {
    if (team.dim == 0) end = first;
    const int32_t step = team.step(), segment = step * held;
    const int32_t in_bytes = element_bytes(p.x.dtype), out_bytes = element_bytes(p.out.dtype);
    const uint64_t source = row_address(p.x, team.row);
    const uint64_t target = row_address(p.out, team.row);
    const uint64_t scales = p.scales + team.row / p.block_rows * p.column_blocks * 4;
    const bool holds = can_hold(p.x.dtype, source, p.span.dim);
    HeldRow kept;
    FB_NO_UNROLL
    for (int32_t begin = first; begin < first + p.span.part_elements; begin += segment) {
        const int32_t start = begin + team.rank * chunk;
        if (holds) kept.load(source, end, start, step);
        FB_NO_UNROLL
        for (int32_t i = 0, at = start; i < held; i++, at += step) {
            const int32_t count = chunk_count(end, at);
            float x[chunk], factors[chunk];
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] = 0;
            if (count > 0) {
                if (holds) widen_words(p.x.dtype, kept.words[0], x);
                else load_chunk(p.x.dtype, source + int64_t(at) * in_bytes, count, x);
            }
            kept.rotate();
            if (p.mode >= FB_QUANTIZE_GROUPS) {
                float most = chunk_most(x, count);
                FB_UNROLL
                for (int distance = group_lanes / 2; distance > 0; distance /= 2)
                    most = max_nan(most, __shfl_xor_sync(~0u, most, distance));
                if (count <= 0) continue;
                if (p.mode == FB_BLOCK_SCALES) {
                    raise_scales(p, scales, at, count, x, most);
                    continue;
                }
                const float scale = scale_of(most, p.out.dtype);
                if (threadIdx.x % group_lanes == 0)
                    items<float>(scales)[at / p.block_columns] = scale;
                FB_UNROLL
                for (int j = 0; j < chunk; j++) factors[j] = 1 / scale;
            } else {
                if (count <= 0) continue;
                factors_of(p, scales, at, count, factors);
            }
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[j] *= factors[j];
            store_chunk(p.out.dtype, target + int64_t(at) * out_bytes, count, x);
        }
    }
}

// ---- the kernels

// Part `item` of rows of more elements than a warp holds, by the whole block.
FB_OPERATOR(quantize_long, fb_quantize_params, 256, 2, 1) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t part = p.span.parts == 1 ? 0 : int32_t(blockIdx.x) % p.span.parts;
    const int32_t first = part * p.span.part_elements;
    const int32_t end = p.span.dim - first < p.span.part_elements ? p.span.dim
                                                                  : first + p.span.part_elements;
    quantize_row(p, block_team(p.span, nullptr), first, end);
}

// Shorter ones: eight rows of an item where a warp has one, more where fewer lanes do.
FB_OPERATOR(quantize_short, fb_quantize_params, 256, 2, 8) {
    pdl_wait();
    pdl_launch_dependents();
    quantize_row(p, lanes_team(p.span), 0, p.span.dim);
}
