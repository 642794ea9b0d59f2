// The two products, from tiles in shared memory, by one warp.
#pragma once
#include "../../common/element.h"
#include "../../ptx/ldmatrix.h"
#include "../../ptx/mma.h"
#include "facts.h"

FB_DEVICE void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if (FB_Q_TYPE == FB_F16) mma_m16n8k16_f16(d, a, b0, b1);
    else mma_m16n8k16_bf16(d, a, b0, b1);
}

// A lane's first address in a tile of rows that are the left operand, or of values.
template <class Layout> FB_DEVICE uint32_t row_base(uint32_t tile, int first_chunk = 0) {
    const int lane = lane_now();
    return tile + Layout::at(lane % 16, first_chunk + lane / 16);
}

// A lane's first address in a tile of keys: two blocks of 8 keys, two of 8 elements.
template <class Layout> FB_DEVICE uint32_t key_base(uint32_t tile) {
    const int lane = lane_now();
    return tile + Layout::at(lane % 8 + lane / 16 * 8, lane / 8 % 2);
}

template <int A, int B> FB_DEVICE void clear(float (&x)[A][B][4]) {
    FB_UNROLL
    for (int a = 0; a < A; a++) {
        FB_UNROLL
        for (int b = 0; b < B; b++) {
            FB_UNROLL
            for (int i = 0; i < 4; i++) x[a][b][i] = 0;
        }
    }
}

// scores += the queries' 16 elements of one step x keys; keys: key_base() of the first.
template <class Layout, int M, int N>
FB_DEVICE void add_scores(const uint32_t (&q)[M][4], uint32_t keys, int step,
                          float (&scores)[M][N][4]) {
    FB_UNROLL
    for (int n = 0; n < N; n += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, Layout::step(keys, n * 8, step * 2));
        FB_UNROLL
        for (int m = 0; m < M; m++) {
            multiply(scores[m][n], q[m], b[0], b[1]);
            multiply(scores[m][n + 1], q[m], b[2], b[3]);
        }
    }
}

// out += probabilities, rounded, x values; values: row_base() of the first.
template <class Layout, int M, int N, int C>
FB_DEVICE void add_values(const float (&s)[M][N][4], uint32_t values, float (&out)[M][C][4]) {
    FB_UNROLL
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4];
        FB_UNROLL
        for (int m = 0; m < M; m++) {
            FB_UNROLL
            for (int i = 0; i < 4; i++) {
                const float(&x)[4] = s[m][n + i / 2];
                a[m][i] = pack_pair<FB_Q_TYPE>(x[i % 2 * 2], x[i % 2 * 2 + 1]);
            }
        }
        FB_UNROLL
        for (int c = 0; c < C; c += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, Layout::step(values, n * 8, c));
            FB_UNROLL
            for (int m = 0; m < M; m++) {
                multiply(out[m][c], a[m], b[0], b[1]);
                multiply(out[m][c + 1], a[m], b[2], b[3]);
            }
        }
    }
}
