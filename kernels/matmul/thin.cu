// Products of few rows on Hopper, by wgmma: bound by the weight's bytes. docs/kernels/matmul.md
// draws it.
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "gather.h"
#include "thin.h"

// ---- facts

constexpr int thin_threads = 288; // two warpgroups that multiply, a warp that loads
constexpr int thin_most = 8;
constexpr int thin_outputs = 128;
static_assert(thin_threads == 32 * (multiplying_warps + 1), "the roles of its warps");

constexpr int thin_8_shared = 112640;
constexpr int thin_16_shared = 114688;
constexpr int thin_32_shared = 112640;
constexpr int thin_64_shared = 232448;
constexpr int thin_128_shared = 232448;
using Thin8 = ThinShape<8, thin_outputs, 6>;
using Thin16 = ThinShape<16, thin_outputs, 5>;
using Thin32 = ThinShape<32, thin_outputs, 4>;
using Thin64 = ThinShape<64, thin_outputs, 8, 1, 32>;
using Thin128 = ThinShape<128, thin_outputs, 4>;
static_assert(sizeof(Thin8::Shared) <= thin_8_shared && sizeof(Thin16::Shared) <= thin_16_shared &&
                  sizeof(Thin32::Shared) <= thin_32_shared &&
                  sizeof(Thin64::Shared) <= thin_64_shared &&
                  sizeof(Thin128::Shared) <= thin_128_shared,
              "the launch gives as much");

#if FB_ARCH >= 900 && FB_ARCH < 1000

FB_WGMMA(bf16, 8)
FB_WGMMA(bf16, 16)
FB_WGMMA(bf16, 32)
FB_WGMMA(bf16, 64)
FB_WGMMA(bf16, 128)
FB_WGMMA(f16, 8)
FB_WGMMA(f16, 16)
FB_WGMMA(f16, 32)
FB_WGMMA(f16, 64)
FB_WGMMA(f16, 128)
FB_WGMMA_FP8(e4m3, 8)
FB_WGMMA_FP8(e4m3, 16)
FB_WGMMA_FP8(e4m3, 32)
FB_WGMMA_FP8(e4m3, 64)

// ---- load

// Where an item's rows of the weight lie. Gated, the second half of a tile goes through the gates
// of the first.
template <class S> struct WeightRows {
    int32_t gates, ups;

    FB_DEVICE WeightRows(const fb_matmul_params& p, const Item<S::outputs>& item) {
        gates = item.first_of(p, false) + item.output;
        ups = p.gated ? item.first_of(p, true) + item.output : gates + S::outputs / 2;
    }

    FB_DEVICE int32_t at(int row) const {
        return row < S::outputs / 2 ? gates + row : ups + row - S::outputs / 2;
    }

    // A step's inputs of them into a stage. They pass through the L2 cache, which has what many
    // kernels read to keep.
    FB_DEVICE void load(const fb_tensor_map& map, typename S::R& ring, int stage, uint32_t full,
                        int32_t k) const {
        const uint32_t weight = shared_address(ring.first[stage]);
        FB_UNROLL
        for (int row = 0; row < S::outputs; row += thin_box_rows)
            tensor_load_policy(weight + row * span, &map, full, {k, at(row)},
                               policy_evict_first());
    }
};

// What of a settled weight fits the ring, ahead of the wait. By one thread; returns the steps.
template <int type, class S>
FB_DEVICE int load_early(const fb_matmul_map_params& maps, typename S::R& ring, const Part& part) {
    using I = Item<S::outputs>;
    const fb_matmul_params& p = maps.product;
    const int32_t first = blockIdx.x / cluster_size();
    // Which rows are an expert's is for kernels before to say.
    if (!maps.settled || p.starts != 0 || first >= I::count(p, S::tokens)) return 0;
    const WeightRows<S> rows(p, I(p, S::tokens, first));
    int early = 0;
    Turn<typename S::R> turn;
    FB_NO_UNROLL
    for (int32_t k = part.begin; k < part.end && early < S::R::stages; k += step_of<type>) {
        rows.load(maps.weight, ring, turn.stage, begin_stage(ring, turn), k);
        turn.advance();
        early++;
    }
    return early;
}

// By a whole warp, of which one lane loads.
template <int type, class S>
FB_DEVICE void load_thin(const fb_matmul_map_params& maps, typename S::R& ring) {
    using I = Item<S::outputs>;
    const fb_matmul_params& p = maps.product;
    const Part part(p.inputs, step_of<type>);
    const int32_t count = I::count(p, S::tokens), size = int32_t(cluster_size());
    const bool leads = threadIdx.x % 32 == 0;
    int early = leads ? load_early<type, S>(maps, ring, part) : 0;
    pdl_wait();
    pdl_launch_dependents();
    Turn<typename S::R> turn;
    FB_NO_UNROLL
    for (int32_t i = blockIdx.x / size; i < count; i += gridDim.x / size) {
        const I item(p, S::tokens, i);
        if (item.row >= item.end) continue;
        const WeightRows<S> rows(p, item);
        FB_NO_UNROLL
        for (int32_t k = part.begin; leads && k < part.end; k += step_of<type>) {
            uint32_t full = shared_address(&ring.full[turn.stage]);
            if (early > 0) {
                early--;
            } else {
                full = begin_stage(ring, turn);
                rows.load(maps.weight, ring, turn.stage, full, k);
            }
            tensor_load(shared_address(ring.second[turn.stage]), &maps.x, full, {k, item.row});
            turn.advance();
        }
    }
}

// The same of rows that out names.
template <int type, class S>
FB_DEVICE void gather_thin(const fb_matmul_map_params& maps, typename S::R& ring) {
    using I = Item<S::outputs>;
    const fb_matmul_params& p = maps.product;
    const Part part(p.inputs, step_of<type>);
    const int32_t count = I::count(p, S::tokens), size = int32_t(cluster_size());
    pdl_wait();
    pdl_launch_dependents();
    Turn<typename S::R> turn;
    Landing<typename S::R> landing;
    FB_NO_UNROLL
    for (int32_t i = blockIdx.x / size; i < count; i += gridDim.x / size) {
        const I item(p, S::tokens, i);
        if (item.row >= item.end) continue;
        const WeightRows<S> weight(p, item);
        const GatheredRows<type, S::tokens, 1> rows(p, item, item.row);
        FB_NO_UNROLL
        for (int32_t k = part.begin; k < part.end; k += step_of<type>) {
            wait_empty(ring, turn);
            if (threadIdx.x % 32 == 0) {
                const uint32_t full = begin_stage(ring, turn, S::R::first_bytes);
                weight.load(maps.weight, ring, turn.stage, full, k);
            }
            rows.copy(p, shared_address(ring.second[turn.stage]), k);
            landing.add(ring);
            turn.advance();
        }
        landing.finish(ring);
    }
}

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

template <int type, class S>
FB_DEVICE void split_roles(const fb_matmul_map_params& maps, typename S::Shared& shared) {
    const bool loads = uniform(threadIdx.x / 32) == S::warps;
    if (loads && maps.product.rows != 0) gather_thin<type, S>(maps, shared.ring);
    else if (loads) load_thin<type, S>(maps, shared.ring);
    else run_thin<type, S>(maps.product, shared);
}

template <bool fp8, class S>
FB_DEVICE void start_thin(const fb_matmul_map_params& maps, unsigned char* memory) {
    auto& shared = *reinterpret_cast<typename S::Shared*>(memory);
    begin_thin<S>(maps, shared);
    if constexpr (fp8) split_roles<FB_F8E4M3, S>(maps, shared);
    else if (maps.product.x_dtype == FB_F16) split_roles<FB_F16, S>(maps, shared);
    else split_roles<FB_BF16, S>(maps, shared);
    cluster_sync(); // nobody leaves while others may still read its sums or arrive here
}

#define FB_THIN(fp8, S)        \
    FB_DYNAMIC_SHARED(memory); \
    start_thin<fp8, S>(p, memory)
#else
#define FB_THIN(fp8, S)
#endif

// Up to 8, 16, 32, 64 or 128 rows of an item.

FB_SPLIT_OPERATOR(matmul_thin_8, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_8_shared) {
    FB_THIN(false, Thin8);
}

FB_SPLIT_OPERATOR(matmul_thin_16, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_16_shared) {
    FB_THIN(false, Thin16);
}

FB_SPLIT_OPERATOR(matmul_thin_32, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_32_shared) {
    FB_THIN(false, Thin32);
}

// Starts late: where few blocks fill a multiprocessor each, those that come early are in the way of
// the kernel before.
FB_SPLIT_OPERATOR(matmul_thin_64, fb_matmul_map_params, thin_threads, 1, thin_outputs, thin_most,
                  thin_64_shared, late) {
    FB_THIN(false, Thin64);
}

FB_SPLIT_OPERATOR(matmul_thin_128, fb_matmul_map_params, thin_threads, 1, thin_outputs, thin_most,
                  thin_128_shared) {
    FB_THIN(false, Thin128);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_8, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_8_shared) {
    FB_THIN(true, Thin8);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_16, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_16_shared) {
    FB_THIN(true, Thin16);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_32, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_32_shared) {
    FB_THIN(true, Thin32);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_64, fb_matmul_map_params, thin_threads, 1, thin_outputs,
                  thin_most, thin_64_shared) {
    FB_THIN(true, Thin64);
}
