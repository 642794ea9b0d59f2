// What both kinds of turned products share (turned.h).
#pragma once
#include "memory.h"
#include "products.h"

FB_WGMMA(bf16, FB_QUERY_TILE)
FB_WGMMA(f16, FB_QUERY_TILE)

// Values of a thread for 64 tokens, and rows that they belong to.
constexpr int thread_values = FB_QUERY_TILE / 2;
constexpr int thread_rows = FB_QUERY_TILE / 4;

// Of a warpgroup that multiplies values: four times 64 elements.
using Sums = float[half_pieces][thread_values];

// Row `i` of a thread's.
FB_DEVICE int own_row_of(int i) { return i / 2 * 8 + own_key() + i % 2; }

FB_DEVICE int score_warp() { return int(threadIdx.x) % 128 / 32; }

// The next half, when it is there.
FB_DEVICE uint32_t next_half(const Block& b, Ring<half_slots>& half) {
    mbarrier_wait(b.barrier(FB_AT(barriers.half_full), half.slot()), half.parity());
    const uint32_t at = FB_AT(halves) + half.slot() * (half_pieces * piece_bytes);
    half.advance();
    return b.shared + at;
}
