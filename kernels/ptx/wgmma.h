// Tensor cores of a warpgroup, four warps whose first is a multiple of four (sm_90a):
// d += a * b for 64 rows, N columns and 16 (fp8: 32) of K, with f32 accumulators.
//
// Warp w of the group holds rows 16w to 16w + 15 as mma.h's d, for each 8 columns in turn: d[4j] to
// d[4j + 3] are columns 8j to 8j + 7. An `a` from registers is mma.h's a of these 16 rows.
//
// wgmma_fence, products, wgmma_commit, wgmma_wait: the fence comes before the first product after
// every commit; between a product and its wait nothing may touch its accumulators or registers of
// a. Ordinary writes to operands in shared memory need fence_proxy_async_shared and a barrier.
#pragma once
#include "base.h"

// Where an operand lies. Rows of `span` bytes (32, 64 or 128) hold 16-byte pieces under the TMA's
// swizzle of that span; a span of 16 means none. Eight rows make an atom, whose address is a
// multiple of eight spans; a step along K inside of an atom may just be added to the address.
// K-major (elements along K are neighbours): rows are M or N, `stride` bytes from eight rows to the
// next eight; without a swizzle `leading` bytes from one 16-byte piece along K to the next.
// MN-major (16-bit elements only): rows are K, `stride` bytes from eight of K to the next eight and
// `leading` bytes from one span along M or N to the next; without a swizzle these two change
// places.
FB_DEVICE uint64_t wgmma_operand(uint32_t address, uint32_t span, uint32_t leading,
                                 uint32_t stride) {
    const uint64_t mode = span == 128 ? 1 : span == 64 ? 2 : span == 32 ? 3 : 0;
    return uint64_t((address & 0x3ffff) >> 4) | uint64_t(leading >> 4) << 16 |
           uint64_t(stride >> 4) << 32 | mode << 62;
}

FB_DEVICE void wgmma_fence() {
#ifdef FB_EMULATED
    emu::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

FB_DEVICE void wgmma_commit() {
#ifdef FB_EMULATED
    emu::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Waits until at most `pending` of the latest groups are in flight.
template <int pending>
FB_DEVICE void wgmma_wait() {
#ifdef FB_EMULATED
    emu::wgmma_wait(pending);
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
#endif
}

// To the compiler the registers change here: it moves no access of accumulators across.
template <int n> FB_DEVICE void wgmma_tie(float (&d)[n]) {
#ifndef FB_EMULATED
    static_assert(n % 4 == 0, "whole columns");
    // Four at a time: the compiler takes longer for more statements.
    FB_UNROLL
    for (int i = 0; i < n; i += 4)
        asm volatile(""
                     : "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])::"memory");
#endif
}

// FB_WGMMA(bf16, 128) gives products of 128 columns, distinguished by the size of d:
//   wgmma_bf16<a_along_m, b_along_n>(d, a_operand, b_operand, accumulate)
//   wgmma_bf16<b_along_n>(d, a_registers, b_operand, accumulate)
// with 1 for an MN-major operand, 0 for a K-major one. Kinds bf16 and f16; FB_WGMMA_FP8 takes e4m3
// and e5m2, which are K-major always: wgmma_e4m3(d, a, b, accumulate). N is 8 to 256 in steps of 8,
// and may be a macro. Without `accumulate` d's old values do not count.
#ifdef FB_EMULATED

#define FB_WGMMA(kind, N) FB_WGMMA_16(kind, N) // expands its arguments
#define FB_WGMMA_FP8(kind, N) FB_WGMMA_8(kind, N)
#define FB_WGMMA_16(kind, N)                                                                  \
    template <int a_along_m, int b_along_n>                                                   \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
        emu::wgmma(d, N, nullptr, a, b, accumulate, a_along_m, b_along_n, emu::Number::kind); \
    }                                                                                         \
    template <int b_along_n>                                                                  \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,        \
                                bool accumulate) {                                            \
        emu::wgmma(d, N, a, 0, b, accumulate, false, b_along_n, emu::Number::kind);           \
    }
#define FB_WGMMA_8(kind, N)                                                                   \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
        emu::wgmma(d, N, nullptr, a, b, accumulate, false, false, emu::Number::kind);         \
    }                                                                                         \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,        \
                                bool accumulate) {                                            \
        emu::wgmma(d, N, a, 0, b, accumulate, false, false, emu::Number::kind);               \
    }

#else

// The registers of d for each N as text and as operands: those of N - 8 and four more.
#define FB_WGMMA_T8 "%0,%1,%2,%3"
#define FB_WGMMA_D8 "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define FB_WGMMA_T16 FB_WGMMA_T8 ",%4,%5,%6,%7"
#define FB_WGMMA_D16 FB_WGMMA_D8, "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define FB_WGMMA_T24 FB_WGMMA_T16 ",%8,%9,%10,%11"
#define FB_WGMMA_D24 FB_WGMMA_D16, "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11])
#define FB_WGMMA_T32 FB_WGMMA_T24 ",%12,%13,%14,%15"
#define FB_WGMMA_D32 FB_WGMMA_D24, "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15])
#define FB_WGMMA_T40 FB_WGMMA_T32 ",%16,%17,%18,%19"
#define FB_WGMMA_D40 FB_WGMMA_D32, "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19])
#define FB_WGMMA_T48 FB_WGMMA_T40 ",%20,%21,%22,%23"
#define FB_WGMMA_D48 FB_WGMMA_D40, "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23])
#define FB_WGMMA_T56 FB_WGMMA_T48 ",%24,%25,%26,%27"
#define FB_WGMMA_D56 FB_WGMMA_D48, "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27])
#define FB_WGMMA_T64 FB_WGMMA_T56 ",%28,%29,%30,%31"
#define FB_WGMMA_D64 FB_WGMMA_D56, "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31])
#define FB_WGMMA_T72 FB_WGMMA_T64 ",%32,%33,%34,%35"
#define FB_WGMMA_D72 FB_WGMMA_D64, "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35])
#define FB_WGMMA_T80 FB_WGMMA_T72 ",%36,%37,%38,%39"
#define FB_WGMMA_D80 FB_WGMMA_D72, "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39])
#define FB_WGMMA_T88 FB_WGMMA_T80 ",%40,%41,%42,%43"
#define FB_WGMMA_D88 FB_WGMMA_D80, "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43])
#define FB_WGMMA_T96 FB_WGMMA_T88 ",%44,%45,%46,%47"
#define FB_WGMMA_D96 FB_WGMMA_D88, "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47])
#define FB_WGMMA_T104 FB_WGMMA_T96 ",%48,%49,%50,%51"
#define FB_WGMMA_D104 FB_WGMMA_D96, "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51])
#define FB_WGMMA_T112 FB_WGMMA_T104 ",%52,%53,%54,%55"
#define FB_WGMMA_D112 FB_WGMMA_D104, "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55])
#define FB_WGMMA_T120 FB_WGMMA_T112 ",%56,%57,%58,%59"
#define FB_WGMMA_D120 FB_WGMMA_D112, "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59])
#define FB_WGMMA_T128 FB_WGMMA_T120 ",%60,%61,%62,%63"
#define FB_WGMMA_D128 FB_WGMMA_D120, "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define FB_WGMMA_T136 FB_WGMMA_T128 ",%64,%65,%66,%67"
#define FB_WGMMA_D136 FB_WGMMA_D128, "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67])
#define FB_WGMMA_T144 FB_WGMMA_T136 ",%68,%69,%70,%71"
#define FB_WGMMA_D144 FB_WGMMA_D136, "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71])
#define FB_WGMMA_T152 FB_WGMMA_T144 ",%72,%73,%74,%75"
#define FB_WGMMA_D152 FB_WGMMA_D144, "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75])
#define FB_WGMMA_T160 FB_WGMMA_T152 ",%76,%77,%78,%79"
#define FB_WGMMA_D160 FB_WGMMA_D152, "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79])
#define FB_WGMMA_T168 FB_WGMMA_T160 ",%80,%81,%82,%83"
#define FB_WGMMA_D168 FB_WGMMA_D160, "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83])
#define FB_WGMMA_T176 FB_WGMMA_T168 ",%84,%85,%86,%87"
#define FB_WGMMA_D176 FB_WGMMA_D168, "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87])
#define FB_WGMMA_T184 FB_WGMMA_T176 ",%88,%89,%90,%91"
#define FB_WGMMA_D184 FB_WGMMA_D176, "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91])
#define FB_WGMMA_T192 FB_WGMMA_T184 ",%92,%93,%94,%95"
#define FB_WGMMA_D192 FB_WGMMA_D184, "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define FB_WGMMA_T200 FB_WGMMA_T192 ",%96,%97,%98,%99"
#define FB_WGMMA_D200 FB_WGMMA_D192, "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99])
#define FB_WGMMA_T208 FB_WGMMA_T200 ",%100,%101,%102,%103"
#define FB_WGMMA_D208 FB_WGMMA_D200, "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103])
#define FB_WGMMA_T216 FB_WGMMA_T208 ",%104,%105,%106,%107"
#define FB_WGMMA_D216 FB_WGMMA_D208, "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107])
#define FB_WGMMA_T224 FB_WGMMA_T216 ",%108,%109,%110,%111"
#define FB_WGMMA_D224 FB_WGMMA_D216, "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111])
#define FB_WGMMA_T232 FB_WGMMA_T224 ",%112,%113,%114,%115"
#define FB_WGMMA_D232 FB_WGMMA_D224, "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115])
#define FB_WGMMA_T240 FB_WGMMA_T232 ",%116,%117,%118,%119"
#define FB_WGMMA_D240 FB_WGMMA_D232, "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119])
#define FB_WGMMA_T248 FB_WGMMA_T240 ",%120,%121,%122,%123"
#define FB_WGMMA_D248 FB_WGMMA_D240, "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123])
#define FB_WGMMA_T256 FB_WGMMA_T248 ",%124,%125,%126,%127"
#define FB_WGMMA_D256 FB_WGMMA_D248, "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

// The numbers of the seven operands after them.
#define FB_WGMMA_I8 4, 5, 6, 7, 8, 9, 10
#define FB_WGMMA_I16 8, 9, 10, 11, 12, 13, 14
#define FB_WGMMA_I24 12, 13, 14, 15, 16, 17, 18
#define FB_WGMMA_I32 16, 17, 18, 19, 20, 21, 22
#define FB_WGMMA_I40 20, 21, 22, 23, 24, 25, 26
#define FB_WGMMA_I48 24, 25, 26, 27, 28, 29, 30
#define FB_WGMMA_I56 28, 29, 30, 31, 32, 33, 34
#define FB_WGMMA_I64 32, 33, 34, 35, 36, 37, 38
#define FB_WGMMA_I72 36, 37, 38, 39, 40, 41, 42
#define FB_WGMMA_I80 40, 41, 42, 43, 44, 45, 46
#define FB_WGMMA_I88 44, 45, 46, 47, 48, 49, 50
#define FB_WGMMA_I96 48, 49, 50, 51, 52, 53, 54
#define FB_WGMMA_I104 52, 53, 54, 55, 56, 57, 58
#define FB_WGMMA_I112 56, 57, 58, 59, 60, 61, 62
#define FB_WGMMA_I120 60, 61, 62, 63, 64, 65, 66
#define FB_WGMMA_I128 64, 65, 66, 67, 68, 69, 70
#define FB_WGMMA_I136 68, 69, 70, 71, 72, 73, 74
#define FB_WGMMA_I144 72, 73, 74, 75, 76, 77, 78
#define FB_WGMMA_I152 76, 77, 78, 79, 80, 81, 82
#define FB_WGMMA_I160 80, 81, 82, 83, 84, 85, 86
#define FB_WGMMA_I168 84, 85, 86, 87, 88, 89, 90
#define FB_WGMMA_I176 88, 89, 90, 91, 92, 93, 94
#define FB_WGMMA_I184 92, 93, 94, 95, 96, 97, 98
#define FB_WGMMA_I192 96, 97, 98, 99, 100, 101, 102
#define FB_WGMMA_I200 100, 101, 102, 103, 104, 105, 106
#define FB_WGMMA_I208 104, 105, 106, 107, 108, 109, 110
#define FB_WGMMA_I216 108, 109, 110, 111, 112, 113, 114
#define FB_WGMMA_I224 112, 113, 114, 115, 116, 117, 118
#define FB_WGMMA_I232 116, 117, 118, 119, 120, 121, 122
#define FB_WGMMA_I240 120, 121, 122, 123, 124, 125, 126
#define FB_WGMMA_I248 124, 125, 126, 127, 128, 129, 130
#define FB_WGMMA_I256 128, 129, 130, 131, 132, 133, 134

#define FB_WGMMA(kind, N) FB_WGMMA_16(kind, N, FB_WGMMA_CAT(FB_WGMMA_I, N))
#define FB_WGMMA_FP8(kind, N) FB_WGMMA_8(kind, N, FB_WGMMA_CAT(FB_WGMMA_I, N))
#define FB_WGMMA_CAT(name, N) FB_WGMMA_CAT_(name, N)
#define FB_WGMMA_CAT_(name, N) name##N
#define FB_WGMMA_TEXT(x) FB_WGMMA_TEXT_(x)
#define FB_WGMMA_TEXT_(x) #x
#define FB_WGMMA_16(...) FB_WGMMA_16_(__VA_ARGS__)
#define FB_WGMMA_8(...) FB_WGMMA_8_(__VA_ARGS__)

#define FB_WGMMA_SHARED(kind, N, K, i0, i1, i2, rest, ...)                                     \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #i2                                        \
                 ", 0; wgmma.mma_async.sync.aligned.m64n" FB_WGMMA_TEXT(                       \
                     N) "k" #K ".f32." #kind "." #kind                                         \
                        " {" FB_WGMMA_CAT(FB_WGMMA_T, N) "}, %" #i0 ", %" #i1 ", p, 1, 1" rest \
                                                         "; }"                                 \
                 : FB_WGMMA_CAT(FB_WGMMA_D, N)                                                 \
                 : "l"(a), "l"(b), "r"(int(accumulate))__VA_ARGS__)
#define FB_WGMMA_REGISTERS(kind, N, K, i0, i1, i2, i3, i4, i5, rest, ...)                       \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #i5                                         \
                 ", 0; wgmma.mma_async.sync.aligned.m64n" FB_WGMMA_TEXT(                        \
                     N) "k" #K ".f32." #kind "." #kind                                          \
                        " {" FB_WGMMA_CAT(FB_WGMMA_T, N) "}, {%" #i0 ",%" #i1 ",%" #i2 ",%" #i3 \
                                                         "}, %" #i4 ", p, 1, 1" rest "; }"      \
                 : FB_WGMMA_CAT(FB_WGMMA_D, N)                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b),                          \
                   "r"(int(accumulate))__VA_ARGS__)
#define FB_WGMMA_COMMA ,
#define FB_WGMMA_16_(kind, N, i0, i1, i2, i3, i4, i5, i6)                                     \
    template <int a_along_m, int b_along_n>                                                   \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
        FB_WGMMA_SHARED(kind, N, 16, i0, i1, i2, ", %" #i3 ", %" #i4,                         \
                        FB_WGMMA_COMMA "n"(a_along_m), "n"(b_along_n));                       \
    }                                                                                         \
    template <int b_along_n>                                                                  \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,        \
                                bool accumulate) {                                            \
        FB_WGMMA_REGISTERS(kind, N, 16, i0, i1, i2, i3, i4, i5, ", %" #i6,                    \
                           FB_WGMMA_COMMA "n"(b_along_n));                                    \
    }
#define FB_WGMMA_8_(kind, N, i0, i1, i2, i3, i4, i5, i6)                                      \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) { \
        FB_WGMMA_SHARED(kind, N, 32, i0, i1, i2, "", );                                       \
    }                                                                                         \
    FB_DEVICE void wgmma_##kind(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,        \
                                bool accumulate) {                                            \
        FB_WGMMA_REGISTERS(kind, N, 32, i0, i1, i2, i3, i4, i5, "", );                        \
    }

#endif
