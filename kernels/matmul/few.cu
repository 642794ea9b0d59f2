// Products of few rows: bound by the weight's bytes, which go straight to registers.
//
// A warp multiplies 16 rows of the weight with 8 rows of x at a time. Lane t of four takes 16 bytes
// of each row, which are eight inputs: the order of inputs within a product is free as long as both
// operands have the same one. Warps share the inputs in slices, by their number alone; tile.cu adds
// in the same order.
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/memory.h"
#include "../ptx/mma.h"
#include "../ptx/pdl.h"
#include "item.h"
#include "slices.h"

// ---- facts

constexpr int few_threads = 256;
constexpr int few_outputs = 16;
constexpr int few_warps = 8;

static_assert(few_threads == 32 * few_warps && few_warps == slice_count, "a warp has a slice");

// ---- where things lie: sums [warp][row][output]

constexpr int sum_stride = few_outputs + 4;

// ---- compute

// One warp's slice of the sums of `groups` x 8 rows.
template <int type, int groups>
FB_DEVICE void add_slice(const fb_matmul_params& p, const Item<few_outputs>& item,
                         float (&sums)[groups][4]) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int32_t slice = slice_inputs(p.inputs);
    const int32_t first = warp * slice;
    const int32_t end = first + slice < p.inputs ? first + slice : p.inputs;
    const int32_t low = item.weight_row(p, g), high = item.weight_row(p, g + 8);
    const uint64_t weight_low = p.weight + 2 * (low * p.weight_stride);
    const uint64_t weight_high = p.weight + 2 * (high * p.weight_stride);
    const uint4 zero = make_uint4(0, 0, 0, 0);
    int32_t rows[groups];
    FB_UNROLL
    for (int group = 0; group < groups; group++)
        rows[group] = item.x_row(p, item.row + 8 * group + g);
    FB_UNROLL_BY(4)
    for (int32_t start = first; start < end; start += 32) {
        const int32_t k = start + 8 * t;
        const bool has = k < end;
        const uint4 a =
            has && low >= 0 ? load_nc_once_16(items<void>(weight_low + 2 * k)) : zero;
        const uint4 b =
            has && high >= 0 ? load_nc_once_16(items<void>(weight_high + 2 * k)) : zero;
        FB_UNROLL
        for (int group = 0; group < groups; group++) {
            const uint64_t source = p.x + 2 * (rows[group] * p.x_stride + k);
            const uint4 x = has && rows[group] >= 0 ? *items<const uint4>(source) : zero;
            multiply_32<type>(sums[group], a, b, x);
        }
    }
}

// Rows of x and outputs of an item, all of them in one block.
template <int type, int groups>
FB_DEVICE void multiply_few(const fb_matmul_params& p, float* parts) {
    const Item<few_outputs> item(p, 8 * groups);
    if (item.row >= item.end) return;
    float sums[groups][4] = {};
    add_slice<type, groups>(p, item, sums);
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    FB_UNROLL
    for (int group = 0; group < groups; group++) {
        float* const part = parts + (warp * 8 * groups + 8 * group + 2 * t) * sum_stride + g;
        part[0] = sums[group][0];
        part[sum_stride] = sums[group][1];
        part[8] = sums[group][2];
        part[sum_stride + 8] = sums[group][3];
    }
    __syncthreads();
    const int row = threadIdx.x / 2, column = threadIdx.x % 2 * chunk;
    if (row >= 8 * groups || column >= item.width) return;
    float gate[chunk], up[chunk];
    FB_UNROLL
    for (int i = 0; i < chunk; i++) {
        gate[i] = up[i] = 0;
        for (int w = 0; w < few_warps; w++) {
            const float* const part = parts + (w * 8 * groups + row) * sum_stride;
            gate[i] += part[column + i];
            if (p.gated) up[i] += part[item.width + column + i];
        }
    }
    finish_chunk(p, item, item.row + row, item.output + column, gate, up);
}

template <int groups> FB_DEVICE void multiply_rows(const fb_matmul_params& p, float* parts) {
    pdl_wait();
    pdl_launch_dependents();
    if (p.x_dtype == FB_F16) multiply_few<FB_F16, groups>(p, parts);
    else multiply_few<FB_BF16, groups>(p, parts);
}

// ---- the kernels: up to 8, 16 or 32 rows of an item

FB_OPERATOR(matmul_8, fb_matmul_params, few_threads, 3, few_outputs) {
    FB_SHARED(float, parts, [few_warps * 8 * sum_stride]);
    multiply_rows<1>(p, parts);
}

FB_OPERATOR(matmul_16, fb_matmul_params, few_threads, 2, few_outputs) {
    FB_SHARED(float, parts, [few_warps * 16 * sum_stride]);
    multiply_rows<2>(p, parts);
}

FB_OPERATOR(matmul_32, fb_matmul_params, few_threads, 2, few_outputs) {
    FB_SHARED(float, parts, [few_warps * 32 * sum_stride]);
    multiply_rows<4>(p, parts);
}
