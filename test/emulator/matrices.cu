// Matrices between shared memory, registers and the tensor cores of one warp.
#include "conformance.h"

#include "ptx/ldmatrix.h"
#include "ptx/memory.h"
#include "ptx/mma.h"
#include "ptx/stmatrix.h"

#ifndef FB_COUNT // matrices at a time
#define FB_COUNT 4
#endif
#define FB_CAT(a, b, c) FB_CAT_(a, b, c)
#define FB_CAT_(a, b, c) a##b##c

// Row r of the matrices lies at row (5 r) mod 32 of shared memory.
FB_DEVICE uint32_t row_address(const uint4* rows) {
    return shared_address(rows + threadIdx.x * 5 % 32);
}

FB_KERNEL(load_matrices, probe, 32, 1) {
    FB_SHARED(uint4, rows, [32]);
    rows[threadIdx.x * 5 % 32] = reinterpret_cast<const uint4*>(p.in)[threadIdx.x];
    __syncwarp();
    uint32_t r[FB_COUNT];
    FB_CAT(ldmatrix_x, FB_COUNT, )(r, row_address(rows));
    for (int i = 0; i < FB_COUNT; ++i) words_out(p)[threadIdx.x * 8 + i] = r[i];
    FB_CAT(ldmatrix_x, FB_COUNT, _trans)(r, row_address(rows));
    for (int i = 0; i < FB_COUNT; ++i) words_out(p)[threadIdx.x * 8 + 4 + i] = r[i];
}

FB_KERNEL(turn_matrix, probe, 32, 1) {
    words_out(p)[threadIdx.x] = movmatrix_trans(words_in(p)[threadIdx.x]);
}

#if FB_ARCH >= 900
FB_KERNEL(store_matrices, probe, 32, 1) {
    FB_SHARED(uint4, rows, [32]);
    uint32_t r[FB_COUNT];
    for (int turn = 0; turn < 2; ++turn) {
        rows[threadIdx.x] = make_uint4(0, 0, 0, 0);
        for (int i = 0; i < FB_COUNT; ++i) r[i] = words_in(p)[threadIdx.x * 4 + i];
        __syncwarp();
        if (turn == 0)
            FB_CAT(stmatrix_x, FB_COUNT, )(row_address(rows), r);
        else
            FB_CAT(stmatrix_x, FB_COUNT, _trans)(row_address(rows), r);
        __syncwarp();
        reinterpret_cast<uint4*>(p.out)[turn * 32 + threadIdx.x] = rows[threadIdx.x * 5 % 32];
        __syncwarp();
    }
}
#endif

// Each lane: a[4], b[2] and d[4] of words in, d[4] out.
template <class F>
FB_DEVICE void multiply(const probe& p, F product) {
    const uint32_t* in = words_in(p) + threadIdx.x * 10;
    const uint32_t a[4] = {in[0], in[1], in[2], in[3]}, b[2] = {in[4], in[5]};
    float d[4];
    for (int i = 0; i < 4; ++i) d[i] = __uint_as_float(in[6 + i]);
    product(d, a, b);
    for (int i = 0; i < 4; ++i) words_out(p)[threadIdx.x * 4 + i] = __float_as_uint(d[i]);
}
#define FB_MULTIPLY(kind, shape)                                                                   \
    struct multiply_##kind {                                                                       \
        FB_DEVICE void operator()(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
            mma_##shape##_##kind(d, a, b[0], b[1]);                                                \
        }                                                                                          \
    };                                                                                             \
    FB_KERNEL(mma_##kind, probe, 32, 1) { multiply(p, multiply_##kind()); }
FB_MULTIPLY(bf16, m16n8k16)
FB_MULTIPLY(f16, m16n8k16)
#if FB_ARCH >= 890
FB_MULTIPLY(e4m3, m16n8k32)
FB_MULTIPLY(e5m2, m16n8k32)
#endif
