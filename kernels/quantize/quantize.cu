// Matrices in few bits, with a scale for each block.
#include "../ptx/base.h"
#include "../params/quantize.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "../common/even.h"

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

FB_DEVICE uint64_t scales_of(const fb_quantize_params& p, int64_t row) {
    const int64_t block = p.block_rows == 1 ? row : row / p.block_rows;
    return p.scales + block * p.column_blocks * 4;
}

// Elements [first, end) of the team's row. All turns are taken by all threads, as groups of them
// join what they find.
template <class Team>
FB_DEVICE void quantize_row(const fb_quantize_params& p, const Team& team, int32_t first,
                            int32_t end) {
    if (team.dim == 0) end = first;
    const int32_t step = team.step();
    const int32_t in_bytes = element_bytes(p.x.dtype), out_bytes = element_bytes(p.out.dtype);
    const uint64_t source = row_address(p.x, team.row);
    const uint64_t target = row_address(p.out, team.row);
    const uint64_t scales = scales_of(p, team.row);
    FB_NO_UNROLL
    for (int32_t begin = first; begin < first + p.span.part_elements; begin += step) {
        const int32_t at = begin + team.rank * chunk;
        const int32_t count = chunk_count(end, at);
        float x[chunk], factors[chunk];
        FB_UNROLL
        for (int j = 0; j < chunk; j++) x[j] = 0;
        if (count > 0) load_chunk(p.x.dtype, source + int64_t(at) * in_bytes, count, x);
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

// ---- even rows, in parts that a block holds

// Largest magnitudes of 16-bit numbers rise with their bits, and NaN is above all.
FB_DEVICE uint32_t most_bits(const uint4& raw) {
    constexpr uint32_t magnitude = 0x7fff7fffu;
    return max_u16x2(max_u16x2(raw.x & magnitude, raw.y & magnitude),
                       max_u16x2(raw.z & magnitude, raw.w & magnitude));
}

FB_DEVICE float most_number(int32_t dtype, uint32_t pair) {
    const uint32_t low = pair & 0xffffu, high = pair >> 16;
    const uint16_t bits = uint16_t(low > high ? low : high);
    return dtype == FB_F16 ? f16_to_float(bits) : bf16_to_float(bits);
}

// The largest of a block's threads, in each of them. `shared`: a word for each warp.
template <int warps, int chunks>
FB_DEVICE uint32_t most_of_block(const uint32_t (&bits)[chunks], uint32_t* shared) {
    uint32_t most = bits[0];
    FB_UNROLL
    for (int i = 1; i < chunks; i++) most = max_u16x2(most, bits[i]);
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        most = max_u16x2(most, __shfl_xor_sync(~0u, most, distance));
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
    __syncthreads();
    FB_UNROLL
    for (int i = 0; i < warps; i++) most = max_u16x2(most, shared[i]);
    return most;
}

// The part's scales, or its row's where all of it shares one: found, raised or read.
template <int warps, int chunks>
FB_DEVICE void scales_even(const fb_quantize_params& p, uint64_t row, int32_t start, int32_t end,
                           const uint4 (&raw)[chunks], uint32_t* shared, float (&scales)[chunks]) {
    constexpr int32_t step = warps * 32 * chunk;
    const bool whole = p.block_columns > 128;
    if (p.mode < FB_QUANTIZE_GROUPS) {
        FB_UNROLL
        for (int i = 0; i < chunks; i++) {
            const int32_t at = start + i * step;
            if (at < end) scales[i] = items<const float>(row)[whole ? 0 : at / 128];
        }
        return;
    }
    uint32_t bits[chunks];
    FB_UNROLL
    for (int i = 0; i < chunks; i++) bits[i] = most_bits(raw[i]);
    if (whole && p.mode == FB_QUANTIZE_GROUPS) {
        const uint32_t most = most_of_block<warps>(bits, shared);
        scales[0] = scale_of(most_number(p.x.dtype, most), p.out.dtype);
        FB_UNROLL
        for (int i = 1; i < chunks; i++) scales[i] = scales[0];
        if (start == 0) *items<float>(row) = scales[0];
        return;
    }
    FB_UNROLL
    for (int distance = group_lanes / 2; distance > 0; distance /= 2) {
        FB_UNROLL
        for (int i = 0; i < chunks; i++)
            bits[i] = max_u16x2(bits[i], __shfl_xor_sync(~0u, bits[i], distance));
    }
    FB_UNROLL
    for (int i = 0; i < chunks; i++) {
        const int32_t at = start + i * step;
        scales[i] = scale_of(most_number(p.x.dtype, bits[i]), p.out.dtype);
        if (at >= end || threadIdx.x % group_lanes != 0) continue;
        float* const place = items<float>(row) + (whole ? 0 : at / 128);
        if (p.mode == FB_BLOCK_SCALES) raise(reinterpret_cast<uint64_t>(place), scales[i]);
        else *place = scales[i];
    }
}

// Part `item` of a row, of 16-bit numbers in whole chunks.
template <int warps, int chunks>
FB_DEVICE void quantize_even(const fb_quantize_params& p, uint32_t* shared) {
    constexpr int32_t step = warps * 32 * chunk;
    const fb_span_params& span = p.span;
    const int64_t row = span.parts == 1 ? int64_t(blockIdx.x) : blockIdx.x / span.parts;
    if (row >= live_rows(span)) return;
    const int32_t part = span.parts == 1 ? 0 : int32_t(blockIdx.x) % span.parts;
    const int32_t first = part * span.part_elements;
    const int32_t start = first + threadIdx.x * chunk;
    const int32_t end = part + 1 == span.parts ? span.dim : first + span.part_elements;
    const uint64_t source = row_address(p.x, row), target = row_address(p.out, row);
    uint4 raw[chunks] = {};
    FB_UNROLL
    for (int i = 0; i < chunks; i++)
        if (start + i * step < end) raw[i] = load_even(source, start + i * step);
    float scales[chunks] = {};
    scales_even<warps>(p, scales_of(p, row), start, end, raw, shared, scales);
    if (p.mode == FB_BLOCK_SCALES) return;
    FB_UNROLL
    for (int i = 0; i < chunks; i++) {
        const int32_t at = start + i * step;
        if (at >= end) break;
        const float factor = 1 / scales[i];
        float x[chunk];
        widen_even(p.x.dtype, raw[i], x);
        FB_UNROLL
        for (int j = 0; j < chunk; j++) x[j] *= factor;
        store_even(p.out.dtype, target, at, x);
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

// Part `item` of even rows, or a row of up to 4096 elements.
FB_OPERATOR(quantize_even_long, fb_quantize_params, 128, 8, 1) {
    FB_SHARED(uint32_t, shared, [4]);
    pdl_wait();
    pdl_launch_dependents();
    quantize_even<4, 4>(p, shared);
}

// A row of up to 8192.
FB_OPERATOR(quantize_even_wide, fb_quantize_params, 256, 4, 1) {
    FB_SHARED(uint32_t, shared, [8]);
    pdl_wait();
    pdl_launch_dependents();
    quantize_even<8, 4>(p, shared);
}
