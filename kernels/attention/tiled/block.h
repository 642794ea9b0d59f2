// The whole block takes a tile of keys at a time; a warp owns rows and, where values are wide, a
// slice of the value columns (then it computes its rows' scores again).
//
// Where elements do not change and there is one stage, values load while the first product runs,
// and the next keys during the softmax and the second product; with two stages the next keys and
// values load during all of this tile. Elements that change are loaded raw during the products,
// then written to the one tile.
#pragma once
#include "copy.h"
#include "../common/again.h"
#include "products.h"
#include "project.h"
#include "../common/scores.h"

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
static_assert(FB_THREADS >= 2 * FB_KV_TILE && FB_THREADS >= FB_QUERY_TILE, "threads for rows");

// Keys scored together: half a tile where 32 rows, wide keys and options leave few registers.
constexpr bool plain =
    !scores_change && !pairs_hide && !keys_change && !values_change && !FB_V_TOKEN_SCALE;
constexpr bool halves = row_blocks == 2 && FB_VALUE_DIM > 64 && (FB_KEY_DIM > 128 || !plain);
constexpr int part_keys = halves && FB_KV_TILE > 32 ? 32 : FB_KV_TILE;
static_assert(FB_STAGES == 2 || part_keys == FB_KV_TILE, "one stage scores a tile at once");

constexpr bool changes = keys_change || values_change;
static_assert(FB_STAGES == 2 || (FB_STAGES == 1 && !changes), "changed elements need two stages");

// Tokens of four tiles: being copied, copied, masked, and the one that is found.
constexpr int token_tiles = 4;
using BlockAddresses = RowAddresses<FB_KV_TILE>;
using BlockTokens = Tokens<FB_KV_TILE>;

constexpr int key_tile_bytes = FB_KV_TILE * KeyTile::row_bytes;
constexpr int value_tile_bytes = FB_KV_TILE * ValueTile::row_bytes;
constexpr int key_tiles_at = FB_QUERY_TILE * KeyTile::row_bytes;
constexpr int value_tiles_at = key_tiles_at + (keys_change ? 1 : FB_STAGES) * key_tile_bytes;
constexpr int raw_keys_at = value_tiles_at + (values_change ? 1 : FB_STAGES) * value_tile_bytes;
constexpr int raw_values_at =
    raw_keys_at + (keys_change ? FB_KV_TILE * RawRows<FB_KEY_DIM>::row_bytes : 0);
constexpr int raw_end =
    raw_values_at + (values_change ? FB_KV_TILE * RawRows<FB_VALUE_DIM>::row_bytes : 0);
// Rows that matrices multiply lie in the place of keys and values.
constexpr int room_bytes = max_of(raw_end - key_tiles_at, least_room_bytes);
constexpr int addresses_at = key_tiles_at + room_bytes;
constexpr int tokens_at = addresses_at + token_tiles * int(sizeof(BlockAddresses));
constexpr int rows_at = tokens_at + token_tiles * int(sizeof(BlockTokens));
constexpr int state_at = rows_at + int(sizeof(RowFacts));

// What would be registers, if they were not all taken.
struct BlockState {
    Work work;
    Source source;
    KeptRange range;
    int32_t reserved;
    float factor;
    Bounds bounds[warp_count];
};

constexpr int rotation_at = round_up(state_at + int(sizeof(BlockState)), 16);
constexpr int shared_bytes = rotation_at + rotation_bytes;
static_assert(shared_bytes == FB_SHARED_BYTES, "the planner's formula is another");

struct Block {
    const fb_attention_params& p;
    unsigned char* memory;
    uint32_t shared; // its address

    FB_DEVICE int thread() const { return thread_now(); }
    FB_DEVICE BlockState& state() const {
        return *reinterpret_cast<BlockState*>(memory + state_at);
    }
    FB_DEVICE Rotation& rotation() const {
        return *reinterpret_cast<Rotation*>(memory + rotation_at);
    }
    FB_DEVICE const fb_attention_record& record() const { return state().work.record; }
    FB_DEVICE Room room() const {
        return {memory, reinterpret_cast<float*>(memory + key_tiles_at)};
    }
    FB_DEVICE RowFacts& rows() const { return *reinterpret_cast<RowFacts*>(memory + rows_at); }
    FB_DEVICE BlockAddresses& addresses(int tile) const {
        return reinterpret_cast<BlockAddresses*>(memory + addresses_at)[tile % token_tiles];
    }
    FB_DEVICE BlockTokens& tokens(int tile) const {
        return reinterpret_cast<BlockTokens*>(memory + tokens_at)[tile % token_tiles];
    }
};

// ---- load

// Tokens of the range from a tile on.
FB_DEVICE int tokens_left(const Block& b, int tile) {
    return b.state().range.end - b.state().range.start - tile * FB_KV_TILE;
}

// Tokens of a tile are found, a page id each, and noted, as addresses, when the id is there.
// Threads [0, FB_KV_TILE) note keys, as many after them note values and find.
FB_DEVICE void find_token(const Block& b, const Source& from, const KeptRange& range, int tile) {
    const int i = b.thread() - FB_KV_TILE;
    if (i < 0 || i >= FB_KV_TILE) return;
    BlockTokens& tokens = b.tokens(tile);
    const int32_t token = range.start + tile * FB_KV_TILE + i;
    const Place place = find(b.p, b.record(), from, token, range.end);
    tokens.position[i] = place.place;
    tokens.note(i, place.place);
    tokens.row[i] = place.row;
    int32_t* const value_page = tokens.values(tokens.page) + i;
    if (place.page == nullptr) {
        tokens.page[i] = *value_page = 0;
        return;
    }
    cp_async_4(shared_address(&tokens.page[i]), place.page);
    if (FB_VALUE_PAGES) cp_async_4(shared_address(value_page), value_entry(b.p, place.page));
}

FB_DEVICE void note_token(const Block& b, const Source& from, int tile) {
    const int thread = b.thread();
    if (thread >= 2 * FB_KV_TILE) return;
    const int i = thread % FB_KV_TILE;
    BlockTokens& tokens = b.tokens(tile);
    const bool kept = i < tokens_left(b, tile);
    const int32_t page = (thread < FB_KV_TILE ? tokens.page : tokens.values(tokens.page))[i];
    const int32_t row = without_full_bit(tokens.row[i]);
    // Scales land with whatever copy is committed next, which is waited for before the tile's own.
    if (thread < FB_KV_TILE) {
        b.addresses(tile).k[i] = row_address(key_plane(b.p, b.record()), from.k, page, row);
        b.addresses(tile).note(i, tail_address(b.p, b.record(), page, row));
        if (FB_K_TOKEN_SCALE)
            copy_scale(b.p.k_scale, b.record(), page, row, kept, tokens.key_scale(i));
        if (FB_KEY_POSITIONS)
            tokens.position[i] = position_of(b.p, page, row, tokens.position[i]);
    } else {
        b.addresses(tile).v[i] = row_address(value_plane(b.p, b.record()), from.v, page, row);
        if (FB_V_TOKEN_SCALE)
            copy_scale(b.p.v_scale, b.record(), page, row, kept, tokens.value_scale(i));
    }
}

FB_DEVICE void copy_keys(const Block& b, int tile, int count) {
    const int at = keys_change ? raw_keys_at : key_tiles_at + tile % FB_STAGES * key_tile_bytes;
    copy_tokens<KeyTile, FB_KEY_DIM, FB_KEY_TAIL, keys_change, FB_KV_TILE, FB_THREADS>(
        b.shared + at, b.addresses(tile).k, b.addresses(tile).tails(), count, b.thread());
}

FB_DEVICE void copy_values(const Block& b, int tile, int count) {
    const int at =
        values_change ? raw_values_at : value_tiles_at + tile % FB_STAGES * value_tile_bytes;
    copy_tokens<ValueTile, FB_VALUE_DIM, 0, values_change, FB_KV_TILE, FB_THREADS>(
        b.shared + at, b.addresses(tile).v, nullptr, count, b.thread());
}

// Copies what is loaded while the tile before is worked on.
FB_DEVICE void copy_ahead(const Block& b, int tile) {
    const int count = tokens_left(b, tile);
    if (count <= 0) return;
    copy_keys(b, tile, count);
    if (FB_STAGES == 2) copy_values(b, tile, count);
    cp_async_commit();
}

FB_DEVICE void change_tile(const Block& b, int tile) {
    const TokenView tokens = view_of(b.record(), b.tokens(tile));
    if (keys_change)
        change_rows<KeyTile, KeyChange, FB_KV_TILE, FB_THREADS>(
            b.p, b.memory + raw_keys_at, b.shared + key_tiles_at, tokens, b.thread());
    if (values_change)
        change_rows<ValueTile, ValueChange, FB_KV_TILE, FB_THREADS>(
            b.p, b.memory + raw_values_at, b.shared + value_tiles_at, tokens, b.thread());
    __syncthreads();
}

FB_DEVICE void rotate_tile(const Block& b, int tile) {
    const int at = key_tiles_at + (keys_change ? 0 : tile % FB_STAGES) * key_tile_bytes;
    rotate_keys<KeyTile, FB_KV_TILE, FB_THREADS, 1>(b.rotation(), b.memory + at,
                                                    b.tokens(tile).position, b.thread());
    __syncthreads();
}

// ---- compute

FB_DEVICE int first_row(const Block& b) { return b.thread() / 32 % row_warps * warp_rows; }
FB_DEVICE int first_column(const Block& b) { return b.thread() / 32 / row_warps * warp_columns; }

// What a warp has of its rows and columns.
struct Sums {
    RowStates<row_blocks> rows;
    Products<row_blocks, warp_columns / 8, false> out;
};

FB_DEVICE void begin_sums(const Block& b, Sums& sums) {
    sums.rows = no_state<row_blocks>();
    sums.out.clear();
    const Bounds bounds = bounds_of(b.rows(), first_row(b), warp_rows, b.record().row_count);
    if (lane_now() == 0) b.state().bounds[b.thread() / 32] = bounds;
    __syncwarp();
}

using Scores = Products<row_blocks, part_keys / 8, false>;

// The keys of a tile from `first` on, whether the warp's rows see any of them, and all.
FB_DEVICE bool look_at(const Block& b, int tile, int first, Keys& keys) {
    const Bounds& bounds = b.state().bounds[b.thread() / 32];
    const int32_t start = b.state().range.start + tile * FB_KV_TILE + first;
    keys = {view_of(b.record(), b.tokens(tile), first)};
    keys.stored = first_column(b) == 0;
    return look_at_keys(b.p, b.record(), bounds, start, part_keys, keys);
}

FB_DEVICE void score(const Block& b, int tile, int first, Scores& s) {
    const int at = key_tiles_at + (keys_change ? 0 : tile % FB_STAGES) * key_tile_bytes;
    const uint32_t queries = row_base<KeyTile>(b.shared + first_row(b) * KeyTile::row_bytes);
    const uint32_t keys = key_base<KeyTile>(b.shared + at + first * KeyTile::row_bytes);
    s.clear();
    FB_UNROLL
    for (int step = 0; step < key_chunks / 2; step++) {
        uint32_t q[row_blocks][4];
        FB_UNROLL
        for (int m = 0; m < row_blocks; m++)
            ldmatrix_x4(q[m], KeyTile::step(queries, m * 16, step * 2));
        add_scores<KeyTile>(q, keys, step, s.x);
    }
}

FB_DEVICE void add(const Block& b, int tile, int first, const Keys& keys, Scores& s, Sums& sums) {
    const float factor = b.state().factor;
    probabilities(b.p, b.rows(), first_row(b), keys, factor, s, sums.rows, sums.out);
    if (FB_V_TOKEN_SCALE) scale_values(keys.run.v_scale, 1, s);
    const int at = value_tiles_at + (values_change ? 0 : tile % FB_STAGES) * value_tile_bytes;
    const uint32_t values = b.shared + at + first * ValueTile::row_bytes;
    add_values<ValueTile>(s.x, row_base<ValueTile>(values, first_column(b) / 8), sums.out.x);
}

// ---- store

// Whether a row of the lane's is wrong.
FB_DEVICE bool row_is_wrong(const Sums& sums, int i, float weight) {
    float total = 0;
    FB_UNROLL
    for (int j = 0; j < warp_columns / 4; j += 2)
        total += sums.out.at(i, j) + sums.out.at(i, j + 1);
    return quad_is_wrong(sums.rows.base[i / 2][i % 2], weight, total);
}

// Bits of the lane's rows that warps with other columns of them found wrong, besides its own.
FB_DEVICE uint32_t agree(const Block& b, uint32_t wrong) {
    // Positions have been read: one that no row has marks a row.
    int32_t* marks = b.rows().position + first_row(b) + own_row();
    FB_UNROLL
    for (int i = 0; i < 2 * row_blocks; i++)
        if (wrong >> i & 1) marks[8 * i] = no_position;
    __syncthreads();
    FB_UNROLL
    for (int i = 0; i < 2 * row_blocks; i++)
        if (marks[8 * i] == no_position) wrong |= 1u << i;
    return wrong;
}

FB_DEVICE void finish_sums(const Block& b, const Sums& sums) {
    const fb_attention_record& r = b.record();
    uint32_t wrong = 0; // a bit for each of the lane's rows
    const Room room = b.room();
    if (Variant::projects_output) __syncthreads(); // all are done with keys and values
    if constexpr (column_warps > 1) {
        FB_UNROLL
        for (int i = 0; i < 2 * row_blocks; i++)
            if (row_is_wrong(sums, i, quad_sum(sums.rows.sum[i / 2][i % 2]))) wrong |= 1u << i;
        wrong = agree(b, wrong);
    }
    FB_UNROLL
    for (int i = 0; i < 2 * row_blocks; i++) {
        const int row = first_row(b) + i * 8 + own_row();
        const float weight = quad_sum(sums.rows.sum[i / 2][i % 2]);
        if (column_warps == 1 && row_is_wrong(sums, i, weight)) wrong |= 1u << i;
        if (row >= r.row_count) wrong &= ~(1u << i);
        if (row >= r.row_count || wrong >> i & 1) continue;
        const bool writes = lane_now() % 4 == 0 && first_column(b) == 0;
        const float base = sums.rows.base[i / 2][i % 2];
        const RowTarget target = finish_row(b.p, r, row, base, weight, writes, room);
        FB_UNROLL
        for (int c = 0; c < warp_columns / 8; c++) {
            const int column = first_column(b) + c * 8 + own_key();
            if (column < FB_VALUE_DIM)
                write_pair(b.p, target, column, sums.out.at(i, 2 * c), sums.out.at(i, 2 * c + 1));
        }
    }
    const Columns columns = {first_column(b), warp_columns / 8};
    const auto row_of = [&](int i) { return first_row(b) + i * 8 + own_row(); };
    attend_wrong<2 * row_blocks>(b.p, r, b.state().work.by_page, wrong, columns,
                                 first_column(b) == 0, row_of, room);
    if constexpr (Variant::projects_output) project_outputs(b.p, r, room);
}

// ---- the record

// Describes the rows, loads the queries, finds the first tokens and copies their tile.
FB_DEVICE void begin_record(const Block& b) {
    const fb_attention_record& r = b.record();
    if (b.thread() < FB_QUERY_TILE) describe_row(b.p, r, b.rows(), b.thread());
    if (queries_change || needs_trim(r)) __syncthreads();
    if constexpr (Variant::projects_query)
        project_queries<room_bytes>(b.p, r, b.rows(), b.room().outputs, b.shared, b.thread());
    else load_queries<FB_THREADS>(b.p, r, b.rows(), b.shared, b.thread());
    const Divider by_page = b.state().work.by_page;
    const Source source = source_of(b.p, r, by_page);
    KeptRange range = {r.kv_start, r.kv_end};
    if (needs_trim(r)) range = trim(b.p, r, b.rows(), by_page);
    if (b.thread() == 0) {
        b.state().source = source;
        b.state().range = range;
        b.state().factor = score_factor(b.p, r);
    }
    for (int tile = 0; tile < 3; tile++) find_token(b, source, range, tile);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (int tile = 0; tile < 2; tile++) note_token(b, source, tile);
    if constexpr (rotates)
        rotate_rows<KeyTile, FB_QUERY_TILE, FB_THREADS>(b.rotation(), b.memory,
                                                        b.rows().position, b.p.rope_factor,
                                                        b.thread());
    __syncthreads();
    copy_ahead(b, 0);
}

// While a tile is worked on, the one after the next is noted and the next of that found.
FB_DEVICE void look_ahead(const Block& b, int tile) {
    const BlockState& state = b.state();
    note_token(b, state.source, tile + 2);
    find_token(b, state.source, state.range, tile + 3); // lands with the copy that follows
}

FB_DEVICE void note_ticket(const Block& b) {
    const uint32_t next = take_ticket(b.p);
    if (b.thread() == 0) b.state().work.next = next;
}

// Returns this thread's part of the record that comes next.
FB_DEVICE int32_t attend(const Block& b) {
    begin_record(b);
    Sums sums;
    begin_sums(b, sums);
    if (tokens_left(b, 0) <= 0) note_ticket(b);
    FB_NO_UNROLL
    for (int tile = 0; tokens_left(b, tile) > 0; tile++) {
        cp_async_wait<0>();
        __syncthreads(); // the tile is there, and the one before is done with
        if (changes) change_tile(b, tile);
        if constexpr (rotates) rotate_tile(b, tile);
        look_ahead(b, tile);
        if (FB_STAGES == 2) copy_ahead(b, tile + 1);
        else {
            copy_values(b, tile, tokens_left(b, tile));
            cp_async_commit();
        }
        if (tokens_left(b, tile) <= FB_KV_TILE) note_ticket(b);
        FB_UNROLL
        for (int first = 0; first < FB_KV_TILE; first += part_keys) {
            Keys keys;
            Scores s;
            const bool seen = look_at(b, tile, first, keys);
            if (seen) score(b, tile, first, s);
            if (FB_STAGES == 1) {
                cp_async_wait<0>();
                __syncthreads(); // the values are there, and the keys are done with
                copy_ahead(b, tile + 1);
            }
            if (seen) add(b, tile, first, keys, s, sums);
        }
    }
    cp_async_wait_all(); // the scales of tokens past the end, too
    const int32_t word = fetch_record(b.p, b.thread() == 0 ? b.state().work.next : 0);
    finish_sums(b, sums);
    return word;
}
