// Sums of wgmma that go from registers to memory, which need no more than scales. A thread has two
// rows of them, eight apart, and of each eight columns two.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../common/element.h"
#include "scales.h"

// Words of a quad, four of each lane, change places: word i of lane j with word j of lane i.
template <class T> FB_DEVICE void turn_quad(T (&words)[4]) {
    const int quad = threadIdx.x % 4;
    FB_UNROLL
    for (int bit = 1; bit <= 2; bit *= 2) {
        FB_UNROLL
        for (int i = 0; i < 4; i++) {
            if (i & bit) continue;
            const bool upper = quad & bit;
            const T got = __shfl_xor_sync(~0u, upper ? words[i] : words[i | bit], bit);
            if (upper) words[i] = got;
            else words[i | bit] = got;
        }
    }
}

// Type of out where sums need no more than scales: that of x, or bf16.
template <int type> constexpr int plain_of = type == FB_F8E4M3 ? FB_BF16 : type;

// Whether sums are only scaled and rounded to 16 bits, and stored 16 bytes at a time.
template <int type> FB_DEVICE bool is_plain(const fb_matmul_params& p) {
    return p.out_dtype == plain_of<type> && p.bias == 0 && p.residual == 0 &&
           p.activation == FB_ACTIVATION_NONE && !p.gated &&
           ((p.out | 2 * p.out_stride | 2 * p.outputs) & 15) == 0;
}

// By scales that no step had; `row` is a thread's first, `column` the first of all sums.
template <class I, int n>
FB_DEVICE void scale_sums(const fb_matmul_params& p, const I& item, int32_t row, int32_t column,
                          float (&sums)[n]) {
    float x[2];
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int32_t x_row = item.x_row(p, row + 8 * h);
        x[h] = x_row < 0 ? 1 : result_x_scale(p, x_row);
    }
    FB_UNROLL
    for (int i = 0; i < n; i += 4) {
        // Eight columns are there, or not one of them.
        const bool there = column + 2 * i < p.outputs;
        const int32_t own = there ? column + 2 * i + threadIdx.x % 4 * 2 : item.output;
        FB_UNROLL
        for (int c = 0; c < 2; c++) {
            const float weight = result_weight_scale(p, item.first_of(p, false) + own + c);
            sums[i + c] *= x[0] * weight;
            sums[i + 2 + c] *= x[1] * weight;
        }
    }
}

// Rounded to `type`, 16 bytes a lane, in rows before `end`.
template <int type, int n>
FB_DEVICE void store_plain(const fb_matmul_params& p, int32_t end, int32_t row, int32_t column,
                           const float (&sums)[n]) {
    constexpr int blocks = n / 4;
    const int lane = threadIdx.x % 4;
    FB_UNROLL
    for (int first = 0; first < blocks; first += 4) {
        const int32_t at = column + (first + lane) * chunk;
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            uint32_t pairs[4] = {};
            FB_UNROLL
            for (int j = 0; j < 4 && first + j < blocks; j++) {
                const float* const x = sums + 4 * (first + j) + 2 * h;
                pairs[j] = pack_pair<type>(x[0], x[1]);
            }
            turn_quad(pairs);
            const int32_t own = row + 8 * h;
            if (first + lane >= blocks || own >= end || at >= p.outputs) continue;
            store_16(items<void>(p.out + 2 * (own * p.out_stride + at)),
                     make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]));
        }
    }
}
