// Products of many rows: 128 rows of the weight by 64 or 128 rows of x, in a pipeline of copies to
// shared memory.
//
// A step has 32 inputs, which are 64 bytes of each row. Lane t of four reads the 16 bytes at 16t
// (few.cu says why it may), so eight lanes read 128 bytes in order and no bank twice.
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/cp_async.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "item.h"
#include "slices.h"

// ---- facts

constexpr int tile_threads = 256;
constexpr int tile_outputs = 128;
constexpr int tile_stages = 3;

// `tokens` rows of x; each warp has 16 * high rows of the weight and 8 * wide rows of x.
template <int tokens_, int high_, int wide_> struct Shape {
    static constexpr int tokens = tokens_, high = high_, wide = wide_;
    static constexpr int warps_high = tile_outputs / (16 * high);
    static constexpr int warps_wide = tokens / (8 * wide);
    static_assert(32 * warps_high * warps_wide == tile_threads, "warps cover the tile");
};
using Shape64 = Shape<64, 2, 4>;
using Shape128 = Shape<128, 4, 4>;

// ---- where things lie: stages of [weight row, then row of x][64 bytes], or sums [row][output]

constexpr int row_bytes = 2 * step_inputs;
template <class S> constexpr int stage_bytes = (tile_outputs + S::tokens) * row_bytes;
// Rows of x whose sums are exchanged at a time: those of one column of warps.
template <class S> constexpr int turn_rows = 8 * S::wide;
constexpr int sum_stride = tile_outputs + 4;

static_assert(tile_stages * stage_bytes<Shape128> <= 48 * 1024, "shared memory is static");
static_assert(turn_rows<Shape128> * sum_stride * 4 <= tile_stages * stage_bytes<Shape64>,
              "sums go where stages were");

// ---- load

// Inputs [k, k + 32) of all rows; what is not there becomes zero.
template <class S>
FB_DEVICE void load_stage(const fb_matmul_params& p, const Item<tile_outputs>& item, uint32_t stage,
                          int32_t k) {
    constexpr int copies = stage_bytes<S> / 16;
    FB_UNROLL
    for (int copy = threadIdx.x; copy < copies; copy += tile_threads) {
        const int i = copy / 4;
        const int32_t input = k + copy % 4 * 8;
        const bool is_weight = i < tile_outputs;
        const int32_t row = is_weight ? item.weight_row(p, i)
                                      : item.x_row(p, item.row + i - tile_outputs);
        const bool has = row >= 0 && input < p.inputs;
        const uint64_t base = is_weight ? p.weight : p.x;
        const int64_t at = row * (is_weight ? p.weight_stride : p.x_stride) + input;
        const uint64_t source = has ? base + 2 * at : base;
        cp_async_16(stage + copy * 16, items<const void>(source), has ? 16 : 0);
    }
}

// ---- compute

template <class S> using Sums = float[S::high][S::wide][4];

template <int type, class S>
FB_DEVICE void multiply_stage(uint32_t stage, Sums<S>& sums) {
    const int warp = threadIdx.x / 32;
    const uint32_t lane = threadIdx.x % 32 * 16; // row g, bytes 16t on
    const uint32_t weight = stage + warp / S::warps_wide * (16 * S::high * row_bytes) + lane;
    const uint32_t x =
        stage + (tile_outputs + warp % S::warps_wide * 8 * S::wide) * row_bytes + lane;
    uint4 rows[S::wide];
    FB_UNROLL
    for (int j = 0; j < S::wide; j++) rows[j] = load_shared_16(x + 8 * j * row_bytes);
    FB_UNROLL
    for (int i = 0; i < S::high; i++) {
        const uint4 low = load_shared_16(weight + 16 * i * row_bytes);
        const uint4 high = load_shared_16(weight + (16 * i + 8) * row_bytes);
        FB_UNROLL
        for (int j = 0; j < S::wide; j++) multiply_32<type>(sums[i][j], low, high, rows[j]);
    }
}

// Adds a slice's sums to the totals and begins the next one.
template <class S> FB_DEVICE void end_slice(Sums<S>& totals, Sums<S>& sums) {
    FB_UNROLL
    for (int i = 0; i < S::high; i++) {
        FB_UNROLL
        for (int j = 0; j < S::wide; j++) {
            FB_UNROLL
            for (int n = 0; n < 4; n++) {
                totals[i][j][n] += sums[i][j][n];
                sums[i][j][n] = 0;
            }
        }
    }
}

// ---- store

// A column of warps at a time leaves its sums to the block, which finishes whole chunks of outputs.
template <class S>
FB_DEVICE void store_tile(const fb_matmul_params& p, const Item<tile_outputs>& item, float* shared,
                          const Sums<S>& totals) {
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    for (int turn = 0; turn < S::warps_wide; turn++) {
        __syncthreads();
        if (warp % S::warps_wide == turn) {
            FB_UNROLL
            for (int i = 0; i < S::high; i++) {
                FB_UNROLL
                for (int j = 0; j < S::wide; j++) {
                    const int output = (warp / S::warps_wide * S::high + i) * 16 + g;
                    float* const at = shared + (8 * j + 2 * t) * sum_stride + output;
                    at[0] = totals[i][j][0];
                    at[sum_stride] = totals[i][j][1];
                    at[8] = totals[i][j][2];
                    at[sum_stride + 8] = totals[i][j][3];
                }
            }
        }
        __syncthreads();
        const int chunks = item.width / chunk;
        for (int at = threadIdx.x; at < turn_rows<S> * chunks; at += tile_threads) {
            const int row = at / chunks, column = at % chunks * chunk;
            const float* const gate = shared + row * sum_stride + column;
            finish_chunk(p, item, item.row + turn * turn_rows<S> + row, item.output + column, gate,
                         gate + (p.gated ? item.width : 0));
        }
    }
}

// ---- the kernels

template <int type, class S>
FB_DEVICE void multiply_tile(const fb_matmul_params& p, unsigned char* shared) {
    const Item<tile_outputs> item(p, S::tokens);
    if (item.row >= item.end) return;
    const uint32_t stages = shared_address(shared);
    const int32_t steps = (p.inputs + step_inputs - 1) / step_inputs;
    const int32_t slice_steps = slice_inputs(p.inputs) / step_inputs;
    Sums<S> sums = {}, totals = {};
    FB_NO_UNROLL
    for (int step = 0; step < tile_stages - 1; step++) {
        load_stage<S>(p, item, stages + step * stage_bytes<S>, step * step_inputs);
        cp_async_commit();
    }
    int stage = 0, left = slice_steps;
    FB_NO_UNROLL
    for (int32_t step = 0; step < steps; step++) {
        cp_async_wait<tile_stages - 2>();
        __syncthreads();
        const int next = stage == 0 ? tile_stages - 1 : stage - 1;
        load_stage<S>(p, item, stages + next * stage_bytes<S>,
                      (step + tile_stages - 1) * step_inputs);
        cp_async_commit();
        multiply_stage<type, S>(stages + stage * stage_bytes<S>, sums);
        stage = stage == tile_stages - 1 ? 0 : stage + 1;
        if (--left > 0) continue;
        end_slice<S>(totals, sums);
        left = slice_steps;
    }
    end_slice<S>(totals, sums);
    cp_async_wait_all();
    store_tile<S>(p, item, reinterpret_cast<float*>(shared), totals);
}

template <class S> FB_DEVICE void multiply_rows(const fb_matmul_params& p, unsigned char* shared) {
    pdl_wait();
    pdl_launch_dependents();
    if (p.x_dtype == FB_F16) multiply_tile<FB_F16, S>(p, shared);
    else multiply_tile<FB_BF16, S>(p, shared);
}

FB_OPERATOR(matmul_64, fb_matmul_params, tile_threads, 2, tile_outputs) {
    FB_SHARED(unsigned char, shared, [tile_stages * stage_bytes<Shape64>]);
    multiply_rows<Shape64>(p, shared);
}

FB_OPERATOR(matmul_128, fb_matmul_params, tile_threads, 1, tile_outputs) {
    FB_SHARED(unsigned char, shared, [tile_stages * stage_bytes<Shape128>]);
    multiply_rows<Shape128>(p, shared);
}
