// Number formats. Pairs lie in one register, the first in the low half, as mma and vector stores
// want them. All conversions to fewer bits round to nearest even; those to fp8 saturate to the
// largest finite value.
#pragma once
#include "base.h"

#if FB_ARCH < 800
FB_DEVICE uint32_t rounded_bf16(float x) {
    const uint32_t bits = __float_as_uint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fffu;
    return (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
}
#endif

FB_DEVICE uint32_t pack_bf16(float low, float high) {
#if FB_ARCH < 800
    return rounded_bf16(low) | rounded_bf16(high) << 16;
#elif defined FB_EMULATED
    return emu::float_to_bf16(low) | uint32_t(emu::float_to_bf16(high)) << 16;
#else
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#endif
}

FB_DEVICE uint32_t pack_f16(float low, float high) {
#ifdef FB_EMULATED
    return emu::float_to_f16(low) | uint32_t(emu::float_to_f16(high)) << 16;
#elif FB_ARCH < 800
    uint32_t r;
    asm("{ .reg .b16 l, h; cvt.rn.f16.f32 l, %1; cvt.rn.f16.f32 h, %2; mov.b32 %0, {l, h}; }"
        : "=r"(r)
        : "f"(low), "f"(high));
    return r;
#else
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
#endif
}

FB_DEVICE uint16_t float_to_bf16(float x) { return uint16_t(pack_bf16(x, 0.0f)); }
FB_DEVICE uint16_t float_to_f16(float x) { return uint16_t(pack_f16(x, 0.0f)); }

FB_DEVICE float bf16_to_float(uint16_t x) { return __uint_as_float(uint32_t(x) << 16); }
FB_DEVICE float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
FB_DEVICE float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

FB_DEVICE float f16_to_float(uint16_t x) {
#ifdef FB_EMULATED
    return emu::f16_to_float(x);
#else
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
    return r;
#endif
}

FB_DEVICE float f16_low(uint32_t pair) { return f16_to_float(uint16_t(pair)); }
FB_DEVICE float f16_high(uint32_t pair) { return f16_to_float(uint16_t(pair >> 16)); }

FB_DEVICE uint32_t mul_f16x2(uint32_t a, uint32_t b) {
#ifdef FB_EMULATED
    return pack_f16(f16_low(a) * f16_low(b), f16_high(a) * f16_high(b));
#else
    uint32_t r;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#endif
}

FB_DEVICE uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
#if FB_ARCH < 800 || defined FB_EMULATED
    return pack_bf16(bf16_low(a) * bf16_low(b), bf16_high(a) * bf16_high(b));
#else
    uint32_t r; // -0 as the addend keeps the sign of a zero product
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(0x80008000u));
    return r;
#endif
}

// --- fp8 to f16, exact: two bytes to two halves

FB_DEVICE uint32_t e5m2x2_to_f16x2(uint16_t pair) {
    return (pair & 0xffu) << 8 | (pair & 0xff00u) << 16;
}

FB_DEVICE uint32_t e4m3x2_to_f16x2(uint16_t pair) {
#if !defined(FB_EMULATED) && FB_ARCH >= 890
    uint32_t r;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(r) : "h"(pair));
    return r;
#else
    // Moved by one bit, a byte's fields are those of an f16 that is 2^8 too small; only NaN needs a
    // word of its own.
    const uint32_t wide = e5m2x2_to_f16x2(pair);
    const uint32_t sign = wide & 0x80008000u, rest = wide & 0x7f007f00u;
    const uint32_t nan = (rest + 0x01000100u) & 0x80008000u;
    return mul_f16x2(rest >> 1, 0x5c005c00u) | sign | (nan - (nan >> 15));
#endif
}

// Four bytes to two pairs.
FB_DEVICE void e4m3x4_to_f16x4(uint32_t bytes, uint32_t (&pairs)[2]) {
#if !defined(FB_EMULATED) && FB_ARCH >= 890
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %2; cvt.rn.f16x2.e4m3x2 %0, low; "
        "cvt.rn.f16x2.e4m3x2 %1, high; }"
        : "=r"(pairs[0]), "=r"(pairs[1])
        : "r"(bytes)); // without a shift for the upper half
#else
    pairs[0] = e4m3x2_to_f16x2(uint16_t(bytes));
    pairs[1] = e4m3x2_to_f16x2(uint16_t(bytes >> 16));
#endif
}

FB_DEVICE void e5m2x4_to_f16x4(uint32_t bytes, uint32_t (&pairs)[2]) {
    pairs[0] = __byte_perm(bytes, 0, 0x1404);
    pairs[1] = __byte_perm(bytes, 0, 0x3424);
}

// --- f32 to fp8

// `mantissa` bits kept, exponents biased by `bias`, at most `largest`.
FB_DEVICE uint32_t float_to_fp8(float x, int mantissa, int bias, uint32_t largest) {
    const uint32_t bits = __float_as_uint(x), sign = bits >> 24 & 0x80u,
                   magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return 0x7fu;
    const int drop = 23 - mantissa;
    uint32_t code;
    if (magnitude < uint32_t(128 - bias) << 23) {
        // Adding a number whose last bit is worth one subnormal step lets the adder round.
        const float step = __uint_as_float(uint32_t(151 - bias - mantissa) << 23);
        code = __float_as_uint(__uint_as_float(magnitude) + step) - __float_as_uint(step);
    } else {
        code = ((magnitude + ((1u << (drop - 1)) - 1) + (magnitude >> drop & 1)) >> drop) -
               (uint32_t(127 - bias) << mantissa);
    }
    return sign | (code < largest ? code : largest);
}

FB_DEVICE uint16_t pack_e4m3(float low, float high) {
#if !defined(FB_EMULATED) && FB_ARCH >= 890
    uint16_t r;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return uint16_t(float_to_fp8(low, 3, 7, 0x7e) | float_to_fp8(high, 3, 7, 0x7e) << 8);
#endif
}

FB_DEVICE uint16_t pack_e5m2(float low, float high) {
#if !defined(FB_EMULATED) && FB_ARCH >= 890
    uint16_t r;
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(r) : "f"(high), "f"(low));
    return r;
#else
    return uint16_t(float_to_fp8(low, 2, 15, 0x7b) | float_to_fp8(high, 2, 15, 0x7b) << 8);
#endif
}

FB_DEVICE uint8_t float_to_e4m3(float x) { return uint8_t(pack_e4m3(x, 0.0f)); }
FB_DEVICE uint8_t float_to_e5m2(float x) { return uint8_t(pack_e5m2(x, 0.0f)); }
FB_DEVICE float e4m3_to_float(uint8_t x) { return f16_low(e4m3x2_to_f16x2(x)); }
FB_DEVICE float e5m2_to_float(uint8_t x) { return f16_low(e5m2x2_to_f16x2(x)); }
