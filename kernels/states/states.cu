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

// LSE of a row in one state, in base 2.
FB_DEVICE float state_lse(const fb_merge_params& p, int32_t state, int64_t row) {
    return items<const float>(p.lses)[state * p.lse_stride + row] * (p.log_base * log2_e);
}

FB_DEVICE uint64_t state_address(const fb_merge_params& p, int32_t state, int64_t row) {
    const int32_t bytes = element_bytes(p.in_dtype);
    return p.states + bytes * (state * p.state_stride + row * p.dim);
}

// ---- compute

// Elements [start, start + count) of a row; the thread of the first chunk writes the LSE too.
FB_DEVICE void merge_chunk(const fb_merge_params& p, int64_t row, int32_t start, int32_t count) {
    float maximum = -FB_INFINITY;
    for (int32_t state = 0; state < p.state_count; state++)
        maximum = fmaxf(maximum, state_lse(p, state, row));
    float total = 0;
    float sum[chunk] = {};
    for (int32_t state = 0; state < p.state_count; state++) {
        const float lse = state_lse(p, state, row);
        // An empty state is never read: it may hold anything.
        if (lse == -FB_INFINITY) continue;
        const float weight = exp2_approx(lse - maximum);
        float x[chunk];
        load_chunk(p.in_dtype, state_address(p, state, row) + start * element_bytes(p.in_dtype),
                   count, x);
        total += weight;
        FB_UNROLL
        for (int i = 0; i < chunk; i++) sum[i] += x[i] * weight;
    }
    const float factor = total == 0 ? 0 : 1 / total;
    FB_UNROLL
    for (int i = 0; i < chunk; i++) sum[i] *= factor;
    const int32_t bytes = element_bytes(p.out_dtype);
    store_chunk(p.out_dtype, p.out + bytes * (row * p.dim + start), count, sum);
    if (start > 0 || p.lse == 0) return;
    const float lse = total == 0 ? -FB_INFINITY : (maximum + log2_approx(total)) * ln_2;
    items<float>(p.lse)[row] = lse / p.log_base;
}

// ---- the kernel

// Merges rows [merge_rows * item, ...).
FB_OPERATOR(merge_states, fb_merge_params, merge_threads, 4, merge_rows) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t chunks = (p.dim + chunk - 1) / chunk;
    const int64_t first = int64_t(blockIdx.x) * merge_rows;
    for (int32_t unit = threadIdx.x; unit < merge_rows * chunks; unit += merge_threads) {
        const int32_t row = unit / chunks;
        const int32_t start = (unit - row * chunks) * chunk;
        if (first + row >= p.row_count) return;
        const int32_t rest = p.dim - start;
        merge_chunk(p, first + row, start, rest < chunk ? rest : chunk);
    }
}
