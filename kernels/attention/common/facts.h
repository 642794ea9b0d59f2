#pragma once
// What every specialisation of an attention kernel is made of: macros that come before the source.
//
//   FB_QUERY_TILE      packed query rows of a record at most
//   FB_KV_TILE         keys that a block takes at a time
//   FB_THREADS         threads of a block
//   FB_CLUSTER         blocks that take a record together; 1 where it is left out
//   FB_SHARED_BYTES    dynamic shared memory, compared with the layout
//   FB_KEY_DIM         multiple of 8
//   FB_VALUE_DIM       multiple of 8
//   FB_Q_TYPE          FB_F16 or FB_BF16: the operands of both products; on Hopper FB_F8E4M3, too
//   FB_QUERY_TYPE      of queries as they come: FB_Q_TYPE, where it is left out, or fp8 with scales
//   FB_KV_TYPE         FB_F16, FB_BF16, FB_F8E4M3 or FB_F8E5M2
//   FB_OUT_TYPE        FB_F32, FB_F16, FB_BF16, FB_F8E4M3 or FB_F8E5M2
//   FB_ROPE            0: none, 1: pairs of the elements of two halves turn, 2: of neighbours
//   FB_ROPE_FIRST, FB_ROPE_DIM   the elements that turn; with a FB_ROPE of 1 or 2
//   FB_DEVICE_LENGTHS  1: kv_lengths or query_lengths clamp what was planned
//   FB_MASK            1: packed mask bits
//   FB_KEY_POSITIONS   1: keys may have been given positions (key_positions)
//   FB_K_TOKEN_SCALE, FB_V_TOKEN_SCALE   1: used
//   FB_KEY_TAIL        the last elements of keys that lie in k_tail; 0 where it is left out
//   FB_VALUE_PAGES     1: values have a page table of their own; likewise 0
//   FB_QUERY_DIM       elements of a row of queries as it comes; FB_KEY_DIM where it is left out
//   FB_RAGGED_ROWS     1: rows of a paged layout may lie in k_ragged and v_ragged; likewise 0
//
// And of the hooks of `struct Variant`. Everything else is read from fb_attention_params. Scores
// come in base 2.
#include "../../ptx/base.h"
#include "../../ptx/special.h"
#include "../variant.h"

#include "../../params/attention.h"

#ifndef FB_CLUSTER
#define FB_CLUSTER 1
#endif
#ifndef FB_QUERY_TYPE
#define FB_QUERY_TYPE FB_Q_TYPE
#endif
#ifndef FB_QUERY_DIM
#define FB_QUERY_DIM FB_KEY_DIM
#endif
#ifndef FB_VALUE_PAGES
#define FB_VALUE_PAGES 0
#endif
#ifndef FB_RAGGED_ROWS
#define FB_RAGGED_ROWS 0
#endif
#if FB_ROPE == 0
#define FB_ROPE_FIRST 0
#define FB_ROPE_DIM 0
#endif

FB_DEVICE constexpr bool is_fp8(int type) { return type == FB_F8E4M3 || type == FB_F8E5M2; }
FB_DEVICE constexpr int bytes_of(int type) { return type == FB_F32 ? 4 : is_fp8(type) ? 1 : 2; }

constexpr int value_bytes = bytes_of(FB_KV_TYPE);
constexpr int query_element = bytes_of(FB_QUERY_TYPE); // bytes
constexpr int out_element = bytes_of(FB_OUT_TYPE);
// Products of a row are multiplied by its query's scale.
constexpr bool scales_rows = is_fp8(FB_QUERY_TYPE);
// Queries (keys, values) pass through f32 between global memory and the product.
constexpr bool queries_change =
    FB_QUERY_TYPE != FB_Q_TYPE || Variant::has_query || Variant::projects_query;
constexpr bool keys_change = FB_KV_TYPE != FB_Q_TYPE || Variant::has_key;
constexpr bool values_change = FB_KV_TYPE != FB_Q_TYPE || Variant::has_value;
// Queries and keys turn by their positions, after that.
constexpr bool rotates = FB_ROPE != 0;
// Scores change between the first product and the mask.
constexpr bool scores_change = FB_K_TOKEN_SCALE || Variant::has_logits || !Variant::softmax;
// More than its position decides whether a row sees a key.
constexpr bool pairs_hide = FB_MASK || Variant::has_mask;
// Bits of a mask are found by places, which are then no positions.
constexpr bool keeps_places = FB_KEY_POSITIONS && FB_MASK;
constexpr int32_t no_position = -0x7fffffff - 1;
// Position of tokens past the end: no row sees it.
constexpr int32_t past_end = 0x7fffffff;
constexpr int32_t last_position = past_end - 1;

FB_DEVICE constexpr int max_of(int a, int b) { return a > b ? a : b; }
FB_DEVICE constexpr int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// Neighbouring lanes that hold the 8-element chunks of a row, or 0: they are anywhere.
FB_DEVICE constexpr int row_lanes(int chunks) { return 32 % chunks == 0 ? chunks : 0; }

// The chunk that a thread takes in turn `i`.
struct Item {
    int row;
    int chunk;
};

template <int Chunks, int Threads> FB_DEVICE Item item_of(int thread, int i) {
    if constexpr (Threads % Chunks == 0)
        return {thread / Chunks + i * (Threads / Chunks), thread % Chunks};
    const int item = thread + i * Threads;
    return {item / Chunks, item % Chunks};
}

// Registers are full of sums: what follows from the thread's index is cheaper to compute again.
// `shifts`: the compiler knows that it is not below 0, divisions by powers of 2 are shifts.
template <bool shifts> FB_DEVICE int thread_of() {
    const int thread = recomputed(int(threadIdx.x));
    if (shifts) __builtin_assume(thread >= 0);
    return thread;
}
#ifdef FB_QUERIES_KEPT // Hopper's, where it was measured; 512 threads would spill by that of lanes.
FB_DEVICE int thread_now() { return thread_of<true>(); }
FB_DEVICE int lane_now() { return thread_of<(FB_THREADS < 512)>() % 32; }
#else
FB_DEVICE int thread_now() { return thread_of<false>(); }
FB_DEVICE int lane_now() { return thread_of<false>() % 32; }
#endif

static_assert(FB_KEY_DIM % 8 == 0 && FB_VALUE_DIM % 8 == 0, "dims are multiples of 8");
static_assert(FB_Q_TYPE == FB_F16 || FB_Q_TYPE == FB_BF16 || FB_Q_TYPE == FB_F8E4M3,
              "products take f16, bf16 and e4m3");
static_assert(!rotates || !(Variant::has_query || Variant::has_key || Variant::projects_query),
              "one owner a hook");
static_assert(FB_KV_TILE % 16 == 0, "the second product takes 16 keys at a time");
