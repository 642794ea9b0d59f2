// The way back of ldmatrix.h (sm_90): the same lanes hold the same elements, and give the addresses
// of the same rows.
#pragma once
#include "base.h"

#ifdef FB_EMULATED
#define FB_STMATRIX(name, count, transposed, text, inputs, ...)         \
    FB_DEVICE void name(uint32_t address, const uint32_t (&r)[count]) { \
        emu::stmatrix(r, address, count, transposed);                   \
    }
#else
#define FB_STMATRIX(name, count, transposed, text, inputs, ...)                      \
    FB_DEVICE void name(uint32_t address, const uint32_t (&r)[count]) {              \
        asm volatile("stmatrix.sync.aligned.m8n8." text ".shared.b16 [%0], {" inputs \
                     "};" ::"r"(address),                                            \
                     __VA_ARGS__                                                     \
                     : "memory");                                                    \
    }
#endif
#define FB_STMATRIX_4 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
FB_STMATRIX(stmatrix_x1, 1, false, "x1", "%1", "r"(r[0]))
FB_STMATRIX(stmatrix_x2, 2, false, "x2", "%1,%2", "r"(r[0]), "r"(r[1]))
FB_STMATRIX(stmatrix_x4, 4, false, "x4", "%1,%2,%3,%4", FB_STMATRIX_4)
FB_STMATRIX(stmatrix_x1_trans, 1, true, "x1.trans", "%1", "r"(r[0]))
FB_STMATRIX(stmatrix_x2_trans, 2, true, "x2.trans", "%1,%2", "r"(r[0]), "r"(r[1]))
FB_STMATRIX(stmatrix_x4_trans, 4, true, "x4.trans", "%1,%2,%3,%4", FB_STMATRIX_4)
#undef FB_STMATRIX_4
#undef FB_STMATRIX
