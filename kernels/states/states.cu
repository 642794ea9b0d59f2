// Merge of attention states that the user holds, by log-sum-exp in a fixed order.
#include "../ptx/base.h"
#include "../params/states.h"
#include "../ptx/math.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int merge_threads = 128;
// Rows of one item: with 128 dims each thread has one chunk.
constexpr int merge_rows = 8;

constexpr float log2_e = 1.44269504f;
constexpr float ln_2 = 0.693147181f;

// ---- load

// One row: a token and a head, and the states that it has.
struct MergeRow {
    int64_t token;
    int64_t head;
    int64_t first;
    int64_t end;
};

// A row without states where a mask leaves it alone: its end is -1.
FB_DEVICE MergeRow merge_row(const fb_merge_params& p, int64_t row) {
    const int64_t token = row / p.heads;
    MergeRow at = {token, row - token * p.heads, 0, p.state_count};
    if (p.mask != 0 && items<const uint8_t>(p.mask)[token] == 0) at.end = -1;
    if (at.end < 0 || p.indptr == 0) return at;
    const int32_t* const indptr = items<const int32_t>(p.indptr);
    at.first = max(0, indptr[token]);
    at.end = min(p.state_count, indptr[token + 1]);
    return at;
}

// Where a row of one state lies.
struct StateRow {
    uint64_t out;
    uint64_t lse;
};

FB_DEVICE StateRow state_row(const fb_merge_params& p, const MergeRow& row, int64_t state) {
    const fb_state& s = p.states[p.state_stride == 0 ? state : 0];
    const int64_t out = state * p.state_stride + row.token * s.stride_token +
                        row.head * s.stride_head;
    const int64_t lse = state * p.lse_state_stride + row.token * s.lse_stride_token +
                        row.head * s.lse_stride_head;
    return {s.out + element_bytes(p.in_dtype) * out, s.lse + 4 * lse};
}

// LSE of a row in one state, in base 2.
FB_DEVICE float state_lse(const fb_merge_params& p, const MergeRow& row, int64_t state) {
    return *items<const float>(state_row(p, row, state).lse) * (p.log_base * log2_e);
}

// ---- compute

// The largest LSE of a row's states and the sum of their weights beside it.
struct MergeSum {
    float maximum;
    float total;
};

FB_DEVICE MergeSum merge_sum(const fb_merge_params& p, const MergeRow& row) {
    MergeSum sum = {-FB_INFINITY, 0};
    for (int64_t state = row.first; state < row.end; state++)
        sum.maximum = fmaxf(sum.maximum, state_lse(p, row, state));
    for (int64_t state = row.first; state < row.end; state++) {
        const float lse = state_lse(p, row, state);
        if (lse != -FB_INFINITY) sum.total += exp2_approx(lse - sum.maximum);
    }
    return sum;
}

// Elements [start, start + count) of a row.
FB_DEVICE void merge_chunk(const fb_merge_params& p, const MergeRow& row, int32_t start,
                           int32_t count) {
    const MergeSum all = merge_sum(p, row);
    float sum[chunk] = {};
    for (int64_t state = row.first; state < row.end; state++) {
        const float lse = state_lse(p, row, state);
        // An empty state is never read: it may hold anything.
        if (lse == -FB_INFINITY) continue;
        const float weight = exp2_approx(lse - all.maximum);
        const uint64_t from = state_row(p, row, state).out;
        float x[chunk];
        load_chunk(p.in_dtype, from + start * element_bytes(p.in_dtype), count, x);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) sum[i] += x[i] * weight;
    }
    const float factor = all.total == 0 ? 0 : 1 / all.total;
    FB_UNROLL
    for (int i = 0; i < chunk; i++) sum[i] *= factor;
    const fb_state& to = p.merged;
    const int64_t at = row.token * to.stride_token + row.head * to.stride_head + start;
    store_chunk(p.out_dtype, to.out + element_bytes(p.out_dtype) * at, count, sum);
}

FB_DEVICE void store_lse(const fb_merge_params& p, const MergeRow& row) {
    const MergeSum all = merge_sum(p, row);
    const float lse =
        all.total == 0 ? -FB_INFINITY : (all.maximum + log2_approx(all.total)) * ln_2;
    const fb_state& to = p.merged;
    const int64_t at = row.token * to.lse_stride_token + row.head * to.lse_stride_head;
    items<float>(to.lse)[at] = lse / p.log_base;
}

// ---- the kernel

// Merges rows [merge_rows * item, ...).
FB_OPERATOR(merge_states, fb_merge_params, merge_threads, 4, merge_rows) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t chunks = (p.dim + chunk - 1) / chunk;
    const int64_t first = int64_t(blockIdx.x) * merge_rows;
    for (int32_t unit = threadIdx.x; unit < merge_rows * chunks; unit += merge_threads) {
        const int32_t part = unit / chunks;
        const int32_t start = (unit - part * chunks) * chunk;
        if (first + part >= p.row_count) break;
        const MergeRow row = merge_row(p, first + part);
        const int32_t rest = p.dim - start;
        if (row.end >= 0) merge_chunk(p, row, start, rest < chunk ? rest : chunk);
    }
    // In place, an LSE is read by all threads of its row before it is written.
    __syncthreads();
    const int32_t part = threadIdx.x;
    if (p.merged.lse == 0 || part >= merge_rows || first + part >= p.row_count) return;
    const MergeRow row = merge_row(p, first + part);
    if (row.end >= 0) store_lse(p, row);
}
