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

// A lane's first address in a tile of fp8 rows, keys or values.
template <class Layout, int Rows> FB_DEVICE uint32_t wide_base(uint32_t tile) {
    return tile + Layout::at(lane_now() % Rows, 0);
}

template <int A, int B>
FB_DEVICE void copy_words(const uint32_t (&from)[A][B], uint32_t (&to)[A][B]) {
    FB_UNROLL
    for (int i = 0; i < A * B; i++) to[i / B][i % B] = from[i / B][i % B];
}

// N matrices of eight rows.
template <int N> FB_DEVICE void load_matrices(uint32_t (&r)[N], uint32_t address) {
    if constexpr (N == 2) ldmatrix_x2(r, address);
    else ldmatrix_x4(r, address);
}

template <int N> FB_DEVICE void load_matrices_trans(uint32_t (&r)[N], uint32_t address) {
    if constexpr (N == 2) ldmatrix_x2_trans(r, address);
    else ldmatrix_x4_trans(r, address);
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

// The left operand of the second product: 16 keys' probabilities, rounded.
template <int M, int N>
FB_DEVICE void round_scores(const float (&s)[M][N][4], int n, uint32_t (&a)[M][4]) {
    FB_UNROLL
    for (int i = 0; i < 4 * M; i++) {
        const float(&x)[4] = s[i / 4][n + i % 4 / 2];
        a[i / 4][i % 4] = pack_pair<FB_Q_TYPE>(x[i % 2 * 2], x[i % 2 * 2 + 1]);
    }
}

// out += probabilities, rounded, x values; values: row_base() of the first.
template <class Layout, int M, int N, int C>
FB_DEVICE void add_values(const float (&s)[M][N][4], uint32_t values, float (&out)[M][C][4]) {
    FB_UNROLL
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4];
        round_scores(s, n, a);
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

// ---- turned: keys, and then columns of values, are the rows of products

// Four fp8 of a register to two pairs of f16: those of the lower half, and of the upper half.
FB_DEVICE void widen_4(uint32_t bytes, uint32_t (&pairs)[2]) {
    if (FB_KV_TYPE == FB_F8E4M3) e4m3x4_to_f16x4(bytes, pairs);
    else e5m2x4_to_f16x4(bytes, pairs);
}

// The queries' 16 elements of one step, of M times eight rows, as right operands; queries:
// key_base() of the first.
template <class Layout, int M>
FB_DEVICE void load_turned_queries(uint32_t queries, int step, uint32_t (&q)[M][2]) {
    if constexpr (M == 1) return ldmatrix_x2(q[0], Layout::step(queries, 0, step * 2));
    FB_UNROLL
    for (int m = 0; m + 1 < M; m += 2) {
        uint32_t b[4];
        ldmatrix_x4(b, Layout::step(queries, m * 8, step * 2));
        FB_UNROLL
        for (int i = 0; i < 4; i++) q[m + i / 2][i % 2] = b[i];
    }
}

// scores += keys x the queries' 16 elements of one step; keys: row_base() of the first.
template <class Layout, int M, int N>
FB_DEVICE void add_turned_scores(const uint32_t (&q)[M][2], uint32_t keys, int step,
                                 float (&scores)[M][N][4]) {
    FB_UNROLL
    for (int n = 0; n < N; n++) {
        uint32_t a[4];
        ldmatrix_x4(a, Layout::step(keys, n * 16, step * 2));
        FB_UNROLL
        for (int m = 0; m < M; m++) multiply(scores[m][n], a, q[m][0], q[m][1]);
    }
}

// The same of fp8 keys: a lane gets four neighbours of a key where 16-bit elements would be two,
// and has queries in that order (widen_queries); keys: wide_base().
template <class Layout, int M, int N>
FB_DEVICE void add_wide_scores(const uint32_t (&q)[M][2], uint32_t keys, int step,
                               float (&scores)[M][N][4]) {
    uint32_t raw[2 * N];
    load_matrices(raw, Layout::step(keys, 0, step));
    FB_UNROLL
    for (int n = 0; n < N; n++) {
        uint32_t low[2], high[2];
        widen_4(raw[2 * n], low);
        widen_4(raw[2 * n + 1], high);
        const uint32_t a[4] = {low[0], high[0], low[1], high[1]};
        FB_UNROLL
        for (int m = 0; m < M; m++) mma_m16n8k16_f16(scores[m][n], a, q[m][0], q[m][1]);
    }
}

// The right operand of the second product: 16 keys' probabilities, rounded.
template <int Type, int M, int N>
FB_DEVICE void turn_scores(const float (&s)[M][N][4], int n, uint32_t (&b)[M][2]) {
    FB_UNROLL
    for (int i = 0; i < 2 * M; i++) {
        const float(&x)[4] = s[i / 2][n];
        b[i / 2][i % 2] = movmatrix_trans(pack_pair<Type>(x[i % 2 * 2], x[i % 2 * 2 + 1]));
    }
}

// out += values x probabilities, rounded; values: key_base() of the first.
template <class Layout, int M, int N, int C>
FB_DEVICE void add_turned_values(const float (&s)[M][N][4], uint32_t values,
                                 float (&out)[M][C][4]) {
    FB_UNROLL
    for (int n = 0; n < N; n++) {
        uint32_t b[M][2];
        turn_scores<FB_Q_TYPE>(s, n, b);
        FB_UNROLL
        for (int c = 0; c < C; c++) {
            uint32_t a[4];
            ldmatrix_x4_trans(a, Layout::step(values, n * 16, c * 2));
            FB_UNROLL
            for (int m = 0; m < M; m++) multiply(out[m][c], a, b[m][0], b[m][1]);
        }
    }
}

// The same of fp8 values: a lane gets two neighbours of two keys where 16-bit elements would be one
// of each, so that of 16 columns the even ones are the upper rows of a product; values:
// wide_base().
template <class Layout, int M, int N, int C>
FB_DEVICE void add_wide_values(const float (&s)[M][N][4], uint32_t values,
                               float (&out)[M][C][4]) {
    uint32_t b[N][M][2];
    FB_UNROLL
    for (int n = 0; n < N; n++) turn_scores<FB_F16>(s, n, b[n]);
    FB_UNROLL
    for (int c = 0; c < C; c++) {
        uint32_t raw[2 * N];
        load_matrices_trans(raw, Layout::step(values, 0, c));
        FB_UNROLL
        for (int n = 0; n < N; n++) {
            uint32_t low[2], high[2];
            widen_4(__byte_perm(raw[2 * n], 0, 0x3120), low);
            widen_4(__byte_perm(raw[2 * n + 1], 0, 0x3120), high);
            const uint32_t a[4] = {low[0], low[1], high[0], high[1]};
            FB_UNROLL
            for (int m = 0; m < M; m++) mma_m16n8k16_f16(out[m][c], a, b[n][m][0], b[n][m][1]);
        }
    }
}
