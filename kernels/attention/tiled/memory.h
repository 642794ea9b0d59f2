// The shared memory of the decode kernel.
#pragma once
#include "copy.h"
#include "../common/again.h"
#include "../common/arrive.h"
#include "project.h"

constexpr int most_warps = FB_MOST_THREADS / 32;
constexpr int step_keys = FB_STEP_KEYS;
constexpr int row_blocks = FB_QUERY_TILE / 8;
constexpr bool shares_keys = FB_CLUSTER > 1;
static_assert(FB_QUERY_TILE % 8 == 0 && (step_keys == 16 || step_keys == 32), "whole products");

// Without softmax, weights may be more than f16 holds.
constexpr bool keys_widen = value_bytes == 1 && !rotates && !Variant::has_key &&
                            !Variant::projects_query && FB_KEY_DIM % 16 == 0;
constexpr bool values_widen =
    value_bytes == 1 && Variant::softmax && !Variant::has_value && FB_VALUE_DIM % 16 == 0;
// Others that change pass through f32 to a tile of their own.
constexpr bool keys_pass = keys_change && !keys_widen;
constexpr bool values_pass = values_change && !values_widen;

constexpr int value_chunks = round_up(FB_VALUE_DIM, 16) / 8;
using KeyRows = Tile<keys_widen ? FB_KEY_DIM / 16 : key_chunks>;
using ValueRows = Tile<values_widen ? FB_VALUE_DIM / 16 : value_chunks>;
using StepTokens = Tokens<step_keys>;

// A warp's ring of key and value rows, then the tiles that changed rows are written to. At the end
// its sums lie there, rows eight floats apart from a power of two.
constexpr int key_tile_bytes = step_keys * KeyRows::row_bytes;
constexpr int value_tile_bytes = step_keys * ValueRows::row_bytes;
constexpr int stage_keys = keys_pass ? step_keys * RawRows<FB_KEY_DIM>::row_bytes : key_tile_bytes;
constexpr int stage_values =
    values_pass ? step_keys * RawRows<FB_VALUE_DIM>::row_bytes : value_tile_bytes;
constexpr int stage_bytes = stage_keys + stage_values;
constexpr int changed_keys_at = FB_STAGES * stage_bytes;
constexpr int changed_values_at = changed_keys_at + (keys_pass ? key_tile_bytes : 0);
constexpr int ring_bytes = changed_values_at + (values_pass ? value_tile_bytes : 0);
constexpr int sums_stride = value_chunks * 8 + 8;
constexpr int sums_bytes = FB_QUERY_TILE * sums_stride * 4;
static_assert(sums_stride == output_stride, "sums become rows that are multiplied");

struct RowSum {
    float base; // inf: what the warp has of values is wrong
    float sum;
};

// What a warp knows of its keys, behind its ring.
struct WarpState {
    RowSum sums[FB_QUERY_TILE];
    RowAddresses<step_keys> addresses;
    StepTokens tokens[FB_STAGES];
};

constexpr int warp_state_at = max_of(ring_bytes, sums_bytes);
constexpr int warp_bytes = round_up(warp_state_at + int(sizeof(WarpState)), 128);
// Where all that is done with, rows merge.
constexpr int merge_bytes = int(sizeof(MergeRoom));
constexpr int warps_bytes = max_of(max_of(warp_count * warp_bytes, merge_bytes), least_room_bytes);

struct State {
    Work work;
    RowFacts rows;
    float units[FB_QUERY_TILE]; // of queries that were widened
    Arrivals arrivals;
};

constexpr int state_at = FB_QUERY_TILE * KeyTile::row_bytes;
constexpr int rotation_at = round_up(state_at + int(sizeof(State)), 16);
// Tiles begin where the swizzle's pattern does.
constexpr int warps_at = round_up(rotation_at + rotation_bytes, 128);

// What a warp merges at a time: where blocks share keys 64 columns of a row, so that all warps of
// all blocks have some of a few rows.
constexpr int piece_columns = shares_keys ? 64 : FB_VALUE_DIM;
constexpr int row_pieces = FB_VALUE_DIM / piece_columns;
static_assert(row_pieces * piece_columns == FB_VALUE_DIM, "whole pieces");
static_assert(warp_count % row_pieces == 0, "a warp's pieces have the same columns");

// A block's sums of a piece, in the block that merges it.
struct SentPiece {
    float values[piece_columns];
    RowSum sum;
};
struct Received {
    SentPiece pieces[FB_QUERY_TILE * row_pieces][FB_CLUSTER];
    uint64_t full; // counts their bytes
};

constexpr int received_at = warps_at + warps_bytes;
constexpr int shared_bytes = received_at + (shares_keys ? int(sizeof(Received)) : 0);
static_assert(shared_bytes == FB_SHARED_BYTES, "the planner's formula is another");
static_assert(FB_THREADS == FB_MOST_THREADS ||
                  !(Variant::projects_query || Variant::projects_output),
              "FB_THREADS multiply rows");

struct Block {
    const fb_attention_params& p;
    unsigned char* memory;
    uint32_t shared; // its address
    int rank;        // in a cluster that shares keys

    FB_DEVICE int warp() const { return int(threadIdx.x) / 32; }
    FB_DEVICE int warps() const {
        return FB_THREADS == FB_MOST_THREADS ? warp_count : int(blockDim.x) / 32;
    }
    // Of those that share a record's keys out: short requests fill a part of each block.
    FB_DEVICE int share() const { return warp() * FB_CLUSTER + rank; }
    FB_DEVICE int shares() const { return warps() * FB_CLUSTER; }
    FB_DEVICE State& state() const { return *reinterpret_cast<State*>(memory + state_at); }
    FB_DEVICE Rotation& rotation() const {
        return *reinterpret_cast<Rotation*>(memory + rotation_at);
    }
    FB_DEVICE const fb_attention_record& record() const { return state().work.record; }
    FB_DEVICE MergeRoom& merging() const {
        return *reinterpret_cast<MergeRoom*>(memory + warps_at);
    }
    FB_DEVICE Room room() const { return {memory, reinterpret_cast<float*>(memory + warps_at)}; }
    FB_DEVICE unsigned char* ring() const { return memory + warps_at + warp() * warp_bytes; }
    FB_DEVICE uint32_t ring_address() const { return shared + warps_at + warp() * warp_bytes; }
    FB_DEVICE WarpState& state_of(int warp) const {
        return *reinterpret_cast<WarpState*>(memory + warps_at + warp * warp_bytes + warp_state_at);
    }
    FB_DEVICE WarpState& own() const { return state_of(warp()); }
    FB_DEVICE Received& received() const {
        return *reinterpret_cast<Received*>(memory + received_at);
    }
};
