// Products of up to 128 rows on Hopper, by wgmma: x is the first operand, rows of the weight the
// second one, so that a thread's sums are neighbours of a row of out. docs/kernels/matmul.md draws
// it.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../common/element.h"
#include "load.h"
#include "multiply.h"
#include "plain.h"
#include "scales.h"
#include "thin.h"

// ---- facts

// `tokens` rows of x, of 64 of which both warpgroups take some columns, of 128 each takes half.
template <int tokens_, int outputs_, int stages> struct FlatShape {
    static constexpr int tokens = tokens_, outputs = outputs_;
    static_assert(tokens == group_rows || tokens == 2 * group_rows, "by two warpgroups");
    static constexpr int warps = multiplying_warps;
    static constexpr int parts = 2 * group_rows / tokens; // warpgroups that share its columns
    static constexpr int box_rows = outputs / parts / 2; // of the weight, by one copy
    static_assert(box_rows % 8 == 0, "a box is whole rows of the swizzle");
    static constexpr bool lends = true; // sums that are shared lie in the ring
    static constexpr int loaders = 1;
    using R = Ring<tokens, outputs, stages>;
    static constexpr int weight_bytes = R::second_bytes;

    // Of a warpgroup. Eight columns are a block, four blocks a unit, of which the last one may have
    // fewer.
    static constexpr int columns = outputs / parts, blocks = columns / chunk;
    static constexpr int units = (blocks + 3) / 4;

    struct Shared {
        R ring;
        uint64_t landed; // all blocks' sums of an item
        uint64_t taken;  // this block's sums, by all
    };
    // Shared sums, in chunks of all lanes of a warp: gated, there are two in place of one, and the
    // last units of both halves may be no whole ones.
    static constexpr int chunk_bytes = 32 * chunk * 4;
    static constexpr int warp_bytes = (blocks / 2 + 3) / 4 * 4 * chunk_bytes;
    static_assert(warps * warp_bytes <= stages * (tokens + outputs) * span, "they fit the ring");

    FB_DEVICE static uint32_t x_place(R& ring, int stage) {
        return shared_address(ring.first[stage]);
    }
    FB_DEVICE static uint32_t weight_place(R& ring, int stage) {
        return shared_address(ring.second[stage]);
    }
    FB_DEVICE static uint32_t first_place(R& ring, int stage, int group) {
        return x_place(ring, stage) + (parts == 1 ? uint32_t(group * group_rows * span) : 0);
    }
    FB_DEVICE static uint32_t second_place(R& ring, int stage, int group) {
        return weight_place(ring, stage) + (parts == 1 ? 0 : uint32_t(group * columns * span));
    }
};

template <class S> using FlatSums = float[S::columns / 2];

constexpr int flat_most = 8;
constexpr int flat_64_outputs = 128;
constexpr int flat_128_outputs = 112;
constexpr int flat_shared = 232448;

using Flat64 = FlatShape<64, flat_64_outputs, 9>;
using Flat128 = FlatShape<128, flat_128_outputs, 7>;
static_assert(sizeof(Flat64::Shared) <= flat_shared && sizeof(Flat128::Shared) <= flat_shared,
              "the launch gives as much");

#if FB_ARCH >= 900 && FB_ARCH < 1000

// ---- multiply

// What a step's sums are multiplied by: of a thread's two rows, and of both halves of its
// warpgroup's columns.
template <class S> struct FlatFactors {
    float x[2] = {1, 1}, weight[2] = {1, 1};

    FB_DEVICE void load(const fb_matmul_params& p, const Item<S::outputs>& item, int group,
                        int32_t row, int32_t k) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            if (has_x_blocks(p)) x[h] = step_x_scale(p, item.x_row(p, row + 8 * h), k);
            if (!has_weight_blocks(p)) continue;
            const bool is_up = p.gated && h == 1;
            const int32_t own = item.output + (p.gated ? group : 2 * group + h) * S::box_rows;
            // Past the last output the sums go nowhere.
            const int32_t column = own < p.outputs ? own : item.output;
            weight[h] = step_weight_scale(p, item.first_of(p, is_up) + column, k);
        }
    }

    FB_DEVICE void add(const FlatSums<S>& sums, FlatSums<S>& totals) const {
        FB_UNROLL
        for (int i = 0; i < S::columns / 2; i++)
            totals[i] = fmaf(sums[i], x[i / 2 % 2] * weight[i / (S::columns / 4)], totals[i]);
    }
};

// A block's part of the sums of an item of fp8: those of a step, scaled, or of two that have no
// scales of their own, are added to the totals.
template <int type, class S>
FB_DEVICE void multiply_flat_fp8(const fb_matmul_params& p, const Part& part,
                                 typename S::R& ring, Turn<typename S::R>& turn, int group,
                                 const Item<S::outputs>& item, int32_t row,
                                 FlatSums<S>& totals) {
    static_assert(128 % S::outputs == 0, "no block of scales ends within half of its columns");
    const bool has_blocks = has_x_blocks(p) || has_weight_blocks(p);
    constexpr int step = step_of<type>;
    FlatFactors<S> next;
    if (part.begin < part.end) next.load(p, item, group, row, part.begin);
    int32_t k = part.begin;
    FB_NO_UNROLL
    while (k < part.end) {
        const FlatFactors<S> factors = next;
        FlatSums<S> sums;
        const bool both = !has_blocks && k + step < part.end;
        k += both ? 2 * step : step;
        multiply_pair<type, S>(ring, turn, group, both, sums, [&] {
            if (has_blocks && k < part.end) next.load(p, item, group, row, k);
        });
        factors.add(sums, totals);
    }
}

// ---- store

// Eight sums: of row h of a thread's two, two of each block of a unit. Turned, neighbours of a row
// of out: lane t of four has those of block t.
using FlatChunk = float[chunk];

// Of the unit whose first block is `first`; blocks from `end` on are not there.
template <class S>
FB_DEVICE void pick_unit(const FlatSums<S>& sums, int first, int end, int h, FlatChunk& x) {
    FB_UNROLL
    for (int j = 0; j < 4; j++) {
        const bool there = first + j < end;
        x[2 * j] = there ? sums[there ? 4 * (first + j) + 2 * h : 0] : 0;
        x[2 * j + 1] = there ? sums[there ? 4 * (first + j) + 2 * h + 1 : 0] : 0;
    }
}

FB_DEVICE void turn_unit(FlatChunk& x) {
    FB_UNROLL
    for (int c = 0; c < 2; c++) {
        float words[4];
        FB_UNROLL
        for (int j = 0; j < 4; j++) words[j] = x[2 * j + c];
        turn_quad(words);
        FB_UNROLL
        for (int j = 0; j < 4; j++) x[2 * j + c] = words[j];
    }
}

// A thread's part of an item of out, in chunks: job 2u + h is unit u of row h. Gated, the second
// half of a warpgroup's columns goes through the gates of the first.
template <int type, class S> struct FlatStore {
    const fb_matmul_params& p;
    const Item<S::outputs>& item;
    int32_t row;    // the first of its two, which are eight apart
    int32_t column; // of its chunk of unit 0
    int blocks;     // of out, of a warpgroup

    FB_DEVICE FlatStore(const fb_matmul_params& p, const Item<S::outputs>& item, int group)
        : p(p), item(item) {
        const int own = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
        row = item.row + own + (S::parts == 1 ? group * group_rows : 0);
        blocks = p.gated ? S::blocks / 2 : S::blocks;
        column = item.output + (S::parts == 1 ? 0 : group * blocks * chunk) +
                 threadIdx.x % 4 * chunk;
    }

    FB_DEVICE int jobs() const { return (blocks + 3) / 4 * 2; }

    FB_DEVICE void pick(const FlatSums<S>& sums, int job, FlatChunk& gate, FlatChunk& up) const {
        const int first = job / 2 * 4, h = job % 2;
        if (p.gated) {
            pick_unit<S>(sums, first, S::blocks / 2, h, gate);
            pick_unit<S>(sums, S::blocks / 2 + first, S::blocks, h, up);
        } else {
            pick_unit<S>(sums, first, S::blocks, h, gate);
        }
    }

    // Turns the sums of a job and stores what follows from them.
    FB_DEVICE void finish(int job, FlatChunk& gate, FlatChunk& up) const {
        turn_unit(gate);
        if (p.gated) turn_unit(up);
        const int unit = job / 2;
        const int32_t own = row + job % 2 * 8, first = column + 4 * chunk * unit;
        const bool there = 4 * unit + int(threadIdx.x % 4) < blocks && first < p.outputs;
        if (own >= item.end || !there) return;
        if constexpr (type == FB_F8E4M3)
            ChunkScales(p, item, first).scale(p, item.x_row(p, own), gate, up);
        finish_chunk(p, item, own, first, gate, up);
    }

    FB_DEVICE void store_scaled(FlatSums<S>& sums) const {
        const int32_t first = column - int32_t(threadIdx.x % 4 * chunk);
        if constexpr (type == FB_F8E4M3) scale_sums(p, item, row, first, sums);
        store_plain<plain_of<type>>(p, item.end, row, first, sums);
    }

    FB_DEVICE void store(const FlatSums<S>& sums) const {
        FB_NO_UNROLL
        for (int job = 0; job < jobs(); job++) {
            FlatChunk gate, up;
            FB_UNROLL
            for (int i = 0; i < 2 * S::units; i++)
                if (i == job) pick(sums, i, gate, up);
            finish(job, gate, up);
        }
    }

    // The same with the sums of all blocks, each of which has left its own in the ring and finishes
    // a share of the jobs.
    FB_DEVICE void store_shared(const FlatSums<S>& sums, typename S::Shared& shared,
                                uint32_t parity) const {
        const uint32_t size = cluster_size();
        // A lane's two pieces of a chunk lie a warp's pieces apart.
        const uint32_t own = shared_address(&shared.ring) +
                             threadIdx.x / 32 * S::warp_bytes + threadIdx.x % 32 * 16;
        barrier_sync(1, 32 * S::warps); // both warpgroups are done with the ring
        FB_UNROLL
        for (int i = 0; i < 2 * S::units; i++) {
            if (i >= jobs()) continue;
            FlatChunk gate, up;
            pick(sums, i, gate, up);
            const uint32_t place = own + i * (p.gated ? 2 : 1) * S::chunk_bytes;
            leave(place, gate);
            if (p.gated) leave(place + S::chunk_bytes, up);
        }
        fence_proxy_async_shared(); // bulk copies of the next item overwrite them
        arrive_all(shared.landed, true);
        mbarrier_wait_cluster(shared_address(&shared.landed), parity);
        const int rank = int(cluster_rank()), count = jobs();
        FB_NO_UNROLL
        for (int job = count * rank / int(size); job < count * (rank + 1) / int(size); job++) {
            const uint32_t place = own + job * (p.gated ? 2 : 1) * S::chunk_bytes;
            FlatChunk gate, up;
            add_chunk(place, S::chunk_bytes / 2, gate);
            if (p.gated) add_chunk(place + S::chunk_bytes, S::chunk_bytes / 2, up);
            finish(job, gate, up);
        }
        arrive_all(shared.taken, false);
    }

    FB_DEVICE static void leave(uint32_t place, const FlatChunk& x) {
        FB_UNROLL
        for (int half = 0; half < 2; half++)
            store_cluster_16(place + half * S::chunk_bytes / 2,
                             make_uint4(__float_as_uint(x[4 * half]),
                                        __float_as_uint(x[4 * half + 1]),
                                        __float_as_uint(x[4 * half + 2]),
                                        __float_as_uint(x[4 * half + 3])));
    }
};

// ---- the kernels

template <int type, class S> struct FlatWork {
    FB_DEVICE static void run(const fb_matmul_params& p, typename S::Shared& shared) {
        const Part part(p.inputs, step_of<type>);
        const int group = uniform(threadIdx.x / 128);
        Turn<typename S::R> turn;
        uint32_t parity = 0;
        const bool plain = is_plain<type>(p), shares = cluster_size() > 1;
        pdl_wait();
        pdl_launch_dependents();
        each_few<S>(p, [&](const Item<S::outputs>& item) {
            const FlatStore<type, S> out(p, item, group);
            FlatSums<S> sums = {};
            if constexpr (type == FB_F8E4M3)
                multiply_flat_fp8<type, S>(p, part, shared.ring, turn, group, item, out.row, sums);
            else
                multiply_steps<type, S>(part.begin, part.end, shared.ring, turn, group, sums, true);
            if (shares) {
                out.store_shared(sums, shared, parity);
                parity ^= 1;
            } else if (plain) {
                out.store_scaled(sums);
            } else {
                out.store(sums);
            }
        });
    }
};

#endif
