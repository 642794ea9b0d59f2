#pragma once
// What a specialisation of the Hopper kernel is made of: macros that come before the source. They
// are those of ../common/facts.h (the FB_CLUSTER blocks share a record's rows out, or two of them
// its keys), and:
//
//   FB_STAGES         tiles of keys, and of values, in flight
//   FB_RAW_STAGES     of those that land raw, where some do: at most as many
//   FB_QUERY_BUFFERS  1, or 2: the next record's queries arrive while these are in use
//   FB_QUERIES_KEPT   1: queries move to registers as soon as they are there
//   FB_SUM_TILES      of fp8 products: tiles whose products are summed before the sums are added in
//                     f32 to those of the tiles before
//   FB_INVARIANT      1: a row's bits do not depend on the other rows of its record
//   FB_SPLIT_KEYS     1: the two blocks of a cluster have the same rows, and half of the keys each;
//                     0, or left out: they share the rows out
//   FB_VALUE_GROUPS   warpgroups that share the value's columns of 64 rows, which another one
//                     scores (wide.cu); 0, or left out: each scores the rows that it has
//
// A block is a warpgroup that loads, one that changes tiles where their elements are not yet what
// the products take, and one to three that compute 64 rows each, or those of wide.cu.
//
// Rounding: queries, keys and values are rounded once to FB_Q_TYPE after conversion and hooks,
// probabilities once before the second product (both to f16 where values_as_f16); all else is f32.
// Scores come in base 2.
//
// Of fp8 products (FB_Q_TYPE is FB_F8E4M3) queries, keys and values are what lies in memory. Their
// operands are K-major: a warpgroup transposes values in their place.
#ifndef FB_SUM_TILES
#define FB_SUM_TILES 1
#endif
#ifndef FB_SPLIT_KEYS
#define FB_SPLIT_KEYS 0
#endif
#ifndef FB_VALUE_GROUPS
#define FB_VALUE_GROUPS 0
#endif
#include "../common/again.h"
#include "../../params/attention.h"

#include "../../ptx/barrier.h"
#include "../../ptx/cluster.h"
#include "../../ptx/fence.h"
#include "../../ptx/ldmatrix.h"
#include "../../ptx/mbarrier.h"
#include "../../ptx/mma.h"
#include "../../ptx/tma.h"
#include "../../ptx/wgmma.h"

// ---- static asserts and sizes

// Keys (values) land raw, and are changed on their way to the products. Keys are whenever values
// are: what is noted of them serves both.
constexpr bool keys_land_raw = keys_change || values_change;
constexpr bool values_land_raw = values_change;
// What has landed waits for those who change it, or turn it in place.
constexpr bool fp8_products = is_fp8(FB_Q_TYPE);
constexpr bool keys_wait = keys_land_raw || rotates;
constexpr bool values_wait = values_land_raw || fp8_products;
constexpr bool changes_by_notes = Variant::has_key || Variant::has_value || rotates;
constexpr int changing_groups = keys_wait || values_wait ? 1 : 0;
constexpr int changing_warps = 4 * changing_groups;
constexpr int first_computing = 1 + changing_groups;
constexpr int computing_groups = FB_THREADS / 128 - first_computing;
constexpr int computing_warps = 4 * computing_groups;
// Scores are passed on to others, each of which has some of the values' columns.
constexpr bool passes_scores = FB_VALUE_GROUPS > 0;
constexpr int value_groups = passes_scores ? FB_VALUE_GROUPS : computing_groups;
constexpr int score_groups = passes_scores ? 1 : computing_groups; // of 64 rows each
constexpr bool splits_keys = FB_SPLIT_KEYS;
// Blocks that share a record's rows out, and load its keys for each other.
constexpr int row_blocks = splits_keys ? 1 : FB_CLUSTER;
constexpr int own_columns = FB_VALUE_DIM / (passes_scores ? value_groups : 1);
constexpr int group_rows = 64;
constexpr int block_rows = group_rows * score_groups;
static_assert(FB_QUERY_TILE == row_blocks * block_rows, "a record has the rows of its cluster");
static_assert(!splits_keys || (FB_CLUSTER == 2 && score_groups == 1 && !passes_scores),
              "two warpgroups have the same rows");
static_assert(!FB_KEY_POSITIONS, "a row sees a range of tokens");
static_assert(FB_KEY_DIM % 16 == 0 && FB_VALUE_DIM % 8 == 0, "whole steps of the products");

// setmaxnreg: 168 (384 threads), 128 (512, or two blocks of 256) or 80 (two blocks of 384)
// registers of each thread at entry are what there is. Who only widens elements does with few.
constexpr int warpgroups_computing = FB_MIN_BLOCKS * computing_groups; // on a processor
constexpr bool only_widens = keys_land_raw && !changes_by_notes;
constexpr bool loads_by_few = warpgroups_computing >= 3 && !passes_scores;
constexpr int loading_registers = loads_by_few ? 32 : 40;
constexpr int changing_registers = only_widens ? 40 : 56;
constexpr int computing_registers = warpgroups_computing == 4           ? 104
                                    : computing_groups == 3             ? 160
                                    : only_widens || FB_MIN_BLOCKS == 2 ? 216
                                    : changing_groups                   ? 208
                                                                        : 232;
constexpr int scoring_registers = 152; // of those who pass scores on: 40 + 152 + 2 * 160 = 512
static_assert(!passes_scores || computing_groups == 1 + value_groups, "one scores");
static_assert(!passes_scores || changing_groups == 0, "nothing is changed on its way");

// A tile in shared memory is made of panels of 64 columns, or 128 of fp8: rows of 128 bytes under
// the TMA's swizzle. The same image of a tile is K-major for the first product and, as values of 16
// bits, MN-major for the second.
constexpr int panel_row = 128;
constexpr int operand_bytes = bytes_of(FB_Q_TYPE);
// f16 holds values of 8 bits exactly, and is what the fewest instructions make of them:
// probabilities are f16 then, too.
constexpr bool values_as_f16 = FB_Q_TYPE == FB_BF16 && is_fp8(FB_KV_TYPE) && Variant::softmax &&
                               !Variant::has_value && !FB_V_TOKEN_SCALE;
constexpr int value_type = values_as_f16 ? FB_F16 : FB_Q_TYPE;
constexpr int panel_columns = panel_row / operand_bytes;
constexpr int key_panels = round_up(FB_KEY_DIM, panel_columns) / panel_columns;
constexpr int value_panels = round_up(FB_VALUE_DIM, panel_columns) / panel_columns;
// Steps of the two products, of 32 bytes of each operand along K.
constexpr int key_steps = FB_KEY_DIM * operand_bytes / 32;
constexpr int value_steps = FB_KV_TILE * operand_bytes / 32;
constexpr int query_panel = block_rows * panel_row;
constexpr int tile_panel = FB_KV_TILE * panel_row;
constexpr int query_bytes = key_panels * query_panel;
constexpr int key_bytes = key_panels * tile_panel;
// Transposed values are a panel of a row for each column.
constexpr int value_tile_bytes =
    fp8_products ? FB_VALUE_DIM * panel_row : value_panels * tile_panel;
constexpr int raw_key_row = FB_KEY_DIM * value_bytes;
constexpr int raw_value_row = FB_VALUE_DIM * value_bytes;
// Rows of a box, at least: below 8 the swizzle's pattern would not start over, and a lane loads one
// box at most.
constexpr int least_box = key_panels * (FB_KV_TILE / 8) <= 32 * row_blocks ? 8 : 16;
constexpr bool within_panel = FB_KEY_DIM % panel_columns == 0 && FB_VALUE_DIM == panel_columns &&
                              FB_KV_TILE % 32 == 0 && FB_KV_TILE <= panel_columns;
static_assert(!fp8_products || within_panel, "values are transposed within a panel");
static_assert(tile_panel % 1024 == 0, "panels begin where the swizzle's pattern does");
static_assert(value_panels <= key_panels &&
                  key_panels * (FB_KV_TILE / least_box) <= 32 * row_blocks,
              "a lane loads one box at most");

// f16 holds probabilities times scales of values only relative to the largest of these.
constexpr bool weighs_by_power = FB_V_TOKEN_SCALE && FB_Q_TYPE == FB_F16;

// Keys of which a row's first reference is the maximum, at least: of fewer it may lie too low.
constexpr int reference_keys = 32;

// What is noted is read, and besides positions pages are.
constexpr bool reads_notes =
    Variant::reads_keys || FB_MASK || FB_K_TOKEN_SCALE || FB_V_TOKEN_SCALE;
constexpr bool notes_pages = Variant::reads_slots || FB_K_TOKEN_SCALE || FB_V_TOKEN_SCALE;
// More than products and ranges of positions decides what a key counts: tiles are noted.
constexpr bool noted = scores_change || pairs_hide || FB_V_TOKEN_SCALE || changes_by_notes;
// Only masked tiles ask whether a row's factor turns its scores round.
constexpr bool signs_in_masked = fp8_products && !scores_change;
// A logit may be -inf, or a key hidden, in a tile whose positions all rows see.
constexpr bool loses_keys = Variant::has_logits || pairs_hide;
static_assert(!splits_keys || (!noted && changing_groups == 0 && !FB_INVARIANT),
              "halves are joined of plain scores");

// ---- types

// Blocks of keys, counted from the task's first, that a warpgroup's rows see.
struct Reach {
    int32_t begin; // [begin, end): some row sees some key
    int32_t end;
    int32_t whole_begin; // [whole_begin, whole_end): every row sees every key, and the tile before
    int32_t whole_end;
};

// A record as the block takes it.
struct Task {
    fb_attention_record record; // the block's own rows, or keys, of it
    int32_t start;              // kept token at which the first block of keys begins
    int32_t blocks;             // of keys; -1: there is no record left
    int32_t box_rows;           // rows of a box of the tensor maps; 0: rows are gathered
    int32_t tail;               // keys of the last tile; 0: its boxes have no other rows
    int32_t early;              // tile at which the next record is wanted
    int32_t first_key;          // the record's first kept token, if its keys are shared out
    Source source;              // where its keys and values lie
};

// What a task's rows see.
struct TaskRows : ScalesOf<scales_rows, block_rows> {
    Reach reach[score_groups];
    int32_t start; // as the task has it
    int32_t kv_head;
    int32_t low[block_rows]; // kept tokens [low, high] of each row
    int32_t high[block_rows];
    int32_t position[rotates ? block_rows : 2];
    MaskRow mask[FB_MASK ? block_rows : 1];
    Variant::Row words[Variant::row_words == 0 ? 1 : block_rows];
};

// What is known of a tile's keys.
struct Notes {
    int32_t position[FB_KV_TILE];
    int32_t slot[FB_KV_TILE]; // as KeyInputs has it
    float k_scale[FB_KV_TILE];
    float v_scale[FB_KV_TILE];
};

// ---- shared memory

constexpr int task_count = 3; // one that is stored, one that is computed, one that is loaded
constexpr int rows_count = 2;
constexpr int mail_count = 8; // tickets that the cluster's first block may be ahead of the others

struct Barriers {
    uint64_t keys_landed[FB_STAGES]; // where they wait
    uint64_t raw_keys_empty[FB_STAGES];
    uint64_t values_landed[FB_STAGES];
    uint64_t raw_values_empty[FB_STAGES];
    uint64_t keys_full[FB_STAGES];
    uint64_t keys_empty[FB_STAGES];
    uint64_t values_full[FB_STAGES];
    uint64_t values_empty[FB_STAGES];
    uint64_t task_wanted;
    uint64_t task_full[task_count]; // for those who load
    uint64_t task_empty[task_count];
    uint64_t rows_landed[rows_count]; // for those who turn queries
    uint64_t rows_full[rows_count]; // for those who compute: the queries are there, too
    uint64_t rows_empty[rows_count];
    uint64_t queries_empty[FB_QUERY_BUFFERS];
    uint64_t mail_full[mail_count];
};

// Probabilities on their way from the warps that score to those that multiply values: two tiles of
// 32 keys side by side in the rows of one panel.
constexpr int weight_slots = 2;
constexpr int weight_bytes = 64; // of a row and tile

// What is left of a row when its keys are done: the base of exponents, the sum of probabilities,
// the unit of the sums of values.
struct RowEnd {
    float base;
    float sum;
    float unit;
};
template <bool> struct WeightsOf {
    alignas(1024) unsigned char panel[group_rows * panel_row];
    float keep[weight_slots][group_rows]; // what a row's sums are multiplied by before
    RowEnd ends[group_rows];
    uint64_t full[weight_slots];
    uint64_t empty[weight_slots];
    uint64_t ends_full;
    uint64_t ends_empty;
};
template <> struct WeightsOf<false> {};
using Weights = WeightsOf<passes_scores>;

struct Tiles {
    alignas(1024) unsigned char queries[FB_QUERY_BUFFERS][query_bytes];
    unsigned char keys[FB_STAGES][key_bytes];
    unsigned char values[FB_STAGES][value_tile_bytes];
};

// Of the keys in the same stage.
template <bool> struct NotesOf {
    Notes notes[FB_STAGES];
};
template <> struct NotesOf<false> {};

// Rows as they lie in global memory.
template <bool, int Row, class> struct RawOf {
    alignas(128) unsigned char tiles[FB_RAW_STAGES][FB_KV_TILE * Row];
    FB_DEVICE unsigned char* at(int i) { return tiles[i]; }
};
template <int Row, class Of> struct RawOf<false, Row, Of> {
    FB_DEVICE unsigned char* at(int) { return nullptr; }
};
struct RawKeys : RawOf<keys_land_raw, raw_key_row, RawKeys> {};
struct RawValues : RawOf<values_land_raw, raw_value_row, RawValues> {};

// Sums of tiles before, of each thread that computes; lanes side by side use different banks.
template <bool> struct LongSumsOf {
    alignas(16) float4 long_sums[FB_VALUE_DIM / 8][128 * computing_groups];
};
template <> struct LongSumsOf<false> {};

// The state of the second block's rows on its way to the first, by thread, in pieces of 16 bytes:
// sums, and what is known of its two rows.
constexpr int half_pieces = FB_VALUE_DIM / 8 + 1;
template <bool> struct HalfOf {
    alignas(16) uint4 half[half_pieces][128];
    uint64_t half_full;
    uint64_t half_empty;
};
template <> struct HalfOf<false> {};

template <bool> struct RotationOf {
    alignas(16) Rotation rotation;
};
template <> struct RotationOf<false> {};

struct Shared : Tiles,
                Weights,
                RawKeys,
                RawValues,
                LongSumsOf<fp8_products>,
                HalfOf<splits_keys>,
                RotationOf<rotates>,
                NotesOf<noted> {
    Task tasks[task_count];
    TaskRows rows[rows_count];
    Barriers barriers;
    uint32_t mail[mail_count];
};
static_assert(sizeof(Shared) == FB_SHARED_BYTES, "the planner's formula is another");

// Those of a stage; null: nothing is noted.
template <class Memory> FB_DEVICE Notes* notes_of(Memory& shared, int stage) {
    if constexpr (noted) return &shared.notes[stage];
    else return nullptr;
}

// What turns queries and keys; null: nothing does.
template <class Memory> FB_DEVICE Rotation* rotation_of(Memory& shared) {
    if constexpr (rotates) return &shared.rotation;
    else return nullptr;
}

// The position in a ring of slots, whose barriers change parity with every round.
template <int slots> struct Turn {
    int place = 0; // of two rounds

    // The n-th turn.
    static FB_DEVICE Turn at(uint32_t n) { return {int(n % (2 * slots))}; }

    FB_DEVICE int slot() const { return place < slots ? place : place - slots; }
    FB_DEVICE uint32_t parity() const { return place < slots ? 0 : 1; }
    FB_DEVICE void advance() { place = place == 2 * slots - 1 ? 0 : place + 1; }
};

struct Block {
    const fb_attention_map_params& p;
    Shared& shared;

    FB_DEVICE const fb_attention_params& attention() const { return p.attention; }
};

// The same value, of which the compiler knows that it is that of the whole warp: descriptors and
// loops that depend on it need no registers of each thread.
FB_DEVICE int32_t uniform(int32_t x) { return __shfl_sync(0xffffffffu, x, 0); }

FB_DEVICE uint32_t rank_in_cluster() { return FB_CLUSTER > 1 ? cluster_rank() : 0; }
// Among those that share rows out.
FB_DEVICE uint32_t rank_of_rows() { return row_blocks > 1 ? cluster_rank() : 0; }

// Of a row in a panel, where the 16-byte piece `piece` lies.
FB_DEVICE uint32_t swizzled_piece(int row, int piece) { return uint32_t((piece ^ (row & 7)) * 16); }

// ---- barriers

FB_DEVICE void wait(const uint64_t& barrier, uint32_t parity) {
    mbarrier_wait(shared_address(&barrier), parity);
}

FB_DEVICE void arrive(const uint64_t& barrier) { mbarrier_arrive(shared_address(&barrier)); }

FB_DEVICE void init(const uint64_t& barrier, uint32_t arrivals) {
    mbarrier_init(shared_address(&barrier), arrivals);
}

FB_DEVICE void init_weights(WeightsOf<false>&) {}
FB_DEVICE void init_weights(WeightsOf<true>& w) {
    for (int i = 0; i < weight_slots; i++) {
        init(w.full[i], 4 * score_groups);
        init(w.empty[i], 4 * value_groups);
    }
    init(w.ends_full, 4 * score_groups);
    init(w.ends_empty, 4 * value_groups);
}

template <class Memory> FB_DEVICE void init_half(Memory& memory) {
    if constexpr (splits_keys) {
        init(memory.half_full, 1);
        init(memory.half_empty, 4);
    }
}

// By one thread.
FB_DEVICE void init_barriers(Shared& memory) {
    Barriers& b = memory.barriers;
    // All blocks write a stage that is loaded, each its own one that is changed.
    const auto releases = [](int groups, bool raw) { return 4 * groups * (raw ? 1 : row_blocks); };
    for (int i = 0; i < FB_STAGES; i++) {
        init(b.keys_full[i], keys_wait ? changing_warps : 1);
        init(b.keys_empty[i], releases(score_groups, keys_land_raw));
        init(b.values_full[i], values_wait ? changing_warps : 1);
        init(b.values_empty[i], releases(value_groups, values_land_raw));
    }
    for (int i = 0; i < FB_STAGES && changing_groups > 0; i++) {
        init(b.keys_landed[i], 1);
        init(b.raw_keys_empty[i], changing_warps * row_blocks);
        init(b.values_landed[i], 1);
        init(b.raw_values_empty[i], changing_warps * row_blocks);
    }
    for (int i = 0; i < task_count; i++) {
        init(b.task_full[i], 1);
        init(b.task_empty[i], computing_warps + changing_warps + 2);
    }
    for (int i = 0; i < rows_count; i++) {
        init(b.rows_landed[i], 2);
        init(b.rows_full[i], rotates ? changing_warps : 2);
        init(b.rows_empty[i], computing_warps);
    }
    init(b.task_wanted, 1);
    for (int i = 0; i < FB_QUERY_BUFFERS; i++) init(b.queries_empty[i], 4 * score_groups);
    for (int i = 0; i < mail_count; i++) init(b.mail_full[i], 1);
    init_weights(memory);
    init_half(memory);
    fence_mbarrier_init();
}

// ---- products

// Columns of one product with values: 256 would need more registers than a thread of 512 has at the
// kernel's entry.
#if FB_VALUE_GROUPS > 0 || (FB_THREADS == 512 && FB_VALUE_DIM == 256)
#define FB_SUM_COLUMNS 128
#else
#define FB_SUM_COLUMNS FB_VALUE_DIM
#endif

// FB_SCORES takes queries from registers, FB_SHARED_SCORES from shared memory; so do FB_VALUES with
// probabilities.
#if FB_Q_TYPE == FB_F8E4M3
FB_WGMMA_FP8(e4m3, FB_KV_TILE)
#if FB_SUM_COLUMNS != FB_KV_TILE
FB_WGMMA_FP8(e4m3, FB_SUM_COLUMNS)
#endif
#define FB_SCORES wgmma_e4m3
#define FB_SHARED_SCORES wgmma_e4m3
#define FB_VALUES wgmma_e4m3
#elif FB_Q_TYPE == FB_BF16
FB_WGMMA(bf16, FB_KV_TILE)
#if FB_SUM_COLUMNS != FB_KV_TILE
FB_WGMMA(bf16, FB_SUM_COLUMNS)
#endif
#define FB_SCORES wgmma_bf16<0>
#define FB_SHARED_SCORES wgmma_bf16<0, 0>
FB_WGMMA(f16, FB_SUM_COLUMNS)
#define FB_VALUES wgmma_bf16<1>
#define FB_SHARED_VALUES wgmma_bf16<0, 1>
#else
FB_WGMMA(f16, FB_KV_TILE)
#if FB_SUM_COLUMNS != FB_KV_TILE
FB_WGMMA(f16, FB_SUM_COLUMNS)
#endif
#define FB_SCORES wgmma_f16<0>
#define FB_SHARED_SCORES wgmma_f16<0, 0>
#define FB_VALUES wgmma_f16<1>
#define FB_SHARED_VALUES wgmma_f16<0, 1>
#endif

// Probabilities in registers by values.
template <int n>
FB_DEVICE void multiply_values(float (&d)[n], const uint32_t (&a)[4], uint64_t b, bool accumulate) {
    if constexpr (values_as_f16) wgmma_f16<1>(d, a, b, accumulate);
    else FB_VALUES(d, a, b, accumulate);
}
