// What a specialisation of the kernel is made of: the macros of ../common/facts.h, of which
//
//   FB_QUERY_TILE   rows of a block: 64, or 16 or 32, whose products are turned around (narrow.h)
//   FB_KV_TILE      tokens of a tile: 64
//   FB_THREADS      512: four warpgroups; 768 for keys of 8 bits (widen.h)
//
// and one more:
//
//   FB_CLUSTER      blocks that work on a record, 64 rows each, and load its keys together: 1 or 2
//
// A value is the key's first FB_VALUE_DIM elements. Rounding: probabilities are rounded once to
// FB_Q_TYPE before the second product; all else is f32.
#pragma once
#include "../common/facts.h"

// ---- static asserts

static_assert(FB_QUERY_TILE == 64 || FB_QUERY_TILE == 32 || FB_QUERY_TILE == 16,
              "a product has 64 rows, or so many columns");
static_assert(FB_KV_TILE == 64, "a piece has 64 tokens");
static_assert(FB_THREADS == (FB_KV_TYPE == FB_Q_TYPE ? 512 : 768),
              "two warpgroups for values, one for scores, one that loads, two that widen");
static_assert(FB_KEY_DIM == 576 && FB_VALUE_DIM == 512, "nine pieces of keys, eight of values");
static_assert(FB_CLUSTER == 1 || FB_CLUSTER == 2 && FB_QUERY_TILE == 64,
              "tiles are loaded for one block or two");
static_assert(FB_KV_TYPE == FB_Q_TYPE || FB_KV_TYPE == FB_F8E4M3 && FB_QUERY_TILE < 64,
              "keys go into the products as they are, or there is room to widen them");
static_assert(FB_KEY_TAIL == 0 || (FB_KEY_TAIL == 64 && FB_KV_TYPE == FB_Q_TYPE),
              "the rope piece may lie in k_tail");
static_assert(!FB_VALUE_PAGES && !FB_RAGGED_ROWS, "values lie in the pages of keys");
static_assert(!rotates, "keys come rotated");
static_assert(!FB_MASK && !FB_DEVICE_LENGTHS && !FB_KEY_POSITIONS,
              "a position decides what a row sees, and the plan which tokens there are");
static_assert(!FB_K_TOKEN_SCALE && !FB_V_TOKEN_SCALE || FB_QUERY_TILE < 64, "tokens are columns");

// ---- facts

// Keys of 8 bits become wider on their way to the products.
constexpr bool widened = FB_KV_TYPE != FB_Q_TYPE;

// Threads [0, 256) multiply values, [256, 384) score, the next 128 bring things, the others widen.
constexpr int value_warps = 8;
constexpr int score_warps = 4;
constexpr int score_group = 2;
constexpr int load_warp = 12;
constexpr int dispatch_warp = 13;
constexpr int gather_warp = 14;
constexpr int gather_warps = 2;
constexpr int widen_warps = widened ? 8 : 0;
// Named barriers; 1 and 2 are those of the warpgroups that multiply values.
constexpr int gather_barrier = 3;
constexpr int score_barrier = 4;
// Registers of a thread: as many for all warpgroups together as at entry.
constexpr int load_registers = widened ? 40 : 32;
constexpr int score_registers = widened ? 104 : 160;
constexpr int value_registers = widened ? 104 : 160;
constexpr int widen_registers = 64;
static_assert(load_registers + score_registers + 2 * value_registers +
                      widen_warps / 4 * widen_registers ==
                  (widened ? 6 * 80 : 4 * 128),
              "65536 in all");

// Rows are columns of the products, whose rows are tokens and value elements.
constexpr bool narrow = FB_QUERY_TILE < 64;

// 64 rows of 64 elements under the 128-byte swizzle: what a box brings, an operand of four steps.
constexpr int piece_bytes = 64 * 128;
constexpr int query_bytes = FB_QUERY_TILE * 128; // a piece of queries, or of weights
constexpr int key_pieces = FB_KEY_DIM / 64;
// Keys of 8 bits come by thirds of a row, as they lie in memory.
constexpr int third_elements = FB_KEY_DIM / 3;
constexpr int third_bytes = FB_KV_TILE * third_elements;
// Rows of a box at least, and boxes of a tile at most: rows that lie further apart are gathered.
// One thread cannot issue boxes of 16 rows as fast as two warps copy them.
constexpr int least_box = 32;
constexpr int tile_boxes = FB_KV_TILE / least_box;
// Of a row's nine pieces of queries these are kept in registers, the others in shared memory.
constexpr int kept_pieces = narrow ? 0 : 6;
constexpr int half_pieces = 4;
// Of the 36 steps of the next scores those that are issued before the weights are stored.
constexpr int early_steps = 4;
