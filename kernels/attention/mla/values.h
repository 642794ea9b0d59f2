// The two warpgroups that multiply values: sums += weights x values, each for one half of the
// columns. The first begins as soon as the weights are there, beside the next scores, and frees its
// half early; the second after the next scores, so that the tensor cores have work during the next
// softmax. The sums of 64 rows leave few registers: everything else lives short. What they are, and
// their products, come from sums.h or turned.h.
#pragma once
#include "../../ptx/pdl.h"
#include "memory.h"

// Whatever lies behind the record's last token: 0 * NaN is NaN.
FB_DEVICE void clear_tail(const Block& b, uint32_t slot, int kept, int group) {
    constexpr int chunks = piece_span / 16;
    const uint32_t half = b.shared + FB_AT(halves) + slot * (half_pieces * piece_bytes);
    FB_NO_UNROLL
    for (int i = thread_now() % 128; i < (FB_KV_TILE - kept) * half_pieces * chunks; i += 128)
        store_shared_16(half + i / chunks % half_pieces * piece_bytes +
                            (kept + i / (chunks * half_pieces)) * piece_span + i % chunks * 16,
                        make_uint4(0, 0, 0, 0));
    fence_proxy_async_shared();
    if (group == 0) barrier_sync(1, 128); // constants: else all barriers count as used
    else barrier_sync(2, 128);
}

// ---- a warpgroup, 0 or 1

FB_DEVICE void multiply_values(const Block& b, int group) {
    Ring<half_slots> half;
    Turn<weight_slots> turn;
    Turn<work_slots> works;
    Sums sums;
    pdl_wait();
    FB_NO_UNROLL
    for (;; works.advance()) {
        const MlaWork& work = wait_work(b, works);
        if (work.ends()) return;
        const int tiles = work.tiles();
        const int tail = work.record.kv_end - work.record.kv_start - (tiles - 1) * FB_KV_TILE;
        if (tiles > 0) {
            FB_UNROLL
            for (int from = 0; from < kept_pieces; from += half_pieces) half.advance();
            if (group == 1) half.advance();
        }
        FB_NO_UNROLL
        for (int tile = 0; tile < tiles; tile++) {
            // Both halves are there as well: who stored the weights has waited for them.
            mbarrier_wait(b.barrier(FB_AT(barriers.weights_full), turn.slot()), turn.parity());
            if (tile == tiles - 1 && tail < FB_KV_TILE) clear_tail(b, half.slot(), tail, group);
            if (tile > 0) shrink(b, turn.slot(), sums);
            if (group == 1 && staggered)
                mbarrier_wait(b.barrier(FB_AT(barriers.go), turn.slot()), turn.parity());
            multiply_tile(b, half.slot(), turn.slot(), tile == 0, sums);
            if (threadIdx.x % 32 == 0) {
                release(b.barrier(FB_AT(barriers.half_empty), half.slot()));
                mbarrier_arrive(b.barrier(FB_AT(barriers.weights_empty), turn.slot()));
            }
            half.advance();
            if (tile < tiles - 1 || group == 0) half.advance();
            turn.advance();
        }
        mbarrier_wait(b.barrier(FB_AT(barriers.target_full)), works.count % 2);
        if (FB_SPLIT_KEYS && group == 1) half.advance();
        write_sums(b, work.record, group, {works.count % 2, half.slot(), tiles == 0}, sums);
        if (FB_SPLIT_KEYS) half.advance();
        if (FB_SPLIT_KEYS && group == 0) half.advance();
        __syncwarp();
        if (lane_now() == 0) {
            mbarrier_arrive(b.barrier(FB_AT(barriers.target_empty)));
            release_work(b, works.slot());
        }
    }
}
