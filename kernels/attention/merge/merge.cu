// Rows whose keys were split: partial states merge by log-sum-exp, in the order of their parts.
//
// A grid of n blocks for each merge record shares out its rows. Within a block a warp merges a row
// of few parts; a row of many is cut into a slice of parts for each warp, whose sums are added in
// order. Which it is follows from the row's own parts alone, so that a row's bits do as well.
#include "../../ptx/base.h"
#include "../../ptx/convert.h"
#include "../../ptx/math.h"
#include "../../ptx/memory.h"
#include "../../ptx/pdl.h"

#include "../../params.h"

// ---- facts

constexpr int merge_threads = 256;
constexpr int merge_warps = merge_threads / 32;
// Parts up to which one warp takes the whole row.
constexpr int few_parts = 8;
// Columns that a warp sums at once: four for each lane.
constexpr int column_step = 128;
// Parts whose values a lane has in flight.
constexpr int flight = 8;
constexpr float log2_e = 1.44269504f;
constexpr float ln_2 = 0.69314718f;

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

// Partial row of one of the row's parts.
FB_DEVICE int64_t part_row(const fb_attention_params& p, const fb_merge_record& m,
                           const MergeRow& row, int part) {
    return reinterpret_cast<const int32_t*>(p.parts)[m.part_start + part] + int64_t(row.index);
}

// ---- compute

// Sum of a row's states: of 2^(lse - maximum), and what goes with it.
struct Total {
    float maximum; // base 2
    float sum;
};

// By a whole warp, over all parts.
FB_DEVICE Total total_of(const fb_attention_params& p, const fb_merge_record& m,
                         const MergeRow& row) {
    const int lane = int(threadIdx.x % 32);
    const auto* lses = reinterpret_cast<const float*>(p.partial_lse);
    Total total = {-FB_INFINITY, 0};
    for (int i = lane; i < m.part_count; i += 32)
        total.maximum = fmaxf(total.maximum, lses[part_row(p, m, row, i)] * log2_e);
    for (int distance = 16; distance > 0; distance /= 2)
        total.maximum = fmaxf(total.maximum, __shfl_xor_sync(~0u, total.maximum, distance));
    float sink = -FB_INFINITY;
    if (p.finalize && p.sinks != 0)
        sink = reinterpret_cast<const float*>(p.sinks)[row.head] * log2_e;
    total.maximum = fmaxf(total.maximum, sink);
    if (total.maximum == -FB_INFINITY) return total;
    for (int i = lane; i < m.part_count; i += 32)
        total.sum += exp2_approx(lses[part_row(p, m, row, i)] * log2_e - total.maximum);
    for (int distance = 16; distance > 0; distance /= 2)
        total.sum += __shfl_xor_sync(~0u, total.sum, distance);
    total.sum += exp2_approx(sink - total.maximum);
    return total;
}

FB_DEVICE void add_weighted(float4& sum, const float4& x, float weight) {
    sum.x += x.x * weight;
    sum.y += x.y * weight;
    sum.z += x.z * weight;
    sum.w += x.w * weight;
}

// Weighted sum of parts [from, to), of the lane's four columns. An empty state is never read.
FB_DEVICE float4 sum_parts(const fb_attention_params& p, const fb_merge_record& m,
                           const MergeRow& row, float maximum, int from, int to, int column) {
    const auto* lses = reinterpret_cast<const float*>(p.partial_lse);
    const auto* values = reinterpret_cast<const float*>(p.partial_out);
    float4 sum = make_float4(0, 0, 0, 0);
    for (int first = from; first < to; first += flight) {
        float4 x[flight];
        float weight[flight];
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int64_t at = part_row(p, m, row, min(first + i, to - 1));
            const float lse = lses[at] * log2_e;
            const bool counts = first + i < to && lse != -FB_INFINITY;
            weight[i] = counts ? exp2_approx(lse - maximum) : 0;
            x[i] = make_float4(0, 0, 0, 0);
            if (counts && column < p.value_dim)
                x[i] = *reinterpret_cast<const float4*>(values + at * p.value_dim + column);
        }
        FB_UNROLL
        for (int i = 0; i < flight; i++) add_weighted(sum, x[i], weight[i]);
    }
    return sum;
}

// ---- store

FB_DEVICE void write_columns(const fb_attention_params& p, const MergeRow& row, int column,
                             float factor, float4 x) {
    if (column >= p.value_dim) return;
    x = make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
    const int64_t at = row.token * p.out_stride_token + row.head * p.out_stride_head + column;
    if (p.out_dtype == FB_F32) {
        reinterpret_cast<float4*>(p.out + 4 * at)[0] = x;
    } else if (p.out_dtype == FB_F16) {
        store_8(reinterpret_cast<void*>(p.out + 2 * at),
                make_uint2(pack_f16(x.x, x.y), pack_f16(x.z, x.w)));
    } else {
        store_8(reinterpret_cast<void*>(p.out + 2 * at),
                make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w)));
    }
}

FB_DEVICE void write_lse(const fb_attention_params& p, const MergeRow& row, const Total& total) {
    if (p.lse == 0) return;
    const float lse =
        total.sum == 0 ? -FB_INFINITY : (total.maximum + log2_approx(total.sum)) * ln_2;
    const int64_t at = int64_t(row.token) * p.query_heads + row.head;
    reinterpret_cast<float*>(p.lse)[at] = lse * p.lse_factor;
}

// ---- the kernel

// One warp, one row.
FB_DEVICE void merge_alone(const fb_attention_params& p, const fb_merge_record& m,
                           const MergeRow& row) {
    const int lane = int(threadIdx.x % 32);
    const Total total = total_of(p, m, row);
    const float factor = total.sum == 0 ? 0 : 1 / total.sum;
    for (int column = lane * 4; column < p.value_dim; column += column_step)
        write_columns(p, row, column, factor,
                      sum_parts(p, m, row, total.maximum, 0, m.part_count, column));
    if (lane == 0) write_lse(p, row, total);
}

// The whole block, one row.
FB_DEVICE void merge_together(const fb_attention_params& p, const fb_merge_record& m,
                              const MergeRow& row, float4 (*sums)[32]) {
    const int warp = int(threadIdx.x) / 32;
    const int lane = int(threadIdx.x % 32);
    const Total total = total_of(p, m, row);
    const float factor = total.sum == 0 ? 0 : 1 / total.sum;
    const int from = m.part_count * warp / merge_warps;
    const int to = m.part_count * (warp + 1) / merge_warps;
    for (int first = 0; first < p.value_dim; first += column_step) {
        const int column = first + lane * 4;
        sums[warp][lane] = sum_parts(p, m, row, total.maximum, from, to, column);
        __syncthreads();
        if (warp == 0) {
            float4 sum = sums[0][lane];
            for (int w = 1; w < merge_warps; w++) add_weighted(sum, sums[w][lane], 1);
            write_columns(p, row, column, factor, sum);
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) write_lse(p, row, total);
}

FB_KERNEL(attention_merge, fb_attention_params, merge_threads, 1) {
    FB_SHARED(float4, sums, [merge_warps][32]);
    pdl_wait();
    pdl_launch_dependents();
    const int share = max(1, int(gridDim.x) / max(1, p.merge_count));
    const int index = int(blockIdx.x) / share;
    if (index >= p.merge_count) return;
    const fb_merge_record m = reinterpret_cast<const fb_merge_record*>(p.merges)[index];
    const int first = int(blockIdx.x) % share;
    if (m.part_count > few_parts) {
        for (int i = first; i < m.row_count; i += share)
            merge_together(p, m, merge_row(m, i), sums);
    } else {
        const int warp = int(threadIdx.x) / 32;
        for (int i = first + warp * share; i < m.row_count; i += share * merge_warps)
            merge_alone(p, m, merge_row(m, i));
    }
}
