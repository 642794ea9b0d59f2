#pragma once
// What a specialisation of the tiled kernels is made of: macros that come before the source.
//
//   FB_QUERY_TILE      packed query rows of a record at most: 16, 64 or 128
//   FB_KV_TILE         keys that a block takes at a time: 16, 32 or 64
//   FB_THREADS         threads of a block
//   FB_MIN_BLOCKS      blocks that are to be resident on a processor
//   FB_STAGES          steps of keys and values in the ring; block.h knows 1 and 2
//   FB_SHARED_BYTES    dynamic shared memory, compared with the layout
//   FB_KEY_DIM         multiple of 8
//   FB_VALUE_DIM       multiple of 8
//   FB_Q_TYPE          FB_F16 or FB_BF16: queries, and the operands of both products
//   FB_KV_TYPE         FB_F16, FB_BF16, FB_F8E4M3 or FB_F8E5M2
//   FB_OUT_TYPE        FB_F32, FB_F16 or FB_BF16
//   FB_ROPE            0: none, 1: the halves of rope_dim are pairs, 2: neighbours are pairs
//   FB_DEVICE_LENGTHS  1: kv_lengths or query_lengths clamp what was planned
//   FB_MASK            1: packed mask bits
//   FB_K_TOKEN_SCALE, FB_V_TOKEN_SCALE   1: used
//
// And of the hooks of `struct Variant`. Everything else is read from fb_attention_params.
//
// Rounding: queries, keys and values are rounded once to FB_Q_TYPE after rotation and hooks,
// probabilities (times the value's token scale) once before the second product; all else is f32.
// Scores come in base 2.
#include "../../ptx/base.h"
#include "../../ptx/special.h"
#include "../variant.h"

#include "../../params/attention.h"

constexpr int warp_count = FB_THREADS / 32;
constexpr int value_bytes = FB_KV_TYPE == FB_F16 || FB_KV_TYPE == FB_BF16 ? 2 : 1;
// Queries (keys, values) pass through f32 between global memory and the product.
constexpr bool queries_change = FB_ROPE != 0 || Variant::has_query;
constexpr bool keys_change = FB_KV_TYPE != FB_Q_TYPE || FB_ROPE != 0 || Variant::has_key;
constexpr bool values_change = FB_KV_TYPE != FB_Q_TYPE || Variant::has_value;
// Scores change between the first product and the mask.
constexpr bool scores_change = FB_K_TOKEN_SCALE || Variant::has_logits || !Variant::softmax;
// More than its position decides whether a row sees a key.
constexpr bool pairs_hide = FB_MASK || Variant::has_mask;
constexpr int32_t no_position = -0x7fffffff - 1;
// Position of tokens past the end: no row sees it.
constexpr int32_t past_end = 0x7fffffff;
constexpr int32_t last_position = past_end - 1;

FB_DEVICE constexpr int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Registers are full of sums: what follows from the thread's index is cheaper to compute again.
FB_DEVICE int thread_now() { return recomputed(int(threadIdx.x)); }
FB_DEVICE int lane_now() { return recomputed(int(threadIdx.x)) % 32; }

static_assert(FB_KEY_DIM % 8 == 0 && FB_VALUE_DIM % 8 == 0, "dims are multiples of 8");
static_assert(FB_Q_TYPE == FB_F16 || FB_Q_TYPE == FB_BF16, "products take f16 and bf16");
static_assert(FB_ROPE == 0 || !(Variant::has_query || Variant::has_key), "one owner a hook");
static_assert(FB_KV_TILE % 16 == 0, "the second product takes 16 keys at a time");

// Rows of 16-byte chunks in shared memory. Eight rows' chunks of one column lie in different banks:
// by XOR with the row where a row (and a warp's slice of it) fills whole groups of eight chunks,
// else by an odd row length.
template <int Chunks, int Slice = Chunks> struct Tile {
    static constexpr bool swizzled = Slice % 8 == 0;
    static constexpr int chunks = Chunks;
    static constexpr int row_bytes = (swizzled ? Chunks : Chunks | 1) * 16;

    static FB_DEVICE uint32_t at(int row, int chunk) {
        return uint32_t(row * row_bytes + (swizzled ? chunk ^ (row & 7) : chunk) * 16);
    }

    // `row` (a multiple of 8) and `chunk` (even) further than `base`, an address made by at() of a
    // chunk 0 or 1 of the slice: constants fold into the instruction's offset.
    static FB_DEVICE uint32_t step(uint32_t base, int row, int chunk) {
        if (!swizzled) return base + uint32_t(row * row_bytes + chunk * 16);
        return (base ^ uint32_t((chunk & 7) << 4)) + uint32_t(row * row_bytes + (chunk & ~7) * 16);
    }
};
