// What two blocks do at the end of a record whose keys they share. Each has the state of all rows,
// of its own keys: the scoring warps tell the other block their rows' bases and sums, and the
// warpgroups that multiply values send half of theirs and add what they receive to the rest.
#pragma once
#include "columns.h"

// A record with all of its keys, of which the block has some (own_word() in load.h).
FB_DEVICE fb_attention_record whole_record(const fb_attention_record& own) {
    fb_attention_record r = own;
    if (FB_SPLIT_KEYS) {
        if (cluster_rank() == 0) r.kv_end = own.first_merge;
        else r.kv_start = own.first_merge;
    }
    return r;
}

// ---- scores

// By one thread of a row.
FB_DEVICE void send_state(const Block& b, int row, float base, float sum) {
    const uint32_t at = b.shared + FB_AT(states) + 8 * row;
    const uint32_t to = map_shared(at, cluster_rank() ^ 1);
    store_cluster_4(to, __float_as_uint(base));
    store_cluster_4(to + 4, __float_as_uint(sum));
}

// By all lanes of a warp that has sent its rows.
FB_DEVICE void trade_states(const Block& b, uint32_t parity) {
    const uint32_t full = b.barrier(FB_AT(barriers.states_full));
    __syncwarp();
    if (lane_now() == 0) mbarrier_arrive_cluster(map_shared(full, cluster_rank() ^ 1));
    mbarrier_wait_cluster(full, parity);
}

// As target_of(), of a row's keys in both blocks; `base` and `sum` are of this one's.
FB_DEVICE Target shared_target(const Block& b, const fb_attention_record& r, int i,
                               float base, float sum, bool writes) {
    const float2 other = b.memory.states[i];
    const float top = fmaxf(base, other.x);
    const float own = exp2_approx(base - top);
    const float total = sum * own + other.y * exp2_approx(other.x - top);
    Target target = target_of(b.p, r, i, top, total, writes && cluster_rank() == 0);
    target.factor *= own;
    return target;
}

// ---- values

// The first of a warpgroup's columns that the block writes.
FB_DEVICE int first_column(int group) {
    const int first = group * (FB_VALUE_DIM / 2);
    return FB_SPLIT_KEYS ? first + int(cluster_rank()) * 64 * own_pieces : first;
}

FB_DEVICE bool writes_lse(int group) {
    return group == 0 && (!FB_SPLIT_KEYS || cluster_rank() == 0);
}

// The second half of a warpgroup's sums to the other block, and to the first what comes from there:
// then that is of all keys, and multiplied by its rows' factors.
FB_DEVICE void share_sums(const Block& b, int group, const SharedEnd& end, Sums& sums) {
    constexpr int count = own_pieces * thread_values;
    const uint32_t other = cluster_rank() ^ 1;
    const uint32_t own = threadIdx.x % 128 * 16;
    float factors[thread_rows];
    FB_UNROLL
    for (int i = 0; i < thread_rows; i++) factors[i] = b.memory.targets[own_row_of(i)].factor;
    const auto factor_of = [&](int i) { return factors[i % thread_values / 4 * 2 + i % 2]; };
    mbarrier_wait_cluster(b.barrier(FB_AT(barriers.rooms_full)), end.parity);
    const uint32_t to = map_shared(b.memory.rooms[group] + own, other);
    FB_UNROLL
    for (int i = 0; i < count; i += 4) {
        uint32_t x[4];
        FB_UNROLL
        for (int j = i; j < i + 4; j++) {
            const float sum = sums[half_pieces / 2 + j / thread_values][j % thread_values];
            x[j - i] = end.none ? 0 : __float_as_uint(sum * factor_of(j));
        }
        store_cluster_16(to + i / 4 * 2048, make_uint4(x[0], x[1], x[2], x[3]));
    }
    __syncwarp();
    const uint32_t parts = b.barrier(FB_AT(barriers.parts_full));
    if (lane_now() == 0) mbarrier_arrive_cluster(map_shared(parts, other));
    mbarrier_wait_cluster(parts, end.parity);
    const uint32_t from = b.shared + FB_AT(halves) + end.half * (half_pieces * piece_bytes) + own;
    FB_UNROLL
    for (int i = 0; i < count; i += 4) {
        const uint4 x = load_shared_16(from + i / 4 * 2048);
        const uint32_t four[4] = {x.x, x.y, x.z, x.w};
        FB_UNROLL
        for (int j = i; j < i + 4; j++) {
            float& sum = sums[j / thread_values][j % thread_values];
            const float taken = __uint_as_float(four[j - i]);
            sum = end.none ? taken : fmaf(sum, factor_of(j), taken);
        }
    }
    fence_proxy_async_shared(); // the next tile comes to this place
    __syncwarp();
    if (lane_now() == 0) release(b.barrier(FB_AT(barriers.half_empty), end.half));
}
