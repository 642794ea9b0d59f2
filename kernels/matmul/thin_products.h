// Products of up to 32 rows on Hopper, by wgmma: the weight is the first operand, x the second one.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "load.h"
#include "multiply.h"
#include "plain.h"
#include "thin.h"

// ---- facts

constexpr int thin_threads = 288; // two warpgroups that multiply, a warp that loads
constexpr int thin_most = 8;
constexpr int thin_outputs = 128;
constexpr int thin_shared = 114688;
static_assert(thin_threads == 32 * (multiplying_warps + 1), "the roles of its warps");

using Thin8 = ThinShape<8, thin_outputs, 6>;
using Thin16 = ThinShape<16, thin_outputs, 5>;
using Thin32 = ThinShape<32, thin_outputs, 4>;
static_assert(sizeof(Thin8::Shared) <= thin_shared && sizeof(Thin16::Shared) <= thin_shared &&
                  sizeof(Thin32::Shared) <= thin_shared,
              "the launch gives as much");

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

// ---- store

// Scales that no step had, of a thread's two rows of the weight and of its rows of x.
template <class S> struct ThinScales {
    float weight[2], x[S::tokens / 4];

    FB_DEVICE void load(const fb_matmul_params& p, const Item<S::outputs>& item, int32_t output) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const int32_t own = output + 8 * h < p.outputs ? output + 8 * h : item.output;
            weight[h] = result_weight_scale(p, item.first_of(p, false) + own);
        }
        FB_UNROLL
        for (int i = 0; i < S::tokens / 4; i++) {
            const int32_t row = item.row + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2;
            const int32_t x_row = item.x_row(p, row);
            x[i] = x_row < 0 ? 1 : result_x_scale(p, x_row);
        }
    }

    FB_DEVICE void scale(ThinSums<S>& sums) const {
        FB_UNROLL
        for (int i = 0; i < S::tokens / 2; i++)
            sums[i] *= weight[i / 2 % 2] * x[i / 4 * 2 + i % 2];
    }
};

// A thread's sums, rounded, from registers: lanes of two neighbouring rows of the weight exchange
// them, so that each has a pair of a row of out. `output` is the first of its two rows.
template <int type, class S>
FB_DEVICE void store_thin(const fb_matmul_params& p, const Item<S::outputs>& item, int32_t output,
                          const ThinSums<S>& sums) {
    const bool is_odd = threadIdx.x / 4 % 2 != 0;
    FB_UNROLL
    for (int i = 0; i < S::tokens / 4; i++) {
        const uint32_t own = pack_pair<type>(sums[2 * i], sums[2 * i + 1]);
        const uint32_t other = __shfl_xor_sync(~0u, own, 4);
        const uint32_t pair = is_odd ? __byte_perm(other, own, 0x7632)
                                     : __byte_perm(own, other, 0x5410);
        const int32_t row = item.row + i / 2 * 8 + threadIdx.x % 4 * 2 + is_odd;
        const int32_t column = output - is_odd + i % 2 * 8;
        if (row < item.end && column < p.outputs)
            store_4(items<void>(p.out + 2 * (row * p.out_stride + column)), pair);
    }
}

// ---- the kernels

template <int type, class S> struct ThinWork {
    FB_DEVICE static void run(const fb_matmul_params& p, typename S::Shared& shared) {
        const Part part(p.inputs, step_of<type>);
        const int group = uniform(threadIdx.x / 128);
        Turn<typename S::R> turn;
        uint32_t parity = 0;
        // Whole inputs of items whose sums need no more than scales.
        const bool direct = cluster_size() == 1 && is_plain<type>(p);
        const int own = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
        pdl_wait();
        pdl_launch_dependents();
        each_few<S>(p, [&](const Item<S::outputs>& item) {
            ThinSums<S> sums = {};
            ThinScales<S> scales;
            // Ahead of the sums, where there are registers for them.
            constexpr bool early = S::tokens < 32;
            if (type == FB_F8E4M3 && early && direct) scales.load(p, item, item.output + own);
            if constexpr (type == FB_F8E4M3)
                multiply_thin_fp8<type, S>(p, part, shared.ring, turn, group, item, sums);
            else
                multiply_steps<type, S>(part.begin, part.end, shared.ring, turn, group, sums, true);
            if (direct) {
                if constexpr (type == FB_F8E4M3) {
                    if (!early) scales.load(p, item, item.output + own);
                    scales.scale(sums);
                }
                store_thin<plain_of<type>, S>(p, item, item.output + own, sums);
                return;
            }
            share_sums<type == FB_F8E4M3, S>(p, item, shared, parity, group, sums);
        });
    }
};

#endif
