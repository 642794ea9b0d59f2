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

// Copies `Rows` rows whose first `Filled` chunks exist, those from `Tail` on at the addresses of
// `tails`; the other chunks, and rows from `count` on, become 0. All addresses are read first: a
// read between two copies would wait for the first.
template <class Layout, int Unit, int Filled, int Tail, int Rows, int Threads>
FB_DEVICE void copy_rows(uint32_t target, const uint64_t* rows, const uint64_t* tails, int count,
                         int thread) {
    constexpr int total = Rows * Layout::chunks;
    constexpr int turns = (total + Threads - 1) / Threads;
    uint64_t from[turns];
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
        if (total % Threads != 0 && item.row >= Rows) continue;
        const bool filled = item.row < count && item.chunk < Filled;
        const auto* row = reinterpret_cast<const uint8_t*>(from[i]);
        const void* source = row + (item.chunk < Filled ? item.chunk * Unit : 0);
        const uint32_t to = target + Layout::at(item.row, item.chunk);
        if (Unit == 16) cp_async_16(to, source, filled ? 16 : 0);
        else cp_async_8(to, source, filled ? 8 : 0);
    }
}

// Keys or values that need no change straight into their tile, others as they are; `Tail`
// elements of them at the addresses of `tails`.
template <class Layout, int Dim, int Tail, bool Change, int Rows, int Threads>
FB_DEVICE void copy_tokens(uint32_t target, const uint64_t* rows, const uint64_t* tails, int count,
                           int thread) {
    using Raw = RawRows<Dim>;
    constexpr int unit = Change ? Raw::unit : 16;
    constexpr int filled = Dim * value_bytes / unit;
    constexpr int tail = (Dim - Tail) * value_bytes / unit;
    if constexpr (Change)
        copy_rows<Raw, unit, filled, tail, Rows, Threads>(target, rows, tails, count, thread);
    else copy_rows<Layout, unit, filled, tail, Rows, Threads>(target, rows, tails, count, thread);
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

// The record's queries; those that change need their rows described. Rows past the last are 0.
template <int Threads>
FB_DEVICE void load_queries(const fb_attention_params& p, const fb_attention_record& record,
                            const RowFacts& rows, uint32_t tile, int thread) {
    constexpr int total = FB_QUERY_TILE * key_chunks;
    constexpr int turns = (total + Threads - 1) / Threads;
    const fb_attention_record r = record; // read once: copies are barriers to the compiler
    FB_UNROLL
    for (int i = 0; i < turns; i++) {
        const Item item = item_of<key_chunks, Threads>(thread, i);
        const bool outside = total % Threads != 0 && item.row >= FB_QUERY_TILE;
        if (outside && !Variant::has_query) continue;
        const bool filled = item.row < r.row_count && item.chunk < FB_KEY_DIM / 8;
        const auto* source = reinterpret_cast<const uint8_t*>(p.q);
        if (queries_change ? item.row < r.row_count : filled) {
            const QueryRow row = query_row(r, item.row);
            source += query_element * (row.token * p.q_stride_token + row.head * p.q_stride_head);
        }
        const uint32_t to = tile + KeyTile::at(item.row, item.chunk);
        if (!queries_change) {
            cp_async_16(to, filled ? source + item.chunk * 16 : source, filled ? 16 : 0);
            continue;
        }
        Vector<FB_KEY_DIM, row_lanes(key_chunks), FB_QUERY_TYPE> v = {source, item.chunk * 8};
        if (Variant::has_query || filled) v.load();
        const int own = min(item.row, FB_QUERY_TILE - 1);
        if constexpr (Variant::has_query)
            Variant::query(p, rows.words[Variant::row_words == 0 ? 0 : own], v);
        if (!outside)
            store_shared_16(to, filled ? round_8<FB_Q_TYPE>(v.x) : make_uint4(0, 0, 0, 0));
    }
}
