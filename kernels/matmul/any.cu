// Products of any types and strides, by the CUDA cores.
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/pdl.h"
#include "item.h"
#include "weight.h"

// ---- facts

constexpr int any_threads = 256;
constexpr int any_outputs = 16;
constexpr int any_rows = 8;
constexpr int any_warps = 8;

static_assert(any_threads == 32 * any_warps, "a warp has 32 threads");

// ---- compute

// The sums of one row of the weight: lane l adds chunks l, l + 32, ...
FB_DEVICE void add_row(const fb_matmul_params& p, const Item<any_outputs>& item,
                       int32_t weight_row, float (&sums)[any_rows]) {
    const int32_t bytes = element_bytes(p.x_dtype);
    for (int32_t k = threadIdx.x % 32 * chunk; k < p.inputs; k += 32 * chunk) {
        const int32_t count = p.inputs - k < chunk ? p.inputs - k : chunk;
        float w[chunk], x[chunk];
        load_weights(p, weight_row, k, count, w);
        FB_UNROLL
        for (int r = 0; r < any_rows; r++) {
            const int32_t row = item.x_row(p, item.row + r);
            if (row < 0) continue;
            load_chunk(p.x_dtype, p.x + bytes * (row * p.x_stride + k), count, x);
            const float scale = x_scale(p, row, k);
            FB_UNROLL
            for (int i = 0; i < chunk; i++)
                if (i < count) sums[r] = fmaf(w[i], x[i] * scale, sums[r]);
        }
    }
}

// ---- the kernel

FB_OPERATOR(matmul_any, fb_matmul_params, any_threads, 2, any_outputs) {
    FB_SHARED(float, totals, [any_rows * any_outputs]);
    pdl_wait();
    pdl_launch_dependents();
    const Item<any_outputs> item(p, any_rows);
    if (item.row >= item.end) return;
    for (int i = threadIdx.x / 32; i < any_outputs; i += any_warps) {
        const int32_t weight_row = item.weight_row(p, i);
        float sums[any_rows] = {};
        if (weight_row >= 0) add_row(p, item, weight_row, sums);
        FB_UNROLL
        for (int r = 0; r < any_rows; r++) {
            FB_UNROLL
            for (int distance = 16; distance > 0; distance /= 2)
                sums[r] += __shfl_xor_sync(~0u, sums[r], distance);
            if (threadIdx.x % 32 == 0) totals[r * any_outputs + i] = sums[r];
        }
    }
    __syncthreads();
    const int row = threadIdx.x / 2, column = threadIdx.x % 2 * chunk;
    if (row >= any_rows || column >= item.width) return;
    const float* const total = totals + row * any_outputs;
    finish_chunk(p, item, item.row + row, item.output + column, total + column,
                 total + (p.gated ? item.width : 0) + column);
}
