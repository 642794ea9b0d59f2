// Arithmetic of two 16-bit numbers in a register (sm_80; bf16 sm_90).
#pragma once
#include "base.h"
#include "convert.h"

// Each sum is rounded once.
FB_DEVICE uint32_t add_pair_f16(uint32_t a, uint32_t b) {
#ifdef FB_EMULATED
    return pack_f16(f16_low(a) + f16_low(b), f16_high(a) + f16_high(b));
#else
    uint32_t r;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#endif
}

FB_DEVICE uint32_t add_pair_bf16(uint32_t a, uint32_t b) {
#ifdef FB_EMULATED
    return pack_bf16(bf16_low(a) + bf16_low(b), bf16_high(a) + bf16_high(b));
#else
    uint32_t r;
    asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
    return r;
#endif
}
