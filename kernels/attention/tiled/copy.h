// Rows from global to shared memory, by cp.async and, where elements change, through f32.
#pragma once
#include "../../common/element.h"
#include "../../ptx/memory.h"
#include "../common/rows.h"
#include "facts.h"

// Query and key rows have whole steps of 16 elements; what is past FB_KEY_DIM is 0.
constexpr int key_chunks = round_up(FB_KEY_DIM, 16) / 8;
using KeyTile = Tile<key_chunks>;

// Rows as they lie in global memory.
template <int Dim> struct RawRows {
    static constexpr int unit = Dim * value_bytes % 16 == 0 ? 16 : 8;
    static constexpr int chunks = Dim * value_bytes / unit;
    static constexpr int row_bytes = round_up(Dim * value_bytes, 16);

    static FB_DEVICE uint32_t at(int row, int chunk) { return row * row_bytes + chunk * unit; }
};

// What a thread copies of `Rows` rows whose first `Filled` chunks exist, those from `Tail` on at
// the addresses of `tails`. All addresses are read first: a read between two copies would wait for
// the first.
template <class Layout, int Unit, int Filled, int Tail, int Rows, int Threads> struct RowCopies {
    static constexpr int total = Rows * Layout::chunks;
    static constexpr int turns = (total + Threads - 1) / Threads;
    uint64_t from[turns]; // where the chunks begin

    FB_DEVICE void find(const uint64_t* rows, const uint64_t* tails, int thread) {
        FB_UNROLL
        for (int i = 0; i < turns; i++) {
            const Item item = item_of<Layout::chunks, Threads>(thread, i);
            const bool is_tail = Tail < Filled && item.chunk >= Tail && item.chunk < Filled;
            const uint64_t* const of = is_tail ? tails : rows;
            from[i] = total % Threads == 0 || item.row < Rows ? of[item.row] : 0;
        }
        FB_UNROLL
        for (int i = 0; i < turns; i++) {
            const Item item = item_of<Layout::chunks, Threads>(thread, i);
            if (item.chunk < Filled) from[i] += item.chunk * Unit;
        }
    }

    // The other chunks, and rows from `count` on, become 0.
    FB_DEVICE void start(uint32_t target, int count, int thread) const {
        FB_UNROLL
        for (int i = 0; i < turns; i++) {
            const Item item = item_of<Layout::chunks, Threads>(thread, i);
            if (total % Threads != 0 && item.row >= Rows) continue;
            const bool filled = item.row < count && item.chunk < Filled;
            const auto* source = reinterpret_cast<const void*>(from[i]);
            const uint32_t to = target + Layout::at(item.row, item.chunk);
            if (Unit == 16) cp_async_16(to, source, filled ? 16 : 0);
            else cp_async_8(to, source, filled ? 8 : 0);
        }
    }
};

// Of keys or values those that need no change go straight into their tile, others as they are;
// `Tail` elements of them at the addresses of `tails`.
template <class Layout, int Unit, int Dim, int Tail, int Rows, int Threads>
using CopiesIn = RowCopies<Layout, Unit, Dim * value_bytes / Unit,
                           (Dim - Tail) * value_bytes / Unit, Rows, Threads>;
template <class Layout, int Dim, int Tail, bool Change, int Rows, int Threads>
struct TokenCopies : CopiesIn<Layout, 16, Dim, Tail, Rows, Threads> {};
template <class Layout, int Dim, int Tail, int Rows, int Threads>
struct TokenCopies<Layout, Dim, Tail, true, Rows, Threads>
    : CopiesIn<RawRows<Dim>, RawRows<Dim>::unit, Dim, Tail, Rows, Threads> {};

template <class Layout, int Dim, int Tail, bool Change, int Rows, int Threads>
FB_DEVICE void copy_tokens(uint32_t target, const uint64_t* rows, const uint64_t* tails, int count,
                           int thread) {
    TokenCopies<Layout, Dim, Tail, Change, Rows, Threads> copies;
    copies.find(rows, tails, thread);
    copies.start(target, count, thread);
}

// How keys change on their way, and values.
struct KeyChange {
    static constexpr int dim = FB_KEY_DIM;
    static constexpr bool hooked = Variant::has_key;
    template <class V>
    static FB_DEVICE void apply(const fb_attention_params& p, const TokenView& tokens, int i,
                                V& v) {
        if constexpr (Variant::has_key) Variant::key(p, tokens.inputs(p, i), v);
    }
};

struct ValueChange {
    static constexpr int dim = FB_VALUE_DIM;
    static constexpr bool hooked = Variant::has_value;
    template <class V>
    static FB_DEVICE void apply(const fb_attention_params& p, const TokenView& tokens, int i,
                                V& v) {
        if constexpr (Variant::has_value) Variant::value(p, tokens.inputs(p, i), v);
    }
};

// Eight elements of one of `Rows` raw rows, widened, changed, rounded once. Hooks are called by all
// lanes, whatever they hold.
template <class Change, int Chunks, int Rows>
FB_DEVICE uint4 change_chunk(const fb_attention_params& p, const unsigned char* raw,
                             const TokenView& tokens, Item item) {
    constexpr int dim = Change::dim;
    const int row = min(item.row, Rows - 1);
    const bool filled = item.row < Rows && item.chunk < dim / 8;
    if (!Change::hooked && !filled) return make_uint4(0, 0, 0, 0);
    Vector<dim, row_lanes(Chunks), FB_KV_TYPE> v = {raw + row * RawRows<dim>::row_bytes,
                                                    item.chunk * 8};
    v.load();
    const bool kept = tokens.position[row] != past_end;
    if (Change::hooked || kept) Change::apply(p, tokens, row, v);
    if (!filled || (Change::hooked && !kept)) return make_uint4(0, 0, 0, 0);
    return round_8<FB_Q_TYPE>(v.x);
}

// Raw rows in shared memory to a tile. A few chunks are read before the first is written: a read
// after a write would wait for it.
template <class Layout, class Change, int Rows, int Threads>
FB_DEVICE void change_rows(const fb_attention_params& p, const unsigned char* raw, uint32_t tile,
                           const TokenView& tokens, int thread) {
    constexpr int total = Rows * Layout::chunks;
    constexpr int turns = (total + Threads - 1) / Threads;
    constexpr int batch = turns < 8 ? turns : 8;
    FB_UNROLL
    for (int first = 0; first < turns; first += batch) {
        uint4 chunks[batch];
        FB_UNROLL
        for (int i = 0; i < batch; i++) {
            const Item item = item_of<Layout::chunks, Threads>(thread, first + i);
            chunks[i] = change_chunk<Change, Layout::chunks, Rows>(p, raw, tokens, item);
        }
        FB_UNROLL
        for (int i = 0; i < batch; i++) {
            const Item item = item_of<Layout::chunks, Threads>(thread, first + i);
            if (item.row < Rows)
                store_shared_16(tile + Layout::at(item.row, item.chunk), chunks[i]);
        }
    }
}

// Where a query's elements begin that a thread copies in turn `i`.
struct QuerySource {
    const uint8_t* row;
    bool filled; // it has a chunk of the query
};

template <int Threads>
FB_DEVICE QuerySource query_source(const fb_attention_params& p, const fb_attention_record& r,
                                   int thread, int i) {
    const Item item = item_of<key_chunks, Threads>(thread, i);
    const bool filled = item.row < r.row_count && item.chunk < FB_KEY_DIM / 8;
    const auto* source = reinterpret_cast<const uint8_t*>(p.q);
    if (queries_change ? item.row < r.row_count : filled) {
        const QueryRow row = query_row(r, item.row);
        source += query_element * (row.token * p.q_stride_token + row.head * p.q_stride_head);
        if (!queries_change) source += item.chunk * 16;
    }
    return {source, filled};
}

template <int Threads>
constexpr int query_turns = (FB_QUERY_TILE * key_chunks + Threads - 1) / Threads;

// What a thread copies of the record's queries, which do not change.
template <int Threads> struct QueryCopies {
    QuerySource from[query_turns<Threads>];

    FB_DEVICE void find(const fb_attention_params& p, const fb_attention_record& r, int thread) {
        FB_UNROLL
        for (int i = 0; i < query_turns<Threads>; i++)
            from[i] = query_source<Threads>(p, r, thread, i);
    }

    FB_DEVICE void start(uint32_t tile, int thread) const {
        FB_UNROLL
        for (int i = 0; i < query_turns<Threads>; i++) {
            const Item item = item_of<key_chunks, Threads>(thread, i);
            if (FB_QUERY_TILE * key_chunks % Threads != 0 && item.row >= FB_QUERY_TILE) continue;
            cp_async_16(tile + KeyTile::at(item.row, item.chunk), from[i].row,
                        from[i].filled ? 16 : 0);
        }
    }
};

// The record's queries; those that change need their rows described. Rows past the last are 0.
template <int Threads>
FB_DEVICE void load_queries(const fb_attention_params& p, const fb_attention_record& record,
                            const RowFacts& rows, uint32_t tile, int thread) {
    const fb_attention_record r = record; // read once: copies are barriers to the compiler
    if constexpr (!queries_change) {
        QueryCopies<Threads> copies;
        copies.find(p, r, thread);
        return copies.start(tile, thread);
    }
    FB_UNROLL
    for (int i = 0; i < query_turns<Threads>; i++) {
        const Item item = item_of<key_chunks, Threads>(thread, i);
        const bool outside =
            FB_QUERY_TILE * key_chunks % Threads != 0 && item.row >= FB_QUERY_TILE;
        if (outside && !Variant::has_query) continue;
        const QuerySource source = query_source<Threads>(p, r, thread, i);
        Vector<FB_KEY_DIM, row_lanes(key_chunks), FB_QUERY_TYPE> v = {source.row, item.chunk * 8};
        if (Variant::has_query || source.filled) v.load();
        const int own = min(item.row, FB_QUERY_TILE - 1);
        if constexpr (Variant::has_query)
            Variant::query(p, rows.words[Variant::row_words == 0 ? 0 : own], v);
        if (!outside)
            store_shared_16(tile + KeyTile::at(item.row, item.chunk),
                            source.filled ? round_8<FB_Q_TYPE>(v.x) : make_uint4(0, 0, 0, 0));
    }
}
