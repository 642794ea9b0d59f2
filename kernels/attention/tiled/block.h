// The whole block takes a tile of keys at a time; a warp owns rows and, where values are wide, a
// slice of the value columns (then it computes its rows' scores anew).
//
// Without change of elements and with one stage, values load under the first product and the next
// keys under the softmax and the second; with two stages the next keys and values load under all of
// this tile. Changed elements are loaded raw under the products, then written to the one tile.
#pragma once
#include "copy.h"
#include "finish.h"
#include "products.h"
#include "scores.h"

// ---- shared memory

// A warp has 16 rows, or 32 where there are more rows than that.
constexpr int row_blocks = FB_QUERY_TILE > 16 * warp_count ? 2 : 1;
constexpr int warp_rows = 16 * row_blocks;
constexpr int row_warps = FB_QUERY_TILE / warp_rows;
constexpr int column_warps = warp_count / row_warps;
constexpr int warp_columns = round_up(FB_VALUE_DIM, 16 * column_warps) / column_warps;
constexpr int value_chunks = warp_columns / 8 * column_warps;
using ValueTile = Tile<value_chunks, warp_columns / 8>;
static_assert(row_warps * column_warps == warp_count, "warps form a grid of rows and columns");
static_assert(row_blocks * warp_columns <= 256, "sums do not fit the registers");
static_assert(FB_THREADS >= FB_KV_TILE && FB_THREADS >= FB_QUERY_TILE, "a thread for each row");

// Keys scored together: fewer where a warp has more rows, for the registers.
constexpr int part_keys = row_blocks == 2 && FB_KV_TILE > 32 ? 32 : FB_KV_TILE;
static_assert(FB_STAGES == 2 || part_keys == FB_KV_TILE, "one stage scores a tile at once");

constexpr bool changes = keys_change || values_change;
static_assert(FB_STAGES == 2 || (FB_STAGES == 1 && !changes), "changed elements need two stages");

// Tokens of four tiles: being copied, copied, masked, and the one that is found.
constexpr int slots = 4;
using BlockPlaces = Places<FB_KV_TILE>;
using BlockTokens = Tokens<FB_KV_TILE>;

constexpr int key_tile_bytes = FB_KV_TILE * KeyTile::row_bytes;
constexpr int value_tile_bytes = FB_KV_TILE * ValueTile::row_bytes;
constexpr int key_tiles_at = FB_QUERY_TILE * KeyTile::row_bytes;
constexpr int value_tiles_at = key_tiles_at + (keys_change ? 1 : FB_STAGES) * key_tile_bytes;
constexpr int raw_keys_at = value_tiles_at + (values_change ? 1 : FB_STAGES) * value_tile_bytes;
constexpr int raw_values_at =
    raw_keys_at + (keys_change ? FB_KV_TILE * RawRows<FB_KEY_DIM>::row_bytes : 0);
constexpr int places_at =
    raw_values_at + (values_change ? FB_KV_TILE * RawRows<FB_VALUE_DIM>::row_bytes : 0);
constexpr int tokens_at = places_at + slots * int(sizeof(BlockPlaces));
constexpr int rows_at = tokens_at + slots * int(sizeof(BlockTokens));
constexpr int state_at = rows_at + int(sizeof(RowFacts));

// What would be registers, if they were not all taken.
struct BlockState {
    Work work;
    Span span;
    float factor;
    uint32_t reserved;
    Bounds bounds[warp_count];
};

constexpr int shared_bytes = state_at + int(sizeof(BlockState));
static_assert(shared_bytes == FB_SHARED_BYTES, "the planner's formula is another");

struct Block {
    const fb_attention_params& p;
    unsigned char* memory;
    uint32_t shared; // its address

    FB_DEVICE int thread() const { return thread_now(); }
    FB_DEVICE BlockState& state() const {
        return *reinterpret_cast<BlockState*>(memory + state_at);
    }
    FB_DEVICE const fb_attention_record& record() const { return state().work.record; }
    FB_DEVICE RowFacts& rows() const { return *reinterpret_cast<RowFacts*>(memory + rows_at); }
    FB_DEVICE BlockPlaces& places(int tile) const {
        return reinterpret_cast<BlockPlaces*>(memory + places_at)[tile % slots];
    }
    FB_DEVICE BlockTokens& tokens(int tile) const {
        return reinterpret_cast<BlockTokens*>(memory + tokens_at)[tile % slots];
    }
};

// ---- load

FB_DEVICE int32_t token_of(const Block& b, const Span& span, int tile) {
    return span.start + tile * FB_KV_TILE + b.thread();
}

// Copies the page id of this thread's token of a tile: note_token() reads it after the next wait.
FB_DEVICE void find_token(const Block& b, const Span& span, int tile) {
    const int thread = b.thread();
    if (thread >= FB_KV_TILE) return;
    const auto* entry = page_entry(b.p, b.record(), token_of(b, span, tile), span.end);
    if (entry != nullptr) cp_async_4(shared_address(&b.tokens(tile).page[thread]), entry);
}

FB_DEVICE void note_token(const Block& b, const Span& span, int tile) {
    const int thread = b.thread();
    if (thread >= FB_KV_TILE) return;
    const fb_attention_record& r = b.record();
    BlockTokens& tokens = b.tokens(tile);
    const int32_t token = token_of(b, span, tile);
    const Place place = place_of(b.p, r, token, span.end, tokens.page[thread]);
    b.places(tile).k[thread] = row_address(b.p.k, r.kv_head, place);
    b.places(tile).v[thread] = row_address(b.p.v, r.kv_head, place);
    tokens.position[thread] = place.position;
    // These land with whatever copy is committed next, which is waited for before the tile's own.
    if (FB_K_TOKEN_SCALE) copy_scale(b.p.k_scale, r, place, &tokens.k_scale[thread]);
    if (FB_V_TOKEN_SCALE) copy_scale(b.p.v_scale, r, place, &tokens.v_scale[thread]);
}

FB_DEVICE void copy_keys(const Block& b, int tile, int count) {
    const int at = keys_change ? raw_keys_at : key_tiles_at + tile % FB_STAGES * key_tile_bytes;
    copy_tokens<KeyTile, FB_KEY_DIM, keys_change, FB_KV_TILE, FB_THREADS>(
        b.shared + at, b.places(tile).k, count, b.thread());
}

FB_DEVICE void copy_values(const Block& b, int tile, int count) {
    const int at =
        values_change ? raw_values_at : value_tiles_at + tile % FB_STAGES * value_tile_bytes;
    copy_tokens<ValueTile, FB_VALUE_DIM, values_change, FB_KV_TILE, FB_THREADS>(
        b.shared + at, b.places(tile).v, count, b.thread());
}

// Copies what is loaded while the tile before is worked on; `count` tokens are left from it on.
FB_DEVICE void copy_ahead(const Block& b, int tile, int count) {
    if (count <= 0) return;
    copy_keys(b, tile, count);
    if (FB_STAGES == 2) copy_values(b, tile, count);
    cp_async_commit();
}

FB_DEVICE void change_tile(const Block& b, int tile) {
    const int32_t* positions = b.tokens(tile).position;
    if (keys_change)
        change_rows<KeyTile, FB_KEY_DIM, FB_ROPE != 0, FB_KV_TILE, FB_THREADS>(
            b.p, b.memory + raw_keys_at, b.shared + key_tiles_at, positions, b.thread());
    if (values_change)
        change_rows<ValueTile, FB_VALUE_DIM, false, FB_KV_TILE, FB_THREADS>(
            b.p, b.memory + raw_values_at, b.shared + value_tiles_at, positions, b.thread());
}

// ---- compute

FB_DEVICE int first_row(const Block& b) { return b.thread() / 32 % row_warps * warp_rows; }
FB_DEVICE int first_column(const Block& b) { return b.thread() / 32 / row_warps * warp_columns; }

// What a warp has of its rows and columns.
struct Sums {
    RowStates<row_blocks> rows;
    float out[row_blocks][warp_columns / 8][4];
};

FB_DEVICE void begin_sums(const Block& b, Sums& sums) {
    sums.rows = no_state<row_blocks>();
    clear(sums.out);
    const Bounds bounds = bounds_of(b.rows(), first_row(b), warp_rows, b.record().row_count);
    if (lane_now() == 0) b.state().bounds[b.thread() / 32] = bounds;
    __syncwarp();
}

using Scores = float[row_blocks][part_keys / 8][4];

// The keys of a tile from `first` on, whether the warp's rows see any of them, and all.
FB_DEVICE bool look_at(const Block& b, int tile, int first, Keys& keys) {
    const BlockTokens& tokens = b.tokens(tile);
    const Bounds& bounds = b.state().bounds[b.thread() / 32];
    const int32_t low = tokens.position[first];
    const int32_t high = tokens.position[first + part_keys - 1];
    keys = {tokens.position + first, tokens.k_scale + first, tokens.v_scale + first, false, false};
    if (FB_MASK) {
        const fb_attention_record& r = b.record();
        const int32_t start = b.state().span.start + tile * FB_KV_TILE + first;
        keys.bits = start < r.full_start || start + part_keys > r.full_end;
    }
    keys.masked = keys.bits || low < bounds.all_low || high > bounds.all_high;
    return low <= bounds.any_high && high >= bounds.any_low;
}

FB_DEVICE void score(const Block& b, int tile, int first, Scores& s) {
    const int at = key_tiles_at + (keys_change ? 0 : tile % FB_STAGES) * key_tile_bytes;
    const uint32_t queries = row_base<KeyTile>(b.shared + first_row(b) * KeyTile::row_bytes);
    const uint32_t keys = key_base<KeyTile>(b.shared + at + first * KeyTile::row_bytes);
    clear(s);
    FB_UNROLL
    for (int step = 0; step < key_chunks / 2; step++) {
        uint32_t q[row_blocks][4];
        FB_UNROLL
        for (int m = 0; m < row_blocks; m++)
            ldmatrix_x4(q[m], KeyTile::step(queries, m * 16, step * 2));
        add_scores<KeyTile>(q, keys, step, s);
    }
}

FB_DEVICE void add(const Block& b, int tile, int first, const Keys& keys, Scores& s, Sums& sums) {
    const float factor = b.state().factor;
    probabilities(b.p, b.rows(), first_row(b), keys, factor, s, sums.rows, sums.out);
    const int at = value_tiles_at + (values_change ? 0 : tile % FB_STAGES) * value_tile_bytes;
    const uint32_t values = b.shared + at + first * ValueTile::row_bytes;
    add_values<ValueTile>(s, row_base<ValueTile>(values, first_column(b) / 8), sums.out);
}

// ---- store

FB_DEVICE void finish_sums(const Block& b, const Sums& sums) {
    const fb_attention_record& r = b.record();
    const int lane = lane_now();
    FB_UNROLL
    for (int m = 0; m < row_blocks; m++) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const int row = first_row(b) + m * 16 + h * 8 + lane / 4;
            const float sum = quad_sum(sums.rows.sum[m][h]);
            const float maximum = sums.rows.base[m][h] * base_2_factor(b.state().factor);
            if (row >= r.row_count) continue;
            const bool writes = lane % 4 == 0 && first_column(b) == 0;
            const RowTarget target = finish_row(b.p, r, row, maximum, sum, writes);
            FB_UNROLL
            for (int c = 0; c < warp_columns / 8; c++) {
                const int column = first_column(b) + c * 8 + lane % 4 * 2;
                if (column < FB_VALUE_DIM)
                    write_pair(target, column, sums.out[m][c][2 * h], sums.out[m][c][2 * h + 1]);
            }
        }
    }
}

// ---- the record

// Describes the rows, loads the queries, finds the first tokens and copies their tile.
FB_DEVICE void begin_record(const Block& b, Span& span) {
    const fb_attention_record& r = b.record();
    if (b.thread() < FB_QUERY_TILE) describe_row(b.p, r, b.rows(), b.thread());
    if (FB_ROPE != 0 || needs_trim(r)) __syncthreads();
    load_queries<FB_THREADS>(b.p, r, b.rows(), b.shared, b.thread());
    span = {r.kv_start, r.kv_end};
    if (needs_trim(r)) span = trim(b.p, r, b.rows());
    if (b.thread() == 0) {
        b.state().span = span;
        b.state().factor = score_factor(b.p, r);
    }
    for (int tile = 0; tile < 3; tile++) find_token(b, span, tile);
    cp_async_commit();
    cp_async_wait<0>();
    for (int tile = 0; tile < 2; tile++) note_token(b, span, tile);
    __syncthreads();
    copy_ahead(b, 0, span.end - span.start);
}

// Returns this thread's part of the record that comes next.
FB_DEVICE int32_t attend(const Block& b) {
    Span span;
    begin_record(b, span);
    int left = span.end - span.start; // tokens from the tile on
    Sums sums;
    begin_sums(b, sums);
    if (left <= 0) take_ticket(b.p, b.state().work);
    FB_NO_UNROLL
    for (int tile = 0; left > 0; tile++, left -= FB_KV_TILE) {
        cp_async_wait<0>();
        __syncthreads(); // the tile is there, and the one before is done with
        if (changes) {
            change_tile(b, tile);
            __syncthreads();
        }
        find_token(b, b.state().span, tile + 3);
        if (FB_STAGES == 2) copy_ahead(b, tile + 1, left - FB_KV_TILE);
        else {
            copy_values(b, tile, left);
            cp_async_commit();
        }
        if (left <= FB_KV_TILE) take_ticket(b.p, b.state().work);
        if (FB_STAGES == 2) note_token(b, b.state().span, tile + 2);
        FB_NO_UNROLL
        for (int first = 0; first < FB_KV_TILE; first += part_keys) {
            Keys keys;
            Scores s;
            const bool seen = look_at(b, tile, first, keys);
            if (seen) score(b, tile, first, s);
            if (FB_STAGES == 1) {
                cp_async_wait<0>();
                __syncthreads(); // the values are there, and the keys are done with
                copy_ahead(b, tile + 1, left - FB_KV_TILE);
                note_token(b, b.state().span, tile + 2);
            }
            if (seen) add(b, tile, first, keys, s, sums);
        }
    }
    cp_async_wait_all(); // the scales of tokens past the end, too
    const int32_t word = fetch_record(b.p, b.state().work);
    finish_sums(b, sums);
    return word;
}
