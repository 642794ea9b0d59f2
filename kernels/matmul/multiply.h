// Products of stages of a ring by wgmma, of few rows and of many. Of a shape S first_place and
// second_place say where a warpgroup's operands of a stage lie, and `loaders` how many blocks load
// one.
#pragma once
#include "../ptx/base.h"
#include "../params/types.h"
#include "ring.h"

#if FB_ARCH >= 900 && FB_ARCH < 1000

FB_WGMMA(bf16, 8)
FB_WGMMA(bf16, 16)
FB_WGMMA(bf16, 32)
FB_WGMMA(bf16, 64)
FB_WGMMA(bf16, 112)
FB_WGMMA(bf16, 256)
FB_WGMMA(f16, 8)
FB_WGMMA(f16, 16)
FB_WGMMA(f16, 32)
FB_WGMMA(f16, 64)
FB_WGMMA(f16, 112)
FB_WGMMA(f16, 256)
FB_WGMMA_FP8(e4m3, 8)
FB_WGMMA_FP8(e4m3, 16)
FB_WGMMA_FP8(e4m3, 32)
FB_WGMMA_FP8(e4m3, 64)
FB_WGMMA_FP8(e4m3, 128)

// A warpgroup's products of a step, whose operands lie at these addresses. Without `adds` the sums
// begin with them.
template <int type, int n>
FB_DEVICE void issue_step(float (&sums)[n], uint32_t first, uint32_t second, bool adds) {
    const uint64_t firsts = ring_operand(first), seconds = ring_operand(second);
    wgmma_tie(sums);
    wgmma_fence();
    FB_UNROLL
    for (int k = 0; k < span / product_bytes; k++) {
        const uint64_t a = firsts + (k * product_bytes >> 4);
        const uint64_t b = seconds + (k * product_bytes >> 4);
        if constexpr (type == FB_BF16) wgmma_bf16<0, 0>(sums, a, b, adds || k > 0);
        else if constexpr (type == FB_F16) wgmma_f16<0, 0>(sums, a, b, adds || k > 0);
        else wgmma_e4m3(sums, a, b, adds || k > 0);
    }
    wgmma_commit();
}

template <int type, class S, int n>
FB_DEVICE void issue_stage(typename S::R& ring, int stage, int group, float (&sums)[n], bool adds) {
    const uint32_t first = S::first_place(ring, stage, group);
    issue_step<type>(sums, first, S::second_place(ring, stage, group), adds);
}

// To the next stage.
template <class R> FB_DEVICE void advance_uniform(Turn<R>& turn) {
    turn.advance();
    turn.stage = uniform(turn.stage);
}

// The sums of inputs [begin, end), one step in flight while the next is issued. Without `adds` the
// sums begin with the first step, which there has to be.
template <int type, class S, int n>
FB_DEVICE void multiply_steps(int32_t begin, int32_t end, typename S::R& ring,
                              Turn<typename S::R>& turn, int group, float (&sums)[n], bool adds) {
    int before = -1;
    FB_NO_UNROLL
    for (int32_t k = begin; k < end; k += step_of<type>) {
        wait_full(ring, turn);
        issue_stage<type, S>(ring, turn.stage, group, sums, adds || k > begin);
        wgmma_wait<1>();
        if (before >= 0) release<S::loaders>(ring, before);
        before = turn.stage;
        advance_uniform(turn);
    }
    wgmma_wait<0>();
    wgmma_tie(sums);
    if (before >= 0) release<S::loaders>(ring, before);
}

// The sums of one step, or, if `both`, of two; meanwhile() runs beside the last one.
template <int type, class S, int n, class Meanwhile>
FB_DEVICE void multiply_pair(typename S::R& ring, Turn<typename S::R>& turn, int group, bool both,
                             float (&sums)[n], Meanwhile meanwhile) {
    const int first = turn.stage;
    wait_full(ring, turn);
    issue_stage<type, S>(ring, first, group, sums, false);
    advance_uniform(turn);
    const int second = turn.stage;
    if (both) {
        wait_full(ring, turn);
        issue_stage<type, S>(ring, second, group, sums, true);
        advance_uniform(turn);
        wgmma_wait<1>();
        release<S::loaders>(ring, first);
    }
    meanwhile();
    wgmma_wait<0>();
    wgmma_tie(sums);
    release<S::loaders>(ring, both ? second : first);
}

#endif
