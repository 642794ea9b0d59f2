// What a specialisation of the kernel is made of: the macros of ../common/facts.h, of which
//
//   FB_QUERY_TILE   rows of a block: 64, 32 or 16
//   FB_KV_TILE      tokens of a tile: 64
//   FB_THREADS      512: four warpgroups
//
// and two more:
//
//   FB_CLUSTER      blocks that work on a record: 1 or 2
//   FB_SPLIT_KEYS   1: each of two takes half of a record's keys, and all rows; 0: each takes 64
//                   rows, and they load the keys together
//
// A value is the key's first FB_VALUE_DIM elements. Rounding: probabilities are rounded once to
// weight_type before the second product; all else is f32.
#pragma once
#include "../common/facts.h"

// ---- static asserts

static_assert(FB_QUERY_TILE == 64 || FB_QUERY_TILE == 32 || FB_QUERY_TILE == 16,
              "a product has 64 rows, or so many columns");
static_assert(FB_KV_TILE == 64, "a piece has 64 tokens");
static_assert(FB_THREADS == 512, "two warpgroups for values, one for scores, one that loads");
static_assert(FB_KEY_DIM == 576 && FB_VALUE_DIM == 512, "nine pieces of keys, eight of values");
static_assert(FB_CLUSTER == 1 || FB_CLUSTER == 2 && (FB_QUERY_TILE == 64 || FB_SPLIT_KEYS),
              "tiles are loaded for one block or two");
static_assert(!FB_SPLIT_KEYS || FB_CLUSTER == 2 && FB_QUERY_TILE < 64 && FB_KV_TYPE == FB_Q_TYPE,
              "only wide.h orders pieces, and only turned.h shares sums, for two blocks");
static_assert(FB_KV_TYPE == FB_Q_TYPE || FB_KV_TYPE == FB_F8E4M3,
              "keys go into the products as they are, or f16 holds them");
static_assert(FB_KEY_TAIL == 0 || (FB_KEY_TAIL == 64 && FB_KV_TYPE == FB_Q_TYPE),
              "the rope piece may lie in k_tail");
static_assert(!FB_VALUE_PAGES && !FB_RAGGED_ROWS, "values lie in the pages of keys");
static_assert(!rotates, "keys come rotated");
static_assert(!FB_MASK && !FB_DEVICE_LENGTHS && !FB_KEY_POSITIONS,
              "a position decides what a row sees, and the plan which tokens there are");
static_assert(!FB_K_TOKEN_SCALE && !FB_V_TOKEN_SCALE || FB_KV_TYPE == FB_F8E4M3,
              "scales of tokens are those of keys of 8 bits");

// ---- facts

// Keys of 8 bits become wider in registers (bytes.h).
constexpr bool eights = FB_KV_TYPE != FB_Q_TYPE;
// Rows are columns of the products, whose rows are tokens and value elements (turned.h).
constexpr bool turned = FB_QUERY_TILE < 64 || eights;
// Weights and values as they go into products: f16 holds e4m3 exactly by one instruction a pair.
constexpr int weight_type = eights ? FB_F16 : FB_Q_TYPE;
constexpr bool token_scales = FB_K_TOKEN_SCALE || FB_V_TOKEN_SCALE;
// The second half of the values is multiplied beneath the next softmax: products are the bound.
constexpr bool staggered = FB_QUERY_TILE == 64;

// Blocks that a tile is loaded for.
constexpr int tile_blocks = FB_SPLIT_KEYS ? 1 : FB_CLUSTER;

// Threads [0, 256) multiply values, [256, 384) score, the others bring things.
constexpr int value_warps = 8;
constexpr int score_warps = 4;
constexpr int score_group = 2;
constexpr int load_warp = 12;
constexpr int dispatch_warp = 13;
constexpr int gather_warp = 14;
constexpr int gather_warps = 2;
constexpr int rows_warp = gather_warp + gather_warps - 1;
// Gathered keys of 8 bits arrive where they land, by each gathering thread: registers read them.
// Of wide keys, which products read, the gathering warps wait and announce them.
constexpr bool copies_arrive = eights;
constexpr int half_arrivals = copies_arrive ? 32 * gather_warps : 1;
// Named barriers; 1 and 2 are those of the warpgroups that multiply values.
constexpr int gather_barrier = 3;
constexpr int score_barrier = 4;
// Registers of a thread: as many for all warpgroups together as at entry.
constexpr int load_registers = eights && FB_QUERY_TILE < 64 ? 40 : 32;
constexpr int value_registers = !eights ? 160 : FB_QUERY_TILE < 64 ? 152 : 168;
constexpr int score_registers = 512 - load_registers - 2 * value_registers;

// 64 rows of 64 elements under the swizzle of their bytes: what a box brings, an operand of four
// steps.
constexpr int piece_span = 64 * value_bytes;
constexpr int piece_bytes = 64 * piece_span;
constexpr int query_bytes = FB_QUERY_TILE * 128; // a piece of queries, or of weights
constexpr int key_pieces = FB_KEY_DIM / 64;
// Rows of a box at least, and boxes of a tile at most: rows that lie further apart are gathered.
// Where memory is the bound, one thread cannot issue boxes of 16 rows as fast as two warps copy
// them; where products are, boxes cost less, and those of a cluster are loaded once for both.
constexpr int least_box = turned ? 32 : 16;
constexpr int tile_boxes = FB_KV_TILE / least_box;
// Of a row's nine pieces of queries these are kept in registers, the others in shared memory.
constexpr int kept_pieces = turned ? 0 : 6;
constexpr int half_pieces = 4;
// Of the values' that a warpgroup multiplies those that it writes: the other block has the others.
constexpr int own_pieces = half_pieces / (FB_SPLIT_KEYS ? 2 : 1);
// Halves that a record takes for sums of the other block, behind its tiles.
constexpr int shared_halves = FB_SPLIT_KEYS ? 2 : 0;
// Of the 36 steps of the next scores those that are issued before the weights are stored.
constexpr int early_steps = 4;
