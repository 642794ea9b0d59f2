// Tensor cores, one warp: d += a * b with f32 accumulators. With g = lane / 4 and t = lane % 4, d
// holds (g, 2t), (g, 2t+1), (g+8, 2t), (g+8, 2t+1) of the 16x8 result. k16: a holds pairs from
// columns 2t of rows g and g+8, then from columns 2t+8; b pairs from rows 2t and 2t+8 of column g.
// k32: four bytes at 4t and 4t+16 likewise.
#pragma once
#include "base.h"

#ifdef FB_EMULATED
#define FB_MMA(name, kind, text)                                                           \
    FB_DEVICE void name(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
        emu::mma(d, a, b0, b1, emu::Number::kind);                                         \
    }
#else
#define FB_MMA(name, kind, text)                                                           \
    FB_DEVICE void name(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) { \
        asm volatile("mma.sync.aligned." text                                              \
                     " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"              \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                      \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));      \
    }
#endif
FB_MMA(mma_m16n8k16_bf16, bf16, "m16n8k16.row.col.f32.bf16.bf16.f32") // sm_80 and later
#if FB_ARCH >= 800
FB_MMA(mma_m16n8k16_f16, f16, "m16n8k16.row.col.f32.f16.f16.f32")
#else
// Turing's products are half as long: columns 0 to 7, then 8 to 15.
FB_DEVICE void mma_m16n8k8_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {
#ifdef FB_EMULATED
    const uint32_t a[4] = {a0, a1, 0, 0};
    emu::mma(d, a, b, 0, emu::Number::f16);
#else
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32"
                 " {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(b));
#endif
}

FB_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    mma_m16n8k8_f16(d, a[0], a[1], b0);
    mma_m16n8k8_f16(d, a[2], a[3], b1);
}
#endif
FB_MMA(mma_m16n8k32_e4m3, e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32") // sm_89 and later
FB_MMA(mma_m16n8k32_e5m2, e5m2, "m16n8k32.row.col.f32.e5m2.e5m2.f32") // sm_89 and later
#undef FB_MMA

FB_DEVICE void mma_m16n8k16_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_bf16(d, a, b[0], b[1]);
}
FB_DEVICE void mma_m16n8k16_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_m16n8k16_f16(d, a, b[0], b[1]);
}
