// The two warpgroups that multiply values: sums += weights x values, each for one half of the
// columns. The first begins as soon as the weights are there, beside the next scores, and frees its
// half early; the second after the next scores, so that the tensor cores have work during the next
// softmax. The 128 sums leave few registers: everything else lives short.
#pragma once
#include "memory.h"
#include "products.h"

// ---- one tile

// Whatever lies behind the record's last token: 0 * NaN is NaN.
FB_DEVICE void clear_tail(const Block& b, uint32_t slot, int kept, int group) {
    const uint32_t half = b.shared + FB_AT(halves) + slot * (half_pieces * piece_bytes);
    FB_NO_UNROLL
    for (int i = thread_now() % 128; i < (FB_KV_TILE - kept) * 32; i += 128)
        store_shared_16(half + i / 8 % half_pieces * piece_bytes + (kept + i / 32) * 128 +
                            i % 8 * 16,
                        make_uint4(0, 0, 0, 0));
    fence_proxy_async_shared();
    if (group == 0) barrier_sync(1, 128); // constants: else all barriers count as used
    else barrier_sync(2, 128);
}

FB_DEVICE void shrink(const Block& b, uint32_t slot, float (&sums)[2][64]) {
    const float2 factor = b.memory.factors[slot][threadIdx.x % 128 / 4];
    if (!__any_sync(~0u, factor.x != 1 || factor.y != 1)) return;
    FB_UNROLL
    for (int j = 0; j < 128; j++) sums[j / 64][j % 64] *= j % 4 < 2 ? factor.x : factor.y;
}

FB_DEVICE void multiply_tile(const Block& b, uint32_t half, uint32_t turn, bool first,
                             float (&sums)[2][64]) {
    const uint64_t weights = row_operand(b.shared + FB_AT(weights) + turn * piece_bytes);
    const uint64_t values =
        value_operand(b.shared + FB_AT(halves) + half * (half_pieces * piece_bytes));
    wgmma_fence();
    FB_UNROLL
    for (int k = 0; k < 8; k++) // 128 columns, 16 tokens each
        add_weighted(sums[k / 4], weights + operand_step(k % 4 * 32),
                     values + operand_step(k / 4 * 2 * piece_bytes + k % 4 * 2048),
                     k % 4 > 0 || !first);
    wgmma_commit();
    wgmma_wait<0>();
}

// ---- the record's rows

FB_DEVICE void write_sums(const Block& b, bool partial, int group, const float (&sums)[2][64]) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = thread_now() % 128 / 32 * 16 + own_row() + 8 * h;
        const Target target = b.memory.targets[row];
        if (target.values == 0) continue;
        RowTarget to = {};
        to.values = reinterpret_cast<uint8_t*>(target.values);
        to.factor = target.factor;
        to.empty = target.factor == 0;
        to.partial = partial;
        FB_UNROLL
        for (int j = 0; j < 32; j++)
            write_pair(b.p, to, group * (FB_VALUE_DIM / 2) + j * 8 + own_key(),
                       sums[j / 16][j % 16 * 4 + 2 * h], sums[j / 16][j % 16 * 4 + 2 * h + 1]);
    }
}

// ---- a warpgroup, 0 or 1

FB_DEVICE void multiply_values(const Block& b, int group) {
    Ring<half_slots> half;
    Turn<weight_slots> turn;
    Turn<work_slots> works;
    float sums[2][64];
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
            if (group == 1)
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
        write_sums(b, work.record.partial_row >= 0, group, sums);
        __syncwarp();
        if (lane_now() == 0) {
            mbarrier_arrive(b.barrier(FB_AT(barriers.target_empty)));
            release_work(b, works.slot());
        }
    }
}
