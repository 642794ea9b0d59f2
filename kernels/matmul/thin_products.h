// Products of up to 32 rows on Hopper, by wgmma: the weight is the first operand, x the second one.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "load.h"
#include "multiply.h"
#include "thin.h"

using Thin8 = ThinShape<8, 128, 6>;
using Thin16 = ThinShape<16, 128, 5>;
using Thin32 = ThinShape<32, 128, 4>;

#if FB_ARCH >= 900 && FB_ARCH < 1000

// ---- multiply

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

// A block's part of the sums of an item of fp8: those of a step, scaled, or of two that have no
// scales of their own, are added to the totals.
template <int type, class S>
FB_DEVICE void multiply_thin_fp8(const fb_matmul_params& p, const Part& part,
                                 typename S::R& ring, Turn<typename S::R>& turn, int group,
                                 const Item<S::outputs>& item, ThinSums<S>& totals) {
    const bool has_blocks = has_x_blocks(p) || has_weight_blocks(p);
    constexpr int step = step_of<type>;
    int32_t k = part.begin;
    FB_NO_UNROLL
    while (k < part.end) {
        ThinSums<S> sums;
        const bool both = !has_blocks && k + step < part.end;
        multiply_pair<type, S>(ring, turn, group, both, sums, [] {});
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
        ThinSums<S> sums = {};
        if constexpr (type == FB_F8E4M3)
            multiply_thin_fp8<type, S>(p, part, shared.ring, turn, group, item, sums);
        else multiply_steps<type, S>(part.begin, part.end, shared.ring, turn, group, sums, true);
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
