// The warps that widen keys of 8 bits: thirds of rows, as they came, become pieces of halves.
// Scores and values then are those of wide keys.
#pragma once
#include "../../ptx/convert.h"
#include "memory.h"

// Four elements, exactly.
FB_DEVICE void widen_4(uint32_t bytes, uint32_t (&pairs)[2]) {
    e4m3x4_to_f16x4(bytes, pairs);
    if (FB_Q_TYPE == FB_F16) return;
    FB_UNROLL
    for (int i = 0; i < 2; i++) pairs[i] = pack_bf16(f16_low(pairs[i]), f16_high(pairs[i]));
}

// A third of a tile to three pieces: eight lanes take 64 elements of two rows each, which lie in
// different banks.
FB_DEVICE void widen_third(uint32_t from, const uint32_t (&to)[3]) {
    const int lane = lane_now();
    const int row = 2 * (thread_now() / 32 % 8 * 4 + lane / 8) + lane / 4 % 2;
    uint4 bytes[3];
    FB_UNROLL
    for (int c = 0; c < 3; c++)
        bytes[c] = load_shared_16(from + row * third_elements + c * 64 + lane % 4 * 16);
    FB_UNROLL
    for (int c = 0; c < 3; c++) {
        const uint32_t words[4] = {bytes[c].x, bytes[c].y, bytes[c].z, bytes[c].w};
        FB_UNROLL
        for (int i = 0; i < 2; i++) {
            uint32_t low[2];
            uint32_t high[2];
            widen_4(words[2 * i], low);
            widen_4(words[2 * i + 1], high);
            store_shared_16(to[c] + row * 128 + ((lane % 4 * 2 + i ^ row & 7) << 4),
                            make_uint4(low[0], low[1], high[0], high[1]));
        }
    }
}

FB_DEVICE void widen(const Block& b) {
    Ring<third_slots> third;
    Ring<half_slots> half;
    Ring<rope_slots> rope;
    Turn<work_slots> works;
    for (;; works.advance()) {
        const MlaWork& work = wait_work(b, works);
        if (work.ends()) return;
        const int tiles = work.tiles();
        FB_NO_UNROLL
        for (int tile = 0; tile < tiles; tile++) {
            FB_UNROLL
            for (int i = 0; i < 3; i++) {
                Ring<half_slots> right = half;
                right.advance();
                if (i == 0)
                    mbarrier_wait(b.barrier(FB_AT(barriers.half_empty), half.slot()),
                                  half.parity() ^ 1);
                if (i == 1)
                    mbarrier_wait(b.barrier(FB_AT(barriers.half_empty), right.slot()),
                                  right.parity() ^ 1);
                if (i == 2)
                    mbarrier_wait(b.barrier(FB_AT(barriers.rope_empty), rope.slot()),
                                  rope.parity() ^ 1);
                mbarrier_wait(b.barrier(FB_AT(barriers.third_full), third.slot()),
                              third.parity());
                const uint32_t from = b.shared + FB_AT(thirds) + third.slot() * third_bytes;
                uint32_t to[3];
                FB_UNROLL
                for (int c = 0; c < 3; c++) {
                    const int piece = 3 * i + c;
                    const uint32_t slot = piece < half_pieces ? half.slot() : right.slot();
                    to[c] = b.shared + FB_AT(halves) +
                            (slot * half_pieces + piece % half_pieces) * piece_bytes;
                    if (piece == 2 * half_pieces)
                        to[c] = b.shared + FB_AT(ropes) + rope.slot() * piece_bytes;
                }
                widen_third(from, to);
                fence_proxy_async_shared();
                __syncwarp();
                if (lane_now() == 0) {
                    mbarrier_arrive(b.barrier(FB_AT(barriers.third_empty), third.slot()));
                    if (i > 0)
                        mbarrier_arrive(b.barrier(FB_AT(barriers.half_full),
                                                  i == 1 ? half.slot() : right.slot()));
                }
                third.advance();
            }
            half.advance();
            half.advance();
            rope.advance();
        }
        if (lane_now() == 0) release_work(b, works.slot());
    }
}
