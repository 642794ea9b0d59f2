// The weighted sum of what a token's experts say, in the order of its slots.
#include "../ptx/base.h"
#include "../params/moe.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int combine_threads = 256;

// ---- compute

FB_DEVICE void combine_chunk(const fb_combine_params& p, int32_t token, int32_t column) {
    const int32_t left = p.dim - column;
    const int32_t count = left < chunk ? left : chunk;
    float sum[chunk] = {}, part[chunk];
    for (int32_t slot = 0; slot < p.top_k; slot++) {
        const int64_t entry = int64_t(token) * p.top_k + slot;
        const int32_t place = items<const int32_t>(p.places)[entry];
        if (place < 0 || place >= p.entry_count) continue;
        const float weight = items<const float>(p.weights)[entry];
        const int64_t at = place * p.y_stride + column;
        load_chunk(p.y_dtype, p.y + element_bytes(p.y_dtype) * at, count, part);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) sum[i] = fmaf(weight, part[i], sum[i]);
    }
    if (p.residual != 0) {
        const int64_t at = token * p.residual_stride + column;
        load_chunk(p.residual_dtype, p.residual + element_bytes(p.residual_dtype) * at, count,
                   part);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) sum[i] += part[i];
    }
    const int64_t at = token * p.out_stride + column;
    store_chunk(p.out_dtype, p.out + element_bytes(p.out_dtype) * at, count, sum);
}

// ---- the kernel

// Token `item`.
FB_OPERATOR(moe_combine, fb_combine_params, combine_threads, 4, 1) {
    pdl_wait();
    pdl_launch_dependents();
    for (int32_t column = threadIdx.x * chunk; column < p.dim; column += combine_threads * chunk)
        combine_chunk(p, blockIdx.x, column);
}
