// Rows times a matrix of a variant, in f32, by the cores: a warp takes rows of one head, and
// a lane every 32nd column of its share. What the matrix leaves of a row follows behind.
#pragma once
#include "../ptx/base.h"
#include "variant.h"

// Columns of a lane at a time.
constexpr int lane_columns = 4;

// `count` rows, from x on and `stride` floats apart, of `width` elements: a warp's share of their
// columns, with store_of(row)(column, value) for each of a lane.
template <int Rows, class M, class StoreOf>
FB_DEVICE void multiply_rows(const M& m, const float* x, int stride, int count, int width,
                             int warp, int warps, StoreOf store_of) {
    const int total = m.columns + width - m.rows;
    constexpr int step = 32 * lane_columns;
    FB_NO_UNROLL
    for (int first = warp * step + int(threadIdx.x % 32); first < total; first += warps * step) {
        float sums[Rows][lane_columns] = {};
        FB_NO_UNROLL
        for (int i = 0; i < m.rows; i++) {
            float w[lane_columns];
            FB_UNROLL
            for (int n = 0; n < lane_columns; n++) {
                const int column = first + 32 * n;
                w[n] = column < m.columns ? m.at(i, column) : 0;
            }
            FB_UNROLL
            for (int r = 0; r < Rows; r++) {
                const float own = x[(r < count ? r : 0) * stride + i];
                FB_UNROLL
                for (int n = 0; n < lane_columns; n++) sums[r][n] += own * w[n];
            }
        }
        FB_UNROLL
        for (int r = 0; r < Rows; r++) {
            if (r >= count) continue;
            const auto put = store_of(r);
            FB_UNROLL
            for (int n = 0; n < lane_columns; n++) {
                const int column = first + 32 * n;
                if (column >= total) continue;
                const int left = m.rows + column - m.columns;
                put(column, column < m.columns ? sums[r][n] : x[r * stride + left]);
            }
        }
    }
}
