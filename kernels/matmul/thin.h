// What kernels of few rows on Hopper share. The blocks of a cluster share the inputs of an item:
// each leaves its sums in its shared memory, and finishes a part of the item from those of all, in
// the order of the blocks. ThinShape is of those whose first operand is the weight.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/pdl.h"
#include "item.h"
#include "ring.h"
#include "scales.h"

// ---- facts

// `tokens` rows of x by `outputs` rows of the weight; a stage has `panels` times 128 bytes of each
// row of x.
template <int tokens_, int outputs_, int stages, int panels = 1> struct ThinShape {
    static constexpr int tokens = tokens_, outputs = outputs_;
    static constexpr int groups = outputs / group_rows; // warpgroups that multiply
    static constexpr int warps = 4 * groups;
    static constexpr int sum_stride = outputs + 4;
    static constexpr int box_rows = outputs / 2; // of the weight, by one copy
    static constexpr bool lends = false; // sums have memory of their own
    static constexpr int loaders = 1;
    using R = Ring<outputs, panels * tokens, stages>;
    static constexpr int weight_bytes = R::first_bytes;

    struct Shared {
        R ring;
        alignas(16) float sums[tokens * sum_stride];
        uint64_t landed; // all blocks' sums of an item
        uint64_t taken;  // this block's sums, by all
    };

    FB_DEVICE static uint32_t x_place(R& ring, int stage) {
        return shared_address(ring.second[stage]);
    }
    FB_DEVICE static uint32_t weight_place(R& ring, int stage) {
        return shared_address(ring.first[stage]);
    }
    // A warpgroup has its rows of the weight by all rows of x.
    FB_DEVICE static uint32_t first_place(R& ring, int stage, int group) {
        return weight_place(ring, stage) + uint32_t(group * group_rows * span);
    }
    FB_DEVICE static uint32_t second_place(R& ring, int stage, int) { return x_place(ring, stage); }
};

template <class S> using ThinSums = float[S::tokens / 2];

#if FB_ARCH >= 900 && FB_ARCH < 1000

// Inputs [begin, end) of an item that a block multiplies, in whole steps.
struct Part {
    int32_t begin, end;

    FB_DEVICE Part(int32_t inputs, int32_t step) {
        const int32_t steps = (inputs + step - 1) / step;
        const int32_t rank = int32_t(cluster_rank()), size = int32_t(cluster_size());
        begin = steps * rank / size * step;
        end = steps * (rank + 1) / size * step;
    }
};

// each(item) of a block's in turn.
template <class S, class Each> FB_DEVICE void each_few(const fb_matmul_params& p, Each each) {
    each_item<S::outputs>(p, S::tokens, int32_t(cluster_size()), 0, each);
}

// ---- store

// Every warp of every block of the cluster arrives at the barrier of each block.
FB_DEVICE void arrive_all(uint64_t& barrier, bool wrote) {
    const uint32_t lane = threadIdx.x % 32;
    __syncwarp();
    if (lane >= cluster_size()) return;
    const uint32_t mapped = map_shared(shared_address(&barrier), lane);
    if (wrote) mbarrier_arrive_cluster(mapped);
    else mbarrier_arrive_cluster_read(mapped);
}

// A thread's sums, at [row of x][row of the weight].
template <class S>
FB_DEVICE void leave_sums(typename S::Shared& shared, int group, const ThinSums<S>& sums) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32 % 4;
    const int row = group * group_rows + 16 * warp + g;
    FB_UNROLL
    for (int j = 0; j < S::tokens / 8; j++) {
        float* const at = shared.sums + (8 * j + 2 * t) * S::sum_stride + row;
        const float* const x = sums + 4 * j;
        at[0] = x[0];
        at[S::sum_stride] = x[1];
        at[8] = x[2];
        at[S::sum_stride + 8] = x[3];
    }
}

// A chunk at an address of all blocks' sums, added in their order; its halves lie `apart` bytes.
FB_DEVICE void add_chunk(uint32_t own, uint32_t apart, float (&x)[chunk]) {
    const uint32_t size = cluster_size();
    FB_UNROLL
    for (int i = 0; i < chunk; i++) x[i] = 0;
    FB_UNROLL_BY(4)
    for (uint32_t rank = 0; rank < size; rank++) {
        FB_UNROLL
        for (int half = 0; half < 2; half++) {
            const uint4 words = load_cluster_16(map_shared(own + half * apart, rank));
            x[4 * half] += __uint_as_float(words.x);
            x[4 * half + 1] += __uint_as_float(words.y);
            x[4 * half + 2] += __uint_as_float(words.z);
            x[4 * half + 3] += __uint_as_float(words.w);
        }
    }
}

// This block's share of the chunks of an item, which are those of some of its rows. A thread has
// the same outputs in each. `scales`: what no step had, or null.
template <class S>
FB_DEVICE void finish_thin(const fb_matmul_params& p, const Item<S::outputs>& item,
                           const typename S::Shared& shared, const ChunkScales* scales) {
    const int chunks = item.width / chunk, rank = int(cluster_rank()), size = int(cluster_size());
    const int begin = S::tokens * rank / size * chunks;
    const int end = S::tokens * (rank + 1) / size * chunks;
    FB_NO_UNROLL
    for (int at = begin + threadIdx.x; at < end; at += 32 * S::warps) {
        const int32_t row = item.row + at / chunks, output = item.output + at % chunks * chunk;
        if (row >= item.end || output >= p.outputs) continue;
        const uint32_t place = shared_address(shared.sums + at / chunks * S::sum_stride +
                                              at % chunks * chunk);
        float gate[chunk], up[chunk];
        add_chunk(place, 16, gate);
        if (p.gated) add_chunk(place + 4 * item.width, 16, up);
        if (scales != nullptr) scales->scale(p, item.x_row(p, row), gate, up);
        finish_chunk(p, item, row, output, gate, up);
    }
}

// Leaves sums of an item (even or odd), waits for those of all blocks, finishes a part. `scaled`:
// by scales that no step had.
template <bool scaled, class S>
FB_DEVICE void share_sums(const fb_matmul_params& p, const Item<S::outputs>& item,
                          typename S::Shared& shared, uint32_t& parity, int group,
                          const ThinSums<S>& sums) {
    const int32_t output = item.output + threadIdx.x % (item.width / chunk) * chunk;
    mbarrier_wait(shared_address(&shared.taken), parity ^ 1);
    leave_sums<S>(shared, group, sums);
    arrive_all(shared.landed, true);
    if constexpr (scaled) {
        const ChunkScales scales(p, item, output); // on their way while others arrive
        mbarrier_wait_cluster(shared_address(&shared.landed), parity);
        finish_thin<S>(p, item, shared, &scales);
    } else {
        mbarrier_wait_cluster(shared_address(&shared.landed), parity);
        finish_thin<S>(p, item, shared, nullptr);
    }
    arrive_all(shared.taken, false);
    parity ^= 1;
}

// Barriers, by all threads of all blocks. So many warps copy rows to the ring beside bulk copies.
template <class S>
FB_DEVICE void begin_thin(const fb_matmul_map_params& maps, typename S::Shared& shared,
                          uint32_t copying = 0) {
    if (threadIdx.x == 0) {
        tensor_prefetch(&maps.x);
        tensor_prefetch(&maps.weight);
        shared.ring.init(S::warps, copying);
        mbarrier_init(shared_address(&shared.landed), S::warps * cluster_size());
        mbarrier_init(shared_address(&shared.taken), S::warps * cluster_size());
        fence_mbarrier_init();
    }
    cluster_sync();
}

#endif
