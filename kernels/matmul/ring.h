// Tiles of two operands on their way to wgmma (sm_90a): a warp loads them by bulk copies into a
// ring of stages, warpgroups multiply them. A stage has 128 bytes of each row, which are the inputs
// of a step, under the swizzle of that span.
#pragma once
#include "../ptx/barrier.h"
#include "../ptx/base.h"
#include "../ptx/cluster.h"
#include "../ptx/fence.h"
#include "../ptx/mbarrier.h"
#include "../ptx/memory.h"
#include "../ptx/tma.h"
#include "../ptx/wgmma.h"

// ---- facts

constexpr int multiplying_warps = 8; // two warpgroups
constexpr int group_rows = 64; // of the first operand, by one wgmma

constexpr int span = 128;
constexpr uint32_t eight_rows = 8 * span;
constexpr int product_bytes = 32; // of a row, by one wgmma

// Inputs of a step.
template <int type> constexpr int step_of = type == FB_F8E4M3 ? 128 : 64;

// ---- shared memory

template <int first_rows_, int second_rows_, int stages_> struct Ring {
    static constexpr int first_bytes = first_rows_ * span;
    static constexpr int second_bytes = second_rows_ * span;
    static constexpr int stages = stages_;

    alignas(1024) unsigned char first[stages][first_bytes];
    unsigned char second[stages][second_bytes];
    uint64_t full[stages];
    uint64_t empty[stages]; // in all blocks that load this one

    // By one thread; so many warps multiply a stage, in all blocks that it is loaded by, and so
    // many copy rows to it beside bulk copies.
    FB_DEVICE void init(uint32_t warps, uint32_t copying = 0) {
        for (int i = 0; i < stages; i++) {
            mbarrier_init(shared_address(&full[i]), 1 + copying);
            mbarrier_init(shared_address(&empty[i]), warps);
        }
    }
};

// Where a role is in the ring: barriers change parity with every round.
template <class R> struct Turn {
    int stage = 0;
    uint32_t parity = 0;

    FB_DEVICE void advance() {
        stage++;
        if (stage < R::stages) return;
        stage = 0;
        parity ^= 1;
    }
};

// ---- load

template <class R> FB_DEVICE void wait_empty(R& ring, const Turn<R>& turn) {
    mbarrier_wait(shared_address(&ring.empty[turn.stage]), turn.parity ^ 1);
}

// Says which bytes come to a stage that is free, by one thread; returns their barrier.
template <class R>
FB_DEVICE uint32_t announce(R& ring, const Turn<R>& turn,
                            uint32_t bytes = R::first_bytes + R::second_bytes) {
    const uint32_t full = shared_address(&ring.full[turn.stage]);
    mbarrier_arrive_expect(full, bytes);
    return full;
}

// The same once it is free.
template <class R>
FB_DEVICE uint32_t begin_stage(R& ring, const Turn<R>& turn,
                               uint32_t bytes = R::first_bytes + R::second_bytes) {
    wait_empty(ring, turn);
    return announce(ring, turn, bytes);
}

// ---- multiply

FB_DEVICE uint64_t ring_operand(uint32_t address) {
    return wgmma_operand(address, span, 16, eight_rows);
}

// The same value, of which the compiler knows that it is that of the whole warp.
FB_DEVICE int32_t uniform(int32_t x) { return __shfl_sync(~0u, x, 0); }

template <class R> FB_DEVICE void wait_full(R& ring, const Turn<R>& turn) {
    mbarrier_wait(shared_address(&ring.full[turn.stage]), turn.parity);
}

// Frees a stage, whose products a warp has waited for, in every block that loads it.
template <int loaders, class R> FB_DEVICE void release(R& ring, int stage) {
    const uint32_t lane = threadIdx.x % 32, empty = shared_address(&ring.empty[stage]);
    if (loaders == 1 && lane == 0) mbarrier_arrive(empty);
    if (loaders > 1 && lane < loaders) mbarrier_arrive_cluster_read(map_shared(empty, lane));
}
