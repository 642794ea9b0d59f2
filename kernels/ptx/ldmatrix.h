// 8x8 matrices of 16-bit elements from shared memory to a warp's registers. Lanes 8i to 8i+7 give
// the addresses of matrix i's rows (16 aligned bytes each). Lane l receives from row l/4 the
// elements 2(l%4) and 2(l%4)+1, low half first; transposed, from column l/4 those of the rows
// 2(l%4) and 2(l%4)+1.
#pragma once
#include "base.h"

#ifdef FB_EMULATED
#define FB_LDMATRIX(name, count, transposed, text, outputs, input, ...) \
    FB_DEVICE void name(uint32_t (&r)[count], uint32_t address) {       \
        emu::ldmatrix(r, address, count, transposed);                   \
    }
#else
#define FB_LDMATRIX(name, count, transposed, text, outputs, input, ...)                           \
    FB_DEVICE void name(uint32_t (&r)[count], uint32_t address) {                                 \
        asm volatile("ldmatrix.sync.aligned.m8n8." text ".shared.b16 {" outputs "}, [" input "];" \
                     : __VA_ARGS__                                                                \
                     : "r"(address)                                                               \
                     : "memory");                                                                 \
    }
#endif
FB_LDMATRIX(ldmatrix_x1, 1, false, "x1", "%0", "%1", "=r"(r[0]))
FB_LDMATRIX(ldmatrix_x2, 2, false, "x2", "%0,%1", "%2", "=r"(r[0]), "=r"(r[1]))
FB_LDMATRIX(ldmatrix_x4, 4, false, "x4", "%0,%1,%2,%3", "%4", "=r"(r[0]), "=r"(r[1]), "=r"(r[2]),
            "=r"(r[3]))
FB_LDMATRIX(ldmatrix_x1_trans, 1, true, "x1.trans", "%0", "%1", "=r"(r[0]))
FB_LDMATRIX(ldmatrix_x2_trans, 2, true, "x2.trans", "%0,%1", "%2", "=r"(r[0]), "=r"(r[1]))
FB_LDMATRIX(ldmatrix_x4_trans, 4, true, "x4.trans", "%0,%1,%2,%3", "%4", "=r"(r[0]), "=r"(r[1]),
            "=r"(r[2]), "=r"(r[3]))
#undef FB_LDMATRIX

// An 8x8 matrix, transposed: lane l, which has the elements 2(l%4) and 2(l%4)+1 of row l/4,
// receives from column l/4 those of the rows 2(l%4) and 2(l%4)+1.
FB_DEVICE uint32_t movmatrix_trans(uint32_t row) {
#ifdef FB_EMULATED
    const int lane = int(threadIdx.x % 32);
    const int from = lane % 4 * 8 + lane / 8;
    const uint32_t low = __shfl_sync(0xffffffffu, row, from);
    const uint32_t high = __shfl_sync(0xffffffffu, row, from + 4);
    return lane / 4 % 2 == 0 ? (low & 0xffff) | high << 16 : low >> 16 | (high & 0xffff0000);
#else
    uint32_t column;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;"
                 : "=r"(column)
                 : "r"(row));
    return column;
#endif
}
