// Products of up to 32 rows on Hopper, by wgmma: the weight is the first operand, x the second one.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "load.h"
#include "thin.h"

using Thin8 = ThinShape<8, 128, 6>;
using Thin16 = ThinShape<16, 128, 5>;
using Thin32 = ThinShape<32, 128, 4>;

#if FB_ARCH >= 900 && FB_ARCH < 1000

FB_WGMMA(bf16, 8)
FB_WGMMA(bf16, 16)
FB_WGMMA(bf16, 32)
FB_WGMMA(f16, 8)
FB_WGMMA(f16, 16)
FB_WGMMA(f16, 32)
FB_WGMMA_FP8(e4m3, 8)
FB_WGMMA_FP8(e4m3, 16)
FB_WGMMA_FP8(e4m3, 32)

// ---- multiply

// A warpgroup's products of a stage: its rows of the weight by all rows of x.
template <int type, class S>
FB_DEVICE void issue_thin(typename S::R& ring, int stage, int group, ThinSums<S>& sums,
                          bool adds) {
    const uint64_t x = ring_operand(shared_address(ring.second[stage]));
    const uint32_t row = uint32_t(group * group_rows);
    const uint64_t weight = ring_operand(shared_address(ring.first[stage]) + row * span);
    wgmma_tie(sums);
    wgmma_fence();
    FB_UNROLL
    for (int k = 0; k < span / product_bytes; k++) {
        const uint64_t a = weight + (k * product_bytes >> 4), b = x + (k * product_bytes >> 4);
        if constexpr (type == FB_BF16) wgmma_bf16<0, 0>(sums, a, b, adds || k > 0);
        else if constexpr (type == FB_F16) wgmma_f16<0, 0>(sums, a, b, adds || k > 0);
        else wgmma_e4m3(sums, a, b, adds || k > 0);
    }
    wgmma_commit();
}

// A block's part of the sums of an item; of none they are zeros.
template <int type, class S>
FB_DEVICE void multiply_thin(const Part& part, typename S::R& ring, Turn<typename S::R>& turn,
                             int group, ThinSums<S>& sums) {
    int before = -1;
    FB_UNROLL
    for (int i = 0; i < S::tokens / 2; i++) sums[i] = 0;
    FB_NO_UNROLL
    for (int32_t k = part.begin; k < part.end; k += step_of<type>) {
        wait_full(ring, turn);
        issue_thin<type, S>(ring, turn.stage, group, sums, true);
        wgmma_wait<1>();
        if (before >= 0) release<1>(ring, before);
        before = turn.stage;
        turn.advance();
        turn.stage = uniform(turn.stage);
    }
    wgmma_wait<0>();
    wgmma_tie(sums);
    if (before >= 0) release<1>(ring, before);
}

// Adds the sums of the step at input k, times what its blocks of inputs are worth.
template <class S>
FB_DEVICE void add_scaled(const fb_matmul_params& p, const Item<S::outputs>& item, int group,
                          int32_t k, const ThinSums<S>& sums, ThinSums<S>& totals) {
    const bool is_up = p.gated && group > 0;
    const int32_t own = item.output + (is_up ? 0 : group * group_rows);
    // Past the last output the sums go nowhere.
    const int32_t there = own < p.outputs ? own : item.output;
    const float weight = step_weight_scale(p, item.first_of(p, is_up) + there, k);
    FB_UNROLL
    for (int j = 0; j < S::tokens / 8; j++) {
        FB_UNROLL
        for (int c = 0; c < 2; c++) {
            const int32_t row = item.row + 8 * j + threadIdx.x % 4 * 2 + c;
            const float factor = weight * step_x_scale(p, item.x_row(p, row), k);
            FB_UNROLL
            for (int i = 4 * j + c; i < 4 * j + 4; i += 2)
                totals[i] = fmaf(sums[i], factor, totals[i]);
        }
    }
}

// The same of fp8: the sums of a step, scaled, or those of two that have no scales of their own,
// are added to the totals.
template <int type, class S>
FB_DEVICE void multiply_thin_fp8(const fb_matmul_params& p, const Part& part,
                                 typename S::R& ring, Turn<typename S::R>& turn, int group,
                                 const Item<S::outputs>& item, ThinSums<S>& totals) {
    const bool has_blocks = has_x_blocks(p) || has_weight_blocks(p);
    constexpr int step = step_of<type>;
    FB_UNROLL
    for (int i = 0; i < S::tokens / 2; i++) totals[i] = 0;
    int32_t k = part.begin;
    FB_NO_UNROLL
    while (k < part.end) {
        ThinSums<S> sums;
        const int first = turn.stage;
        wait_full(ring, turn);
        issue_thin<type, S>(ring, first, group, sums, false);
        turn.advance();
        turn.stage = uniform(turn.stage);
        const int second = turn.stage;
        const bool both = !has_blocks && k + step < part.end;
        if (both) {
            wait_full(ring, turn);
            issue_thin<type, S>(ring, second, group, sums, true);
            turn.advance();
            turn.stage = uniform(turn.stage);
            wgmma_wait<1>();
            release<1>(ring, first);
        }
        wgmma_wait<0>();
        wgmma_tie(sums);
        release<1>(ring, both ? second : first);
        if (has_blocks) {
            add_scaled<S>(p, item, group, k, sums, totals);
        } else {
            FB_UNROLL
            for (int i = 0; i < S::tokens / 2; i++) totals[i] += sums[i];
        }
        k += both ? 2 * step : step;
    }
}

// ---- the kernels

template <int type, class S>
FB_DEVICE void run_thin(const fb_matmul_params& p, typename S::Shared& shared) {
    using I = Item<S::outputs>;
    const Part part(p.inputs, step_of<type>);
    const int32_t count = I::count(p, S::tokens), size = int32_t(cluster_size());
    const int group = uniform(threadIdx.x / 128);
    Turn<typename S::R> turn;
    uint32_t parity = 0;
    pdl_wait();
    pdl_launch_dependents();
    FB_NO_UNROLL
    for (int32_t i = blockIdx.x / size; i < count; i += gridDim.x / size) {
        const I item(p, S::tokens, i);
        if (item.row >= item.end) continue;
        ThinSums<S> sums;
        if constexpr (type == FB_F8E4M3)
            multiply_thin_fp8<type, S>(p, part, shared.ring, turn, group, item, sums);
        else multiply_thin<type, S>(part, shared.ring, turn, group, sums);
        share_sums<type == FB_F8E4M3, S>(p, item, shared, parity, group, sums);
    }
}

template <int type, class S, int gathering>
FB_DEVICE void split_thin(const fb_matmul_map_params& maps, typename S::Shared& shared) {
    if (uniform(threadIdx.x / 32) >= S::warps) load_items<type, S, gathering>(maps, shared);
    else run_thin<type, S>(maps.product, shared);
}

// `gathering`: so many warps copy rows of x that out names; 0 where it names none.
template <bool fp8, class S, int gathering>
FB_DEVICE void start_thin(const fb_matmul_map_params& maps, unsigned char* memory) {
    auto& shared = *reinterpret_cast<typename S::Shared*>(memory);
    begin_thin<S>(maps, shared, gathering);
    if constexpr (fp8) split_thin<FB_F8E4M3, S, gathering>(maps, shared);
    else if (maps.product.x_dtype == FB_F16) split_thin<FB_F16, S, gathering>(maps, shared);
    else split_thin<FB_BF16, S, gathering>(maps, shared);
    cluster_sync(); // nobody leaves while others may still read its sums or arrive here
}

#define FB_THIN(fp8, S, gathering) \
    FB_DYNAMIC_SHARED(memory);     \
    start_thin<fp8, S, gathering>(p, memory)
#else
#define FB_THIN(fp8, S, gathering)
#endif
