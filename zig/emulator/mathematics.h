// Mathematics under CUDA's names, for kernels alone: the emulator's own files have the C++
// library's.
#pragma once
#include "language.h"

// The C library's; a definition of one's own under these names would call itself.
extern "C" {
float exp2f(float), expf(float), log2f(float), logf(float), log1pf(float), expm1f(float),
    tanhf(float), powf(float, float), sinf(float), cosf(float), erff(float);
double exp(double), exp2(double), log(double), log2(double), sin(double), cos(double),
    pow(double, double);
}
#define EMU_MATH(name)                                               \
    inline float name##f(float x) { return __builtin_##name##f(x); } \
    inline double name(double x) { return __builtin_##name(x); }
EMU_MATH(fabs)
EMU_MATH(floor)
EMU_MATH(ceil)
EMU_MATH(trunc)
EMU_MATH(rint)
EMU_MATH(sqrt)
#undef EMU_MATH
inline float roundf(float x) { return __builtin_copysignf(truncf(fabsf(x) + 0.5f), x); }
inline float fmaf(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline double fma(double a, double b, double c) { return __builtin_fma(a, b, c); }
inline float copysignf(float x, float sign) { return __builtin_copysignf(x, sign); }
inline float fmaxf(float a, float b) { return __builtin_fmaxf(a, b); }
inline float fminf(float a, float b) { return __builtin_fminf(a, b); }
inline double fmax(double a, double b) { return __builtin_fmax(a, b); }
inline double fmin(double a, double b) { return __builtin_fmin(a, b); }
inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __log2f(float x) { return log2f(x); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __saturatef(float x) { return fminf(fmaxf(x, 0.0f), 1.0f); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
// Never fused with a neighbour, as CUDA promises.
inline float __fadd_rn(float a, float b) { return __arithmetic_fence(a + b); }
inline float __fsub_rn(float a, float b) { return __arithmetic_fence(a - b); }
inline float __fmul_rn(float a, float b) { return __arithmetic_fence(a * b); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline double __dadd_rn(double a, double b) { return __arithmetic_fence(a + b); }
inline double __dmul_rn(double a, double b) { return __arithmetic_fence(a * b); }

inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline unsigned __float2uint_rn(float x) { return unsigned(rintf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }
inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll(uint64_t(x)); }
inline uint32_t __brev(uint32_t x) { return __builtin_bitreverse32(x); }
inline int32_t __mulhi(int32_t a, int32_t b) { return int32_t(int64_t(a) * b >> 32); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint32_t(uint64_t(a) * b >> 32); }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) {
    return uint64_t((unsigned __int128)(a)*b >> 64);
}
inline uint32_t __funnelshift_l(uint32_t low, uint32_t high, uint32_t shift) {
    return uint32_t((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline uint32_t __funnelshift_r(uint32_t low, uint32_t high, uint32_t shift) {
    return uint32_t((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
    const uint64_t both = uint64_t(y) << 32 | x;
    uint32_t r = 0;
    for (int i = 0; i < 4; ++i) {
        const uint32_t choice = selector >> i * 4;
        const uint32_t byte = both >> (choice & 7) * 8 & 0xff;
        r |= (choice & 8 ? (byte & 0x80 ? 0xffu : 0u) : byte) << i * 8;
    }
    return r;
}

template <class A, class B>
inline auto max(A a, B b) -> decltype(true ? A(a) : B(b)) {
    return a > b ? a : b;
}
template <class A, class B>
inline auto min(A a, B b) -> decltype(true ? A(a) : B(b)) {
    return a < b ? a : b;
}
inline float max(float a, float b) { return fmaxf(a, b); }
inline float min(float a, float b) { return fminf(a, b); }
template <class T>
inline T abs(T x) {
    return x < 0 ? -x : x;
}

// What ex2.approx.ftz makes of results that would be denormal.
namespace emu {
inline float exp2_flushed(float x) {
    const float r = exp2f(x);
    return r < 0x1p-126f ? 0.0f : r;
}
} // namespace emu
