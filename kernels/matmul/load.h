// How kernels of few rows load, of which shape S says where the operands of a stage lie: by bulk
// copies, but rows of x that out names by threads.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/pdl.h"
#include "gather.h"
#include "thin.h"

#if FB_ARCH >= 900 && FB_ARCH < 1000

// Where an item's rows of the weight lie, in boxes. Gated, every other box goes through the gates
// of the one before.
template <class S> struct WeightRows {
    int32_t gates, ups;

    FB_DEVICE WeightRows(const fb_matmul_params& p, const Item<S::outputs>& item) {
        gates = item.first_of(p, false) + item.output;
        ups = p.gated ? item.first_of(p, true) + item.output : -1;
    }

    FB_DEVICE int32_t at(int box) const {
        if (ups < 0) return gates + box * S::box_rows;
        return (box % 2 ? ups : gates) + box / 2 * S::box_rows;
    }

    // A step's inputs of them, from element k on, into a stage. They pass through the L2 cache,
    // which has what many kernels read to keep.
    FB_DEVICE void load(const fb_tensor_map& map, typename S::R& ring, int stage, uint32_t full,
                        int32_t k) const {
        const uint32_t weight = S::weight_place(ring, stage);
        FB_UNROLL
        for (int box = 0; box < S::outputs / S::box_rows; box++)
            tensor_load_policy(weight + box * S::box_rows * span, &map, full, {k, at(box)},
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

// The steps of an item in order, by one thread; the weight of the first `early` ones is on its way.
template <int type, class S>
FB_DEVICE void load_rows(const fb_matmul_map_params& maps, typename S::R& ring, const Part& part,
                         const Item<S::outputs>& item, Turn<typename S::R>& turn, int& early) {
    const WeightRows<S> weight(maps.product, item);
    FB_NO_UNROLL
    for (int32_t k = part.begin; k < part.end; k += step_of<type>) {
        uint32_t full = shared_address(&ring.full[turn.stage]);
        if (early > 0) {
            early--;
        } else {
            full = begin_stage(ring, turn);
            weight.load(maps.weight, ring, turn.stage, full, k);
        }
        tensor_load(S::x_place(ring, turn.stage), &maps.x, full, {k, item.row});
        turn.advance();
    }
}

// The same where out names rows of x, by `warps` warps.
template <int type, class S, int warps>
FB_DEVICE void gather_rows(const fb_matmul_map_params& maps, typename S::R& ring, const Part& part,
                           const Item<S::outputs>& item, Turn<typename S::R>& turn,
                           Landing<typename S::R>& landing) {
    const fb_matmul_params& p = maps.product;
    const WeightRows<S> weight(p, item);
    const GatheredRows<type, S::tokens, warps> rows(p, item, item.row);
    FB_NO_UNROLL
    for (int32_t k = part.begin; k < part.end; k += step_of<type>) {
        wait_empty(ring, turn);
        if (rows.thread() == 0) {
            const uint32_t full = announce(ring, turn, S::weight_bytes);
            weight.load(maps.weight, ring, turn.stage, full, k);
        }
        rows.copy(p, S::x_place(ring, turn.stage), k);
        landing.add(ring);
        turn.advance();
    }
    landing.finish(ring);
}

// All items of a block, by the warps that load: one, or where they gather `gathering`.
template <int type, class S, int gathering>
FB_DEVICE void load_items(const fb_matmul_map_params& maps, typename S::Shared& shared) {
    const fb_matmul_params& p = maps.product;
    typename S::R& ring = shared.ring;
    const Part part(p.inputs, step_of<type>);
    const bool leads = threadIdx.x % 32 == 0, shares = cluster_size() > 1;
    int early = gathering == 0 && leads ? load_early<type, S>(maps, ring, part) : 0;
    pdl_wait();
    pdl_launch_dependents();
    Turn<typename S::R> turn;
    Landing<typename S::R> landing;
    uint32_t parity = 1;
    each_few<S>(p, [&](const Item<S::outputs>& item) {
        if (S::lends && shares) {
            // The item before left its sums there.
            mbarrier_wait(shared_address(&shared.taken), parity);
            parity ^= 1;
        }
        if constexpr (gathering > 0)
            gather_rows<type, S, gathering>(maps, ring, part, item, turn, landing);
        else if (leads) load_rows<type, S>(maps, ring, part, item, turn, early);
    });
}

// ---- the roles of warps

// Work<type, S>::run() is what warps that multiply do. `gathering`: so many warps copy rows of x
// that out names; 0 where it names none.
template <template <int, class> class Work, int type, class S, int gathering>
FB_DEVICE void split_few(const fb_matmul_map_params& maps, typename S::Shared& shared) {
    if (uniform(threadIdx.x / 32) >= S::warps) load_items<type, S, gathering>(maps, shared);
    else Work<type, S>::run(maps.product, shared);
}

template <template <int, class> class Work, bool fp8, class S, int gathering>
FB_DEVICE void start_few(const fb_matmul_map_params& maps, unsigned char* memory) {
    auto& shared = *reinterpret_cast<typename S::Shared*>(memory);
    begin_thin<S>(maps, shared, gathering);
    if constexpr (fp8) split_few<Work, FB_F8E4M3, S, gathering>(maps, shared);
    else if (maps.product.x_dtype == FB_F16) split_few<Work, FB_F16, S, gathering>(maps, shared);
    else split_few<Work, FB_BF16, S, gathering>(maps, shared);
    cluster_sync(); // nobody leaves while others may still read its sums or arrive here
}

#define FB_FEW_ROWS(Work, fp8, S, gathering) \
    FB_DYNAMIC_SHARED(memory);               \
    start_few<Work, fp8, S, gathering>(p, memory)
#else
#define FB_FEW_ROWS(Work, fp8, S, gathering)
#endif
