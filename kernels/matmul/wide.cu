// Products of many rows on Hopper: a cluster of two blocks multiplies 256 rows of x with 256 rows
// of the weight. Each block has half of the rows of x and loads half of the weight's rows for both.
// docs/kernels/matmul.md draws it.
//
// Sums of fp8 are added to f32 totals after two steps of 128 inputs, as wgmma alone would round
// them to 14 bits or so, or after each step, times the scales of blocks of 128 inputs.
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../common/element.h"
#include "../ptx/pdl.h"
#include "gather.h"
#include "item.h"
#include "multiply.h"
#include "plain.h"
#include "ring.h"
#include "scales.h"

// ---- facts

constexpr int wide_threads = 384;
constexpr int wide_cluster = 2;
constexpr int wide_outputs = 256;
constexpr int wide_shared = 232448;
// Of fp8, whose totals leave registers for the sums of so many outputs at a time.
constexpr int wave_outputs = 128;
constexpr int waves = wide_outputs / wave_outputs;
constexpr int block_rows = 2 * group_rows;
constexpr int cluster_rows = wide_cluster * block_rows;
// Blocks of rows, of an expert if there are some, that are taken with all outputs before the next
// ones: so few that what clusters read at a time stays in the cache.
constexpr int band_blocks = 8;

// A warpgroup loads, two multiply: 168 registers of each thread are what there is.
template <int type> constexpr int loading_registers = type == FB_F8E4M3 ? 40 : 56;
template <int type> constexpr int multiplying_registers = type == FB_F8E4M3 ? 232 : 224;
template <int type>
constexpr bool is_shared_out = loading_registers<type> + 2 * multiplying_registers<type> == 3 * 168;
static_assert(is_shared_out<FB_F8E4M3> && is_shared_out<FB_BF16>, "more would never come");
constexpr int loading_warps = 4;
static_assert(wide_threads == 32 * (loading_warps + multiplying_warps), "the roles of its warps");

using WideRing = Ring<block_rows, wide_outputs, 4>;
using WideItem = Item<wide_outputs>;
using WideSums = float[wide_outputs / 2];

// A warpgroup has 64 rows of x by all rows of the weight.
struct WideShape {
    using R = WideRing;
    static constexpr int loaders = wide_cluster;

    FB_DEVICE static uint32_t first_place(R& ring, int stage, int group) {
        return shared_address(ring.first[stage]) + uint32_t(group * group_rows * span);
    }
    FB_DEVICE static uint32_t second_place(R& ring, int stage, int) {
        return shared_address(ring.second[stage]);
    }
};

// ---- shared memory

// Sums of a warp's 16 rows, before they are finished.
constexpr int place_columns = 64;
constexpr int place_stride = place_columns + 4;

struct WideShared {
    WideRing ring;
    alignas(16) float places[multiplying_warps][16 * place_stride];
};
static_assert(sizeof(WideShared) <= wide_shared, "the launch gives as much");

#if FB_ARCH >= 900 && FB_ARCH < 1000

// ---- load

// The rows of the weight that a block loads for all of its cluster, and where they go in a stage.
struct WideHalf {
    int32_t first; // of the weight
    uint32_t place;

    FB_DEVICE WideHalf(const fb_matmul_params& p, const WideItem& item) {
        const int32_t rank = int32_t(cluster_rank()), half = wide_outputs / wide_cluster;
        // The second half of a gated tile goes through the gates of the first.
        first = item.output + (p.gated ? item.first_of(p, rank != 0)
                                       : item.first_of(p, false) + rank * half);
        place = uint32_t(rank * half * span);
    }

    FB_DEVICE void load(const fb_tensor_map& map, WideRing& ring, int stage, uint32_t full,
                        int32_t k) const {
        const uint32_t weight = shared_address(ring.second[stage]);
        tensor_load_multicast(weight + place, &map, full, {k, first},
                              uint16_t((1 << wide_cluster) - 1));
    }
};

template <class Each> FB_DEVICE void each_wide_item(const fb_matmul_params& p, Each each) {
    each_item<wide_outputs>(p, cluster_rows, wide_cluster, band_blocks, each);
}

// By a whole warp, of which one lane loads.
template <int type> FB_DEVICE void load_wide(const fb_matmul_map_params& maps, WideRing& ring) {
    const fb_matmul_params& p = maps.product;
    const bool leads = threadIdx.x % 32 == 0;
    Turn<WideRing> turn;
    each_wide_item(p, [&](const WideItem& item) {
        const int32_t row = item.row + int32_t(cluster_rank()) * block_rows;
        const WideHalf weight(p, item);
        FB_NO_UNROLL
        for (int32_t k = 0; leads && k < p.inputs; k += step_of<type>) {
            const uint32_t full = begin_stage(ring, turn);
            tensor_load(shared_address(ring.first[turn.stage]), &maps.x, full, {k, row});
            weight.load(maps.weight, ring, turn.stage, full, k);
            turn.advance();
        }
    });
}

// The same of rows that out names, by all warps that load.
template <int type> FB_DEVICE void gather_wide(const fb_matmul_map_params& maps, WideRing& ring) {
    const fb_matmul_params& p = maps.product;
    Turn<WideRing> turn;
    Landing<WideRing> landing;
    each_wide_item(p, [&](const WideItem& item) {
        const int32_t row = item.row + int32_t(cluster_rank()) * block_rows;
        const GatheredRows<type, block_rows, loading_warps> rows(p, item, row);
        const WideHalf weight(p, item);
        FB_NO_UNROLL
        for (int32_t k = 0; k < p.inputs; k += step_of<type>) {
            wait_empty(ring, turn);
            if (threadIdx.x == 0) {
                const uint32_t full = announce(ring, turn, WideRing::second_bytes);
                weight.load(maps.weight, ring, turn.stage, full, k);
            }
            rows.copy(p, shared_address(ring.first[turn.stage]), k);
            landing.add(ring);
            turn.advance();
        }
        landing.finish(ring);
    });
}

// ---- multiply

// What a step's sums are multiplied by: of a thread's two rows, and of each 64 rows of the weight.
struct StepFactors {
    static constexpr int part = 64, parts = wide_outputs / part;
    float x[2] = {1, 1}, weight[parts] = {1, 1, 1, 1};

    FB_DEVICE void load(const fb_matmul_params& p, const WideItem& item, const int32_t (&rows)[2],
                        int32_t k) {
        if (has_x_blocks(p)) {
            FB_UNROLL
            for (int h = 0; h < 2; h++) x[h] = step_x_scale(p, item.x_row(p, rows[h]), k);
        }
        if (!has_weight_blocks(p)) return;
        FB_UNROLL
        for (int i = 0; i < parts; i++) {
            const int32_t row = item.weight_row(p, i * part);
            // Past the last row sums go nowhere.
            weight[i] = step_weight_scale(p, row < 0 ? item.first_of(p, false) : row, k);
        }
    }

    FB_DEVICE void add(const float (&sums)[wave_outputs / 2], int wave, WideSums& totals) const {
        FB_UNROLL
        for (int i = 0; i < wave_outputs / 2; i++) {
            float& total = totals[wave * wave_outputs / 2 + i];
            total = fmaf(sums[i], x[i / 2 % 2] * weight[(wave * wave_outputs + 2 * i) / part],
                         total);
        }
    }
};

// The sums of an item of fp8: a wave's of a step, scaled, are added to the totals while the tensor
// cores multiply for the other warpgroup.
template <int type>
FB_DEVICE void multiply_wide_fp8(const fb_matmul_params& p, WideRing& ring, Turn<WideRing>& turn,
                                 int group, const WideItem& item, const int32_t (&rows)[2],
                                 WideSums& totals) {
    float sums[wave_outputs / 2];
    StepFactors next;
    FB_UNROLL
    for (int i = 0; i < wide_outputs / 2; i++) totals[i] = 0;
    next.load(p, item, rows, 0);
    const bool has_blocks = has_x_blocks(p) || has_weight_blocks(p);
    constexpr int step = step_of<type>;
    int32_t k = 0;
    FB_NO_UNROLL
    while (k < p.inputs) {
        const StepFactors factors = next;
        const int first = turn.stage;
        wait_full(ring, turn);
        advance_uniform(turn);
        // Steps that have one scale are added up together.
        const bool both = !has_blocks && k + step < p.inputs;
        const int second = turn.stage;
        if (both) wait_full(ring, turn);
        k += both ? 2 * step : step;
        FB_UNROLL
        for (int wave = 0; wave < waves; wave++) {
            const auto issue = [&](int stage, bool adds) {
                const uint32_t x = WideShape::first_place(ring, stage, group);
                const uint32_t weight = WideShape::second_place(ring, stage, group);
                issue_step<type>(sums, x, weight + uint32_t(wave * wave_outputs * span), adds);
            };
            issue(first, false);
            if (both) issue(second, true);
            if (wave == 0 && k < p.inputs) next.load(p, item, rows, k);
            if (wave == waves - 1 && both) {
                wgmma_wait<1>();
                release<wide_cluster>(ring, first);
            }
            wgmma_wait<0>();
            wgmma_tie(sums);
            if (wave == waves - 1) release<wide_cluster>(ring, both ? second : first);
            factors.add(sums, wave, totals);
        }
        if (both) advance_uniform(turn);
    }
}

// ---- store

// Blocks of eight columns, `blocks` of them from `first` on, become columns of a warp's places.
template <int blocks>
FB_DEVICE void leave_columns(float* places, int column, const float* sums) {
    float* const at = places + threadIdx.x % 32 / 4 * place_stride + column + threadIdx.x % 4 * 2;
    FB_UNROLL
    for (int j = 0; j < blocks; j++) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            float* const pair = at + 8 * h * place_stride + 8 * j;
            pair[0] = sums[4 * j + 2 * h];
            pair[1] = sums[4 * j + 2 * h + 1];
        }
    }
}

// A warp's 16 rows, whose first is `row`, 64 sums of each at a time: of a gated tile 32 gates and
// what goes through them.
template <int type>
FB_DEVICE void store_any(const fb_matmul_params& p, const WideItem& item, int32_t row,
                         float* places, const WideSums& sums) {
    const int width = p.gated ? place_columns / 2 : place_columns, chunks = width / chunk;
    FB_NO_UNROLL
    for (int part = 0; part < wide_outputs / place_columns; part++) {
        FB_UNROLL
        for (int i = 0; i < wide_outputs / place_columns; i++) {
            if (i != part) continue;
            if (p.gated) {
                leave_columns<4>(places, 0, sums + 16 * i);
                leave_columns<4>(places, width, sums + wide_outputs / 4 + 16 * i);
            } else {
                leave_columns<8>(places, 0, sums + 32 * i);
            }
        }
        __syncwarp();
        FB_NO_UNROLL
        for (int at = threadIdx.x % 32; at < 16 * chunks; at += 32) {
            const int32_t own = row + at / chunks, output = item.output + part * width;
            float* const gate = places + at / chunks * place_stride + at % chunks * chunk;
            const int32_t first = output + at % chunks * chunk;
            if constexpr (type == FB_F8E4M3)
                ChunkScales(p, item, first).scale(p, item.x_row(p, own), gate, gate + width);
            finish_chunk(p, item, own, first, gate, gate + width);
        }
        __syncwarp();
    }
}

// ---- the kernels

template <int type>
FB_DEVICE void run_wide(const fb_matmul_params& p, WideShared& memory, int group) {
    WideRing& ring = memory.ring;
    const int warp_row = int(cluster_rank()) * block_rows + group * group_rows +
                         threadIdx.x % 128 / 32 * 16;
    const int own = warp_row + threadIdx.x % 32 / 4;
    float* const places = memory.places[threadIdx.x / 32 - 4];
    const bool plain = is_plain<type>(p);
    Turn<WideRing> turn;
    each_wide_item(p, [&](const WideItem& item) {
        const int32_t rows[2] = {item.row + own, item.row + own + 8};
        WideSums sums;
        if constexpr (type == FB_F8E4M3) {
            multiply_wide_fp8<type>(p, ring, turn, group, item, rows, sums);
            if (plain) scale_sums(p, item, rows[0], item.output, sums);
        } else {
            multiply_steps<type, WideShape>(0, p.inputs, ring, turn, group, sums, false);
        }
        if (plain) {
            store_plain<plain_of<type>>(p, item.end, rows[0], item.output, sums);
        } else {
            store_any<type>(p, item, item.row + warp_row, places, sums);
        }
    });
}

template <int type>
FB_DEVICE void start_wide(const fb_matmul_map_params& maps, unsigned char* memory) {
    WideShared& shared = *reinterpret_cast<WideShared*>(memory);
    WideRing& ring = shared.ring;
    if (threadIdx.x == 0) {
        tensor_prefetch(&maps.x);
        tensor_prefetch(&maps.weight);
        ring.init(multiplying_warps * wide_cluster, maps.product.rows != 0 ? loading_warps : 0);
        fence_mbarrier_init();
    }
    cluster_sync();
    pdl_wait();
    pdl_launch_dependents();
    const int group = uniform(threadIdx.x / 128) - 1;
    if (group < 0) {
        registers_decrease<loading_registers<type>>();
        // Of fp8 all registers are taken: rows that out names go to kernels of few rows.
        const bool gathers = type != FB_F8E4M3 && maps.product.rows != 0;
        if (gathers) gather_wide<type>(maps, ring);
        else if (uniform(threadIdx.x / 32) == 0) load_wide<type>(maps, ring);
    } else {
        registers_increase<multiplying_registers<type>>();
        run_wide<type>(maps.product, shared, group);
    }
    cluster_sync(); // nobody leaves while the other may still load or arrive here
}

#define FB_WIDE(type)          \
    FB_DYNAMIC_SHARED(memory); \
    start_wide<type>(p, memory)
#else
#define FB_WIDE(type)
#endif

FB_OPERATOR(matmul_wide_bf16, fb_matmul_map_params, wide_threads, 1, wide_outputs, wide_cluster,
            wide_shared) {
    FB_WIDE(FB_BF16);
}

FB_OPERATOR(matmul_wide_f16, fb_matmul_map_params, wide_threads, 1, wide_outputs, wide_cluster,
            wide_shared) {
    FB_WIDE(FB_F16);
}

FB_OPERATOR(matmul_wide_e4m3, fb_matmul_map_params, wide_threads, 1, wide_outputs, wide_cluster,
            wide_shared) {
    FB_WIDE(FB_F8E4M3);
}
