// The special function unit: fast approximations, about 2^-22 relative (tanh: 2^-11); minima and
// maxima.
#pragma once
#include "base.h"

// 2^x; denormal results become 0
FB_DEVICE float exp2_approx(float x) {
#ifdef FB_EMULATED
    return emu::exp2_flushed(x);
#else
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

FB_DEVICE float log2_approx(float x) {
#ifdef FB_EMULATED
    return __builtin_log2f(x);
#else
    float r;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

FB_DEVICE float rcp_approx(float x) {
#ifdef FB_EMULATED
    return 1.0f / x;
#else
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

FB_DEVICE float rsqrt_approx(float x) {
#ifdef FB_EMULATED
    return 1.0f / __builtin_sqrtf(x);
#else
    float r;
    asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

FB_DEVICE float tanh_approx(float x) {
#ifdef FB_EMULATED
    return __builtin_tanhf(x);
#else
    float r;
    asm("tanh.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

// Within 2^-20 of the sine between -pi and pi.
FB_DEVICE float sin_approx(float x) {
#ifdef FB_EMULATED
    return __builtin_sinf(x);
#else
    float r;
    asm("sin.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

FB_DEVICE float cos_approx(float x) {
#ifdef FB_EMULATED
    return __builtin_cosf(x);
#else
    float r;
    asm("cos.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

FB_DEVICE float sqrt_approx(float x) {
#ifdef FB_EMULATED
    return __builtin_sqrtf(x);
#else
    float r;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
#endif
}

// The smaller and the larger number; NaN if either is (unlike fminf and fmaxf).
FB_DEVICE float min_nan(float a, float b) {
#if defined FB_EMULATED || FB_ARCH < 800
    return a != a || a < b ? a : b;
#else
    float r;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
#endif
}

FB_DEVICE float max_nan(float a, float b) {
#if defined FB_EMULATED || FB_ARCH < 800
    return a != a || a > b ? a : b;
#else
    float r;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
#endif
}

// The larger ones of two pairs of 16-bit whole numbers.
FB_DEVICE uint32_t max_u16x2(uint32_t a, uint32_t b) {
#if defined FB_EMULATED || FB_ARCH < 900
    const uint32_t low = (a & 0xffffu) > (b & 0xffffu) ? a & 0xffffu : b & 0xffffu;
    const uint32_t high = a >> 16 > b >> 16 ? a >> 16 : b >> 16;
    return high << 16 | low;
#else
    uint32_t r;
    asm("max.u16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#endif
}

// Two units in the last place, over all divisors.
FB_DEVICE float div_approx(float a, float b) {
#ifdef FB_EMULATED
    return a / b;
#else
    float r;
    asm("div.full.ftz.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
    return r;
#endif
}

// Truncates and saturates; NaN becomes 0.
FB_DEVICE int32_t float_to_i32(float x) {
#ifdef FB_EMULATED
    if (!(x == x)) return 0;
    return x >= 2147483648.0f ? 0x7fffffff : x <= -2147483648.0f ? -0x7fffffff - 1 : int32_t(x);
#else
    int32_t r;
    asm("cvt.rzi.s32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
#endif
}
