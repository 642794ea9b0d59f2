// 16-bit formats; those of 8 bits are in kernels/ptx/convert.h, as arithmetic that GPUs run too.
#pragma once
#include "language.h"

namespace emu {

enum class Number { bf16, f16, e4m3, e5m2, f32 };

inline float bf16_to_float(uint16_t x) { return __uint_as_float(uint32_t(x) << 16); }
inline uint16_t float_to_bf16(float x) {
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
inline float f16_to_float(uint16_t x) { return float(__builtin_bit_cast(_Float16, x)); }
inline uint16_t float_to_f16(float x) {
    return x != x ? uint16_t(0x7fff) : __builtin_bit_cast(uint16_t, _Float16(x));
}

} // namespace emu
