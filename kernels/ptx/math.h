// The special function unit: fast approximations, about 2^-22 relative (tanh: 2^-11).
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
