// Norms of rows: sums in f32, in an order that follows from the row's length alone.
#include "../ptx/base.h"
#include "../params/norm.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int norm_threads = 256;
constexpr int norm_warps = 8;

static_assert(norm_threads == 32 * norm_warps, "a warp has 32 threads");

// ---- compute

FB_DEVICE float warp_sum(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

FB_DEVICE int32_t chunk_count(int32_t dim, int32_t start) {
    return dim - start < chunk ? dim - start : chunk;
}

// One of `threads` parts of a row's sum of squares.
template <int threads>
FB_DEVICE float square_sum(const fb_rms_norm_params& p, int64_t row, int thread) {
    const int32_t bytes = element_bytes(p.dtype);
    const uint64_t source = p.x + bytes * (row * p.x_stride);
    float sum = 0;
    for (int32_t start = thread * chunk; start < p.dim; start += threads * chunk) {
        float x[chunk];
        load_chunk(p.dtype, source + start * bytes, chunk_count(p.dim, start), x);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) sum = fmaf(x[i], x[i], sum);
    }
    return sum;
}

// The same part of the row's output. It may lie where the row does, which all have read by now.
template <int threads>
FB_DEVICE void write_row(const fb_rms_norm_params& p, int64_t row, int thread, float squares) {
    const int32_t bytes = element_bytes(p.dtype);
    const int32_t weight_bytes = element_bytes(p.weight_dtype);
    const uint64_t source = p.x + bytes * (row * p.x_stride);
    const uint64_t target = p.out + bytes * (row * p.out_stride);
    const float factor = 1 / sqrtf(squares / p.dim + p.eps);
    for (int32_t start = thread * chunk; start < p.dim; start += threads * chunk) {
        const int32_t count = chunk_count(p.dim, start);
        float x[chunk];
        float weight[chunk];
        load_chunk(p.dtype, source + start * bytes, count, x);
        load_chunk(p.weight_dtype, p.weight + start * weight_bytes, count, weight);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = x[i] * factor * weight[i];
        store_chunk(p.dtype, target + start * bytes, count, x);
    }
}

// ---- the kernels

// Row `item`, by the whole block.
FB_OPERATOR(rms_norm, fb_rms_norm_params, norm_threads, 4, 1) {
    FB_SHARED(float, sums, [norm_warps]);
    pdl_wait();
    pdl_launch_dependents();
    const int32_t row = blockIdx.x;
    if (row >= p.row_count) return;
    const float part = warp_sum(square_sum<norm_threads>(p, row, threadIdx.x));
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = part;
    __syncthreads();
    float squares = 0;
    FB_UNROLL
    for (int warp = 0; warp < norm_warps; warp++) squares += sums[warp];
    write_row<norm_threads>(p, row, threadIdx.x, squares);
}

// Rows [norm_warps * item, ...), each by a warp: for rows that would leave most of a block idle.
FB_OPERATOR(rms_norm_short, fb_rms_norm_params, norm_threads, 4, norm_warps) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t row = blockIdx.x * norm_warps + threadIdx.x / 32;
    if (row >= p.row_count) return;
    const int lane = threadIdx.x % 32;
    write_row<32>(p, row, lane, warp_sum(square_sum<32>(p, row, lane)));
}
