// Two blocks of a cluster have the same rows, each with half of their keys: the second one's state
// of them comes to the first, thread by thread.
#pragma once
#include "store.h"

// Piece i of what a thread has.
FB_DEVICE uint4 half_piece(int i, const RowSums& rows, const Sums& sums) {
    if (i == half_pieces - 1)
        return make_uint4(__float_as_uint(rows.base[0]), __float_as_uint(rows.base[1]),
                          __float_as_uint(rows.sum[0]), __float_as_uint(rows.sum[1]));
    const float* x = &sums[4 * i];
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                      __float_as_uint(x[3]));
}

// Adds the other half; `from`: its first piece.
FB_DEVICE void add_half(uint32_t from, RowSums& rows, Sums& sums) {
    constexpr uint32_t step = 128 * 16;
    const uint4 known = load_shared_16(from + (half_pieces - 1) * step);
    const float base[2] = {__uint_as_float(known.x), __uint_as_float(known.y)};
    const float sum[2] = {__uint_as_float(known.z), __uint_as_float(known.w)};
    float own[2], by[2];
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const float top = fmaxf(base[h], rows.base[h]);
        own[h] = exp2_approx(rows.base[h] - top);
        by[h] = exp2_approx(base[h] - top);
        rows.base[h] = top;
        rows.sum[h] = rows.sum[h] * own[h] + sum[h] * by[h];
    }
    FB_UNROLL
    for (int i = 0; i < half_pieces - 1; i++) {
        const uint4 x = load_shared_16(from + i * step);
        const float four[4] = {__uint_as_float(x.x), __uint_as_float(x.y), __uint_as_float(x.z),
                               __uint_as_float(x.w)};
        FB_UNROLL
        for (int e = 0; e < 4; e++)
            sums[4 * i + e] = sums[4 * i + e] * own[e / 2] + four[e] * by[e / 2];
    }
}

template <bool> struct JoinerOf {
    Turn<1> turn; // of tasks

    // Of a task's rows; false: the other block stores them.
    template <class Memory> FB_DEVICE bool join(Memory& shared, RowSums& rows, Sums& sums) {
        const int thread = thread_now() % 128;
        const uint32_t pieces = shared_address(&shared.half[0][thread]);
        const uint32_t full = shared_address(&shared.half_full);
        const uint32_t empty = shared_address(&shared.half_empty);
        const uint32_t parity = turn.parity();
        turn.advance();
        if (cluster_rank() > 0) {
            mbarrier_wait(empty, parity ^ 1);
            FB_UNROLL
            for (int i = 0; i < half_pieces; i++)
                store_async_16(map_shared(pieces, 0) + i * 128 * 16, half_piece(i, rows, sums),
                               map_shared(full, 0));
            return false;
        }
        if (thread == 0) mbarrier_arrive_expect(full, sizeof shared.half);
        mbarrier_wait(full, parity);
        add_half(pieces, rows, sums);
        __syncwarp();
        if (lane_now() == 0) mbarrier_arrive_cluster_read(map_shared(empty, 1));
        return true;
    }
};
template <> struct JoinerOf<false> {
    FB_DEVICE bool join(Shared&, RowSums&, Sums&) { return true; }
};
using Joiner = JoinerOf<splits_keys>;

// The record with the keys of both blocks: the first one has the last of them.
template <class T> FB_DEVICE decltype(auto) whole_record(const T& task) {
    if constexpr (splits_keys) {
        fb_attention_record whole = task.record;
        whole.kv_start = task.first_key;
        return whole;
    } else {
        return (task.record);
    }
}
