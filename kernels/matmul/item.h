// What kernels of products share: which rows an item has, and what follows its sums.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../common/activate.h"
#include "../common/chunk.h"

// ---- facts

// Rows [first, end) of out.
struct ExpertRows {
    int32_t first = 0, end = 0;
};

// None where the list says what cannot be.
FB_DEVICE ExpertRows expert_rows(const fb_matmul_params& p, int32_t expert) {
    const int32_t* const starts = items<const int32_t>(p.starts);
    const int32_t first = starts[expert] > 0 ? starts[expert] : 0;
    const int32_t end = starts[expert + 1] < p.row_count ? starts[expert + 1] : p.row_count;
    return {first, end > first ? end : first};
}

// A block of out, by `most` rows of the weight and some rows of x. Blocks of the same weight rows
// follow each other, an expert's before the next one's. Gated, half of the weight's rows are gates,
// half go through them.
template <int most> struct Item {
    int32_t row;    // first of out
    int32_t end;    // past the last; no rows where it is not above `row`
    int32_t output; // first column of out
    int32_t width;  // columns of out that there is room for
    int32_t expert;

    // The one of this index, by whole warps. With `band`, so many blocks of rows follow each other
    // through all outputs before the next ones do.
    FB_DEVICE Item(const fb_matmul_params& p, int32_t most_rows, int32_t index = blockIdx.x,
                   int32_t band = 0) {
        width = p.gated ? most / 2 : most;
        row = 0;
        end = p.row_count;
        expert = 0;
        int32_t blocks = row_blocks(p, most_rows);
        if (p.starts != 0) blocks = find_expert(p, index, most_rows);
        if (blocks > 0) place(p, index, blocks, most_rows, band);
    }

    // Blocks of rows; of experts, whose last rows may not fill one, at most.
    static FB_DEVICE int32_t row_blocks(const fb_matmul_params& p, int32_t most_rows) {
        return (p.row_count + most_rows - 1) / most_rows + (p.starts != 0 ? p.experts - 1 : 0);
    }

    // Blocks of columns.
    static FB_DEVICE int32_t column_blocks(const fb_matmul_params& p) {
        const int32_t width = p.gated ? most / 2 : most;
        return (p.outputs + width - 1) / width;
    }

    static FB_DEVICE int32_t count(const fb_matmul_params& p, int32_t most_rows) {
        return row_blocks(p, most_rows) * column_blocks(p);
    }

    // The place of this index among so many blocks of rows, which begin at `row`.
    FB_DEVICE void place(const fb_matmul_params& p, int32_t index, int32_t blocks,
                         int32_t most_rows, int32_t band) {
        int32_t first = 0;
        if (band > 0 && blocks > band) {
            const int32_t columns = column_blocks(p);
            first = index / (band * columns) * band;
            index -= first * columns;
            blocks = blocks - first < band ? blocks - first : band;
        }
        output = index / blocks * width;
        row += (first + index % blocks) * most_rows;
    }

    // The expert of this index, and its place there: lanes count the blocks of an expert's rows
    // each. Past the last one there are no rows.
    FB_DEVICE int32_t find_expert(const fb_matmul_params& p, int32_t& index, int32_t most_rows) {
        const int32_t lane = threadIdx.x % 32, columns = column_blocks(p);
        output = end = 0;
        for (int32_t first = 0; first < p.experts; first += 32) {
            ExpertRows rows;
            if (first + lane < p.experts) rows = expert_rows(p, first + lane);
            const int32_t blocks = (rows.end - rows.first + most_rows - 1) / most_rows;
            int32_t sum = blocks;
            FB_UNROLL
            for (int distance = 1; distance < 32; distance *= 2) {
                const int32_t before = __shfl_up_sync(~0u, sum, distance);
                if (lane >= distance) sum += before;
            }
            const uint32_t has = __ballot_sync(~0u, sum * columns > index);
            if (has != 0) {
                const int owner = __ffs(int(has)) - 1;
                expert = first + owner;
                index -= __shfl_sync(~0u, sum - blocks, owner) * columns;
                row = __shfl_sync(~0u, rows.first, owner);
                end = __shfl_sync(~0u, rows.end, owner);
                return __shfl_sync(~0u, blocks, owner);
            }
            index -= __shfl_sync(~0u, sum, 31) * columns;
        }
        return 0;
    }

    // Row of the weight for sum `i` of the item, -1 past the last.
    FB_DEVICE int32_t weight_row(const fb_matmul_params& p, int i) const {
        const bool is_up = i >= width;
        const int32_t column = output + (is_up ? i - width : i);
        if (column >= p.outputs) return -1;
        return first_of(p, is_up) + column;
    }

    // Row of the weight and its bias for column 0 of out.
    FB_DEVICE int32_t first_of(const fb_matmul_params& p, bool is_up) const {
        return (p.gated ? 2 * expert + is_up : expert) * p.outputs;
    }

    // Row of x for a row of out, -1 where there is none.
    FB_DEVICE int32_t x_row(const fb_matmul_params& p, int32_t out_row) const {
        if (out_row >= end) return -1;
        if (p.rows == 0) return out_row;
        const int32_t of_x = items<const int32_t>(p.rows)[out_row];
        return of_x < p.x_row_count ? of_x : -1;
    }
};

// each(item) of those that a cluster of `size` blocks takes in turn and that have rows.
template <int most, class Each>
FB_DEVICE void each_item(const fb_matmul_params& p, int32_t most_rows, int32_t size, int32_t band,
                         Each each) {
    const int32_t count = Item<most>::count(p, most_rows);
    FB_NO_UNROLL
    for (int32_t i = blockIdx.x / size; i < count; i += gridDim.x / size) {
        const Item<most> item(p, most_rows, i, band);
        if (item.row < item.end) each(item);
    }
}

// ---- store

// Up to a chunk of outputs of a row: `gate` are their sums, `up` those of the second half.
template <int most>
FB_DEVICE void finish_chunk(const fb_matmul_params& p, const Item<most>& item, int32_t row,
                            int32_t output, const float* gate, const float* up) {
    const int32_t left = p.outputs - output;
    const int32_t count = left < chunk ? left : chunk;
    if (row >= item.end || count <= 0) return;
    float y[chunk];
    FB_UNROLL
    for (int i = 0; i < chunk; i++) y[i] = gate[i];
    // The gate's bias, that of the second half, the residual. What loads a chunk of any type is
    // much code: alone, and waited for, a kernel has it once.
    FB_ALONE_NO_UNROLL
    for (int turn = 0; turn < 3; turn++) {
        const bool is_up = turn == 1, is_residual = turn == 2;
        if (is_up && !p.gated) continue;
        float x[chunk];
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = is_up ? up[i] : y[i];
        const uint64_t added = is_residual ? p.residual : p.bias;
        if (added != 0) {
            const int32_t dtype = is_residual ? p.residual_dtype : p.bias_dtype;
            const int64_t from = is_residual ? row * p.residual_stride : item.first_of(p, is_up);
            float other[chunk];
            load_chunk(dtype, added + element_bytes(dtype) * (from + output), count, other);
            FB_UNROLL
            for (int i = 0; i < chunk; i++) x[i] += other[i];
        }
        FB_UNROLL
        for (int i = 0; i < chunk; i++) y[i] = is_up ? y[i] * x[i] : x[i];
        if (turn > 0) continue;
        FB_UNROLL
        for (int i = 0; i < chunk; i++) y[i] = activate(p.activation, y[i]);
    }
    const int64_t at = row * p.out_stride + output;
    store_chunk(p.out_dtype, p.out + element_bytes(p.out_dtype) * at, count, y);
}
