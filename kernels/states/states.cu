// Merge of attention states that the user holds, by log-sum-exp in a fixed order.
#include "../ptx/base.h"
#include "../params/states.h"
#include "../ptx/math.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

#define MERGE_THREADS 128
// Rows of one item: with 128 dims each thread has one chunk.
#define MERGE_ROWS 8

#define LOG2_E 1.44269504f
#define LN_2 0.693147181f

// ---- load

// LSE of a row in one state, in base 2.
FB_DEVICE float state_lse(const fb_merge_params& p, int32_t state, int64_t row) {
    return ((const float*)p.lses)[state * p.lse_stride + row] * (p.log_base * LOG2_E);
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
    float sum[CHUNK] = {};
    for (int32_t state = 0; state < p.state_count; state++) {
        const float lse = state_lse(p, state, row);
        // An empty state is never read: it may hold anything.
        if (lse == -FB_INFINITY) continue;
        const float weight = exp2_approx(lse - maximum);
        float x[CHUNK];
        load_chunk(p.in_dtype, state_address(p, state, row) + start * element_bytes(p.in_dtype),
                   count, x);
        total += weight;
        FB_UNROLL
        for (int i = 0; i < CHUNK; i++) sum[i] += x[i] * weight;
    }
    const float factor = total == 0 ? 0 : 1 / total;
    FB_UNROLL
    for (int i = 0; i < CHUNK; i++) sum[i] *= factor;
    const int32_t bytes = element_bytes(p.out_dtype);
    store_chunk(p.out_dtype, p.out + bytes * (row * p.dim + start), count, sum);
    if (start > 0 || p.lse == 0) return;
    const float lse = total == 0 ? -FB_INFINITY : (maximum + log2_approx(total)) * LN_2;
    ((float*)p.lse)[row] = lse / p.log_base;
}

// ---- the kernel

// Merges rows [MERGE_ROWS * item, ...).
FB_KERNEL(merge_states, fb_merge_params, MERGE_THREADS, 4) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t chunks = (p.dim + CHUNK - 1) / CHUNK;
    const int64_t first = (int64_t)blockIdx.x * MERGE_ROWS;
    for (int32_t unit = threadIdx.x; unit < MERGE_ROWS * chunks; unit += MERGE_THREADS) {
        const int32_t row = unit / chunks;
        const int32_t start = (unit - row * chunks) * CHUNK;
        if (first + row >= p.row_count) return;
        const int32_t rest = p.dim - start;
        merge_chunk(p, first + row, start, rest < CHUNK ? rest : CHUNK);
    }
}
