// Four codes of a weight as two pairs of f16 or bf16, exactly: they hold all integers of 8 bits and
// all fp8. A pair is made of the bits of a number, of which a code is the end of the mantissa, and
// loses what that is too large by.
#pragma once
#include "../ptx/base.h"
#include "../params/types.h"
#include "../common/element.h"
#include "../ptx/pair.h"

template <int type> FB_DEVICE uint32_t add_pair(uint32_t a, uint32_t b) {
    return type == FB_F16 ? add_pair_f16(a, b) : add_pair_bf16(a, b);
}

// Codes 0 to 15 in the low halves of four bytes, less 8 if `centered`.
template <int type> FB_DEVICE void widen_nibbles(uint32_t codes, bool centered,
                              uint32_t (&pairs)[2]) {
    const uint32_t low = codes & 0x0f0f0f0f;
    // 1024 + code, 128 + code
    const uint32_t top = type == FB_F16 ? 0x64 : 0x43;
    const uint32_t less = type == FB_F16 ? (centered ? 0xe408e408 : 0xe400e400)
                                         : (centered ? 0xc308c308 : 0xc300c300);
    pairs[0] = add_pair<type>(__byte_perm(low, top, 0x4140), less);
    pairs[1] = add_pair<type>(__byte_perm(low, top, 0x4342), less);
}

// Codes -128 to 127 in four bytes.
template <int type> FB_DEVICE void widen_bytes(uint32_t codes, uint32_t (&pairs)[2]) {
    const uint32_t raised = codes ^ 0x80808080; // by 128
    FB_UNROLL
    for (int i = 0; i < 2; i++) {
        if constexpr (type == FB_F16) {
            // 1024 + 128 + code
            const uint32_t pair = __byte_perm(raised, 0x64, i == 0 ? 0x4140 : 0x4342);
            pairs[i] = add_pair<type>(pair, 0xe480e480);
        } else {
            // A mantissa holds seven bits: 128 + those, less 128 where the eighth is set, else 256.
            const uint32_t pair = __byte_perm(raised, 0, i == 0 ? 0x4140 : 0x4342);
            const uint32_t less = (pair & 0x00800080) ^ 0xc380c380;
            pairs[i] = add_pair<type>((pair & 0x007f007f) | 0x43004300, less);
        }
    }
}

// fp8 in four bytes.
template <int type> FB_DEVICE void widen_fp8(uint32_t codes, bool e5m2, uint32_t (&pairs)[2]) {
    if (e5m2) e5m2x4_to_f16x4(codes, pairs);
    else e4m3x4_to_f16x4(codes, pairs);
    if constexpr (type == FB_BF16) {
        FB_UNROLL
        for (int i = 0; i < 2; i++) pairs[i] = pack_bf16(f16_low(pairs[i]), f16_high(pairs[i]));
    }
}
