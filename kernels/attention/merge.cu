// Rows whose keys were split: partial states merge by log-sum-exp (or, without softmax, are added),
// in the order of their parts.
//
// A grid of n blocks for each merge record shares out its rows, 128 columns at a time. Within a
// block a warp merges a row of few parts; a row of many is cut into a slice of parts for each warp,
// and the slices merge in order. Which it is follows from the row's own parts alone, so that a
// row's bits do as well.
#include "../ptx/base.h"
#include "../ptx/convert.h"
#include "../ptx/math.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "row.h"
#include "variant.h"

#include "../params/attention.h"

// ---- facts

constexpr int merge_threads = FB_THREADS;
constexpr int merge_warps = merge_threads / 32;
// Parts up to which one warp takes the whole row.
constexpr int few_parts = 8;
// Columns that a warp sums at once: four for each lane.
constexpr int column_step = 128;
// Parts whose values a lane has in flight.
constexpr int flight = 8;
// Below all log-sum-exps, and unlike -inf fit for subtraction.
constexpr float no_base = -1e30f;

// ---- where things lie

struct MergeRow {
    int32_t index; // within the record
    int32_t token;
    int32_t head;
};

FB_DEVICE MergeRow merge_row(const fb_merge_record& m, int32_t index) {
    const int32_t row = m.row_start + index;
    const int32_t token = int32_t(uint32_t(row) / uint32_t(m.query_head_count));
    return {index, token, m.query_head_start + row - token * m.query_head_count};
}

// ---- load

// The lane's columns of parts [first, first + flight), whose partial rows the lanes hold.
FB_DEVICE void load_values(const fb_attention_params& p, int32_t at, int first, int column,
                           float4 (&x)[flight]) {
    const auto* values = reinterpret_cast<const float*>(p.partial_out);
    FB_UNROLL
    for (int i = 0; i < flight; i++) {
        const int64_t row = __shfl_sync(~0u, at, first + i);
        x[i] = make_float4(0, 0, 0, 0);
        if (column < p.value_dim)
            x[i] = *reinterpret_cast<const float4*>(values + row * p.value_dim + column);
    }
}

// ---- compute

FB_DEVICE float warp_max(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}

FB_DEVICE float warp_sum(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

FB_DEVICE void add_weighted(float4& sum, const float4& x, float weight) {
    sum.x += x.x * weight;
    sum.y += x.y * weight;
    sum.z += x.z * weight;
    sum.w += x.w * weight;
}

// A sum of states: of 2^(lse - base), and of what goes with it in the lane's columns.
struct Slice {
    float base;
    float sum;
    float4 out;
};

// Moves a slice to a base that is not below its own.
FB_DEVICE void move_base(Slice& s, float base) {
    const float keep = exp2_approx(s.base - base);
    s.base = base;
    s.sum *= keep;
    s.out = make_float4(s.out.x * keep, s.out.y * keep, s.out.z * keep, s.out.w * keep);
}

// Merges parts [from, to) of a row, by a whole warp, 32 at a time: a lane looks up a part each.
FB_DEVICE Slice merge_parts(const fb_attention_params& p, const fb_merge_record& m,
                            const MergeRow& row, int from, int to, int column) {
    const int lane = int(threadIdx.x % 32);
    const auto* parts = reinterpret_cast<const int32_t*>(p.parts) + m.part_start;
    Slice s = {no_base, 0, make_float4(0, 0, 0, 0)};
    for (int first = from; first < to; first += 32) {
        const int count = min(32, to - first);
        const int32_t at = parts[first + min(lane, count - 1)] + row.index;
        const float lse =
            Variant::softmax ? reinterpret_cast<const float*>(p.partial_lse)[at] : 0;
        float4 x[flight];
        load_values(p, at, 0, column, x);
        float weight = lane < count ? 1 : 0;
        if (Variant::softmax) {
            const float exponent = lane < count ? lse * log2_e : -FB_INFINITY;
            move_base(s, fmaxf(s.base, warp_max(exponent)));
            weight = exp2_approx(exponent - s.base);
            s.sum += warp_sum(weight);
        }
        for (int i = 0; i < count; i += flight) {
            if (i > 0) load_values(p, at, i, column, x);
            FB_UNROLL
            for (int j = 0; j < flight; j++)
                add_weighted(s.out, x[j], __shfl_sync(~0u, weight, i + j));
        }
    }
    return s;
}

// ---- store

FB_DEVICE float4 hooked(const fb_attention_params& p, const MergeRow& row, float lse, int column,
                        const float4& x) {
    const int32_t request = read_int(p.token_requests, row.token);
    if (!p.finalize || request < 0) return x;
    const int32_t kv_head = row.head / (p.query_heads / p.kv_heads);
    const bool device_lengths = (p.kv_lengths | p.query_lengths) != 0;
    const RowInputs in =
        row_inputs(p, request, row.token, row.head, kv_head, device_lengths);
    if (in.query_index >= in.query_length) return x;
    return make_float4(Variant::output(p, in, lse, column, x.x),
                       Variant::output(p, in, lse, column + 1, x.y),
                       Variant::output(p, in, lse, column + 2, x.z),
                       Variant::output(p, in, lse, column + 3, x.w));
}

FB_DEVICE void write_values(const fb_attention_params& p, const MergeRow& row, int column,
                            float factor, float lse, float4 x) {
    if (column >= p.value_dim) return;
    x = make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
    if (Variant::has_output) x = hooked(p, row, lse, column, x);
    const int64_t at = row.token * p.out_stride_token + row.head * p.out_stride_head + column;
    if (p.out_dtype == FB_F32) {
        *reinterpret_cast<float4*>(p.out + 4 * at) = x;
    } else {
        const bool half = p.out_dtype == FB_F16;
        const uint32_t low = half ? pack_f16(x.x, x.y) : pack_bf16(x.x, x.y);
        const uint32_t high = half ? pack_f16(x.z, x.w) : pack_bf16(x.z, x.w);
        *reinterpret_cast<uint2*>(p.out + 2 * at) = make_uint2(low, high);
    }
}

// Finalises a row and writes the lane's columns of it; a sink is a state of value 0.
FB_DEVICE void write_row(const fb_attention_params& p, const MergeRow& row, int column, Slice s) {
    if (p.finalize && p.sinks != 0) {
        const float sink = reinterpret_cast<const float*>(p.sinks)[row.head] * log2_e;
        move_base(s, fmaxf(s.base, sink));
        s.sum += exp2_approx(sink - s.base);
    }
    const float factor = !Variant::softmax ? 1 : s.sum == 0 ? 0 : 1 / s.sum;
    const float lse = s.sum == 0 ? -FB_INFINITY : (s.base + log2_approx(s.sum)) * ln_2;
    write_values(p, row, column, factor, lse, s.out);
    if (p.lse == 0 || column != 0) return;
    const int64_t at = int64_t(row.token) * p.query_heads + row.head;
    reinterpret_cast<float*>(p.lse)[at] = lse * p.lse_factor;
}

// ---- the kernel

// One warp, the columns of one row from `first` on.
FB_DEVICE void merge_alone(const fb_attention_params& p, const fb_merge_record& m,
                           const MergeRow& row, int first) {
    const int column = first + int(threadIdx.x % 32) * 4;
    write_row(p, row, column, merge_parts(p, m, row, 0, m.part_count, column));
}

// The whole block, the columns of one row from `first` on.
FB_DEVICE void merge_together(const fb_attention_params& p, const fb_merge_record& m,
                              const MergeRow& row, int first, Slice (*slices)[32]) {
    const int warp = int(threadIdx.x) / 32;
    const int lane = int(threadIdx.x % 32);
    const int from = m.part_count * warp / merge_warps;
    const int to = m.part_count * (warp + 1) / merge_warps;
    const int column = first + lane * 4;
    slices[warp][lane] = merge_parts(p, m, row, from, to, column);
    __syncthreads();
    if (warp == 0) {
        Slice sum = slices[0][lane];
        for (int w = 1; w < merge_warps; w++) {
            Slice next = slices[w][lane];
            const float base = fmaxf(sum.base, next.base);
            move_base(sum, base);
            move_base(next, base);
            sum.sum += next.sum;
            add_weighted(sum.out, next.out, 1);
        }
        write_row(p, row, column, sum);
    }
    __syncthreads();
}

FB_KERNEL(attention_merge, fb_attention_params, merge_threads, Variant::has_output ? 4 : 6) {
    FB_SHARED(Slice, slices, [merge_warps][32]);
    // What comes next may start while the attention kernel drains: it waits for this one anyway.
    pdl_launch_dependents();
    const int share = max(1, int(gridDim.x) / max(1, p.merge_count));
    const int index = int(blockIdx.x) / share;
    if (index >= p.merge_count) return pdl_wait();
    const fb_merge_record m = reinterpret_cast<const fb_merge_record*>(p.merges)[index];
    // Records and parts came by a copy, partial states come from the kernel before.
    prefetch_l1(reinterpret_cast<const int32_t*>(p.parts) + m.part_start);
    pdl_wait();
    const int first = int(blockIdx.x) % share;
    const int steps = (p.value_dim + column_step - 1) / column_step;
    const int pieces = m.row_count * steps;
    if (m.part_count > few_parts) {
        for (int i = first; i < pieces; i += share)
            merge_together(p, m, merge_row(m, i / steps), i % steps * column_step, slices);
    } else {
        const int warp = int(threadIdx.x) / 32;
        for (int i = first + warp * share; i < pieces; i += share * merge_warps)
            merge_alone(p, m, merge_row(m, i / steps), i % steps * column_step);
    }
}
