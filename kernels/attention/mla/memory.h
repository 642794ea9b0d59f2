// Shared memory and barriers: who fills what, who empties it.
//
//   barrier     filled by                              emptied by
//   half        bytes of a tile's left or right half   left: values 0, right: values 1, queries:
//               (or of queries for registers), or      score
//               gather: its copies land
//   rope        (with its left half)                   score, its product done
//   query       bytes (not of keys of 8 bits)          score, a record's last product done
//   weights     score                                  values, their product done
//   go          score: the next product is done        (with the weights)
//   target      score                                  values, the record's rows written
//   work        dispatch, own (first) or both blocks   all others: the record is done
//   places      gather: where a tile's boxes begin     load
//   rows        gather: what a record's rows see       (with the work)
//   ask         load: the record's last tile is on its way
//
// and where two blocks share a record's keys, of which each writes half of the columns:
//
//   states      the other's score: bases and sums of   (with the target, whose rows are written
//               its rows                               when sums have come for which these served)
//   rooms       the other's load: where half of the    (with the target)
//               sums go, among its halves
//   parts       the other's values: they are there     (with the target)
//
// Halves are emptied for both blocks of a cluster, whose tiles come together; so are records.
#pragma once
#include "../../ptx/barrier.h"
#include "../../ptx/cluster.h"
#include "../../ptx/fence.h"
#include "../../ptx/mbarrier.h"
#include "../common/again.h"
#include "facts.h"

// ---- types

constexpr int half_slots = !eights ? 5 : FB_QUERY_TILE == 16 ? 11 : FB_QUERY_TILE == 32 ? 9 : 7;
constexpr int rope_slots = eights ? (half_slots + 1) / 2 : FB_QUERY_TILE == 32 ? 2 : 3;
constexpr int query_slots = FB_QUERY_TILE == 16 && !eights ? 2 : 1;
constexpr int weight_slots = 2;
constexpr int work_slots = 2;
constexpr int place_slots = 2;

// Where a row of the output lies, or of the partial state, and what its sums are multiplied by.
struct Target {
    uint64_t values; // 0: there is no such row
    float factor;
    float base; // of exponents; -inf: zeros, whatever the sums hold

    FB_DEVICE bool empty() const { return base == -FB_INFINITY; }
    FB_DEVICE float of(float sum) const {
        return empty() ? 0 : FB_SPLIT_KEYS ? sum : sum * factor; // those of two were multiplied
    }
    // Of a row's sums, or some of them: a factor of NaN is one of weights that are.
    FB_DEVICE bool wrong(float total) const { return !empty() && is_wrong(base, factor, total); }
};

// Of row `i` of a record, whose log-sum-exp the thread `writes`.
FB_DEVICE Target target_of(const fb_attention_params& p, const fb_attention_record& r, int i,
                           float base, float sum, bool writes) {
    if (i >= r.row_count) return {0, 0, -FB_INFINITY};
    const RowTarget found = finish_row(p, r, i, base, sum, writes);
    return {reinterpret_cast<uint64_t>(found.values), found.factor,
            found.empty ? -FB_INFINITY : base};
}

// Where keys begin that lie side by side.
struct KeyPlace {
    int32_t row;  // in the page, or of the whole tensor
    int32_t page; // -1: none, zeros
};

// A record as one block works on it: its own 64 rows at most. The last has none, and ends the list.
struct MlaWork {
    fb_attention_record record; // level: 1 where it is one
    FB_DEVICE bool ends() const { return record.level == 0; }
    FB_DEVICE int tiles() const {
        return (record.kv_end - record.kv_start + FB_KV_TILE - 1) / FB_KV_TILE;
    }
};

// What the scoring warps tell each other where rows are columns.
template <bool Turned, bool Eights> struct Exchange {
    // Of keys of 8 bits: what scores of queries that came into f16's range are multiplied by.
    float scales[Eights ? FB_QUERY_TILE : 2];
    int32_t votes[weight_slots][score_warps]; // 1: some weights of the warp's tokens are too large
    float2 peaks[score_warps][FB_QUERY_TILE];  // whether a row's base rises, its highest score
    float2 states[score_warps][FB_QUERY_TILE]; // base and sum, when the keys are done
};
template <> struct Exchange<false, false> { uint64_t nothing; };

struct Barriers {
    uint64_t half_full[half_slots];
    uint64_t half_empty[half_slots];
    uint64_t rope_empty[rope_slots];
    uint64_t query_full[query_slots];
    uint64_t query_empty[query_slots];
    uint64_t weights_full[weight_slots];
    uint64_t weights_empty[weight_slots];
    uint64_t go[weight_slots];
    uint64_t target_full;
    uint64_t target_empty;
    uint64_t work_full[work_slots];
    uint64_t work_empty[work_slots];
    uint64_t places_full[place_slots];
    uint64_t places_empty[place_slots];
    uint64_t rows_full[work_slots];
    uint64_t ask;
    uint64_t states_full;
    uint64_t rooms_full;
    uint64_t parts_full;
};

// ---- shared memory

struct Memory {
    unsigned char halves[half_slots][half_pieces][piece_bytes];
    unsigned char ropes[rope_slots][piece_bytes];
    unsigned char queries[query_slots][key_pieces - kept_pieces][query_bytes];
    unsigned char weights[weight_slots][query_bytes];
    // Of the older sums: of rows lane / 4 and lane / 4 + 8 of each warp in turn, or of neighbours.
    float2 factors[weight_slots][FB_QUERY_TILE / 2];
    Exchange<turned, eights> exchange;
    float2 states[FB_SPLIT_KEYS ? FB_QUERY_TILE : 1]; // of the other block: base and sum
    uint32_t rooms[2]; // where the other block takes sums of each warpgroup
    Target targets[FB_QUERY_TILE];
    int32_t last_seen[work_slots][FB_QUERY_TILE]; // the last position that a row sees
    MlaWork work[work_slots];
    KeyPlace places[place_slots][tile_boxes]; // of a tile's boxes
    Divider by_page;
    Barriers barriers;
};
static_assert(sizeof(Memory) == FB_SHARED_BYTES, "the family's formula is another");

// The end of a record whose keys two blocks share, for a warpgroup that multiplies values.
struct SharedEnd {
    uint32_t parity; // of barriers that serve once a record
    uint32_t half;   // where the other block's sums come
    bool none;       // the block has had no tile, and its sums are whatever
};

#define FB_AT(member) FB_OFFSET(Memory, member)

struct Block {
    const fb_attention_map_params& maps;
    const fb_attention_params& p;
    Memory& memory;
    uint32_t shared; // its address

    FB_DEVICE uint32_t barrier(uint32_t at, uint32_t slot = 0) const {
        return shared + at + 8 * slot;
    }
};

// ---- keys

// Rows that lie side by side and divide a tile: those of a box, if they are enough for one. Boxes
// of ragged keys are whole tiles.
FB_DEVICE int key_box(const fb_attention_params& p, const fb_attention_record& r) {
    const int power = min(p.page_size & -p.page_size, FB_KV_TILE);
    if (!p.contiguous) return power;
    return r.column_offset < 0 || power == FB_KV_TILE ? FB_KV_TILE : 1;
}

// Where a kept token of a record lies.
FB_DEVICE KeyPlace place_of(const Block& b, const fb_attention_record& r, int32_t token) {
    const Divider by_page = b.memory.by_page;
    const int32_t logical = logical_token(b.p, r, by_page, token);
    if (b.p.contiguous) return {r.slot + logical, 0};
    const int32_t column = divide(logical, by_page);
    const int64_t first = int64_t(r.slot) * b.p.table_stride + divide(r.position_start, by_page);
    return {logical - column * b.p.page_size, read_int(b.p.page_table, first + column)};
}

// The same of tokens that may lie past the last.
FB_DEVICE KeyPlace find_key(const Block& b, const fb_attention_record& r, int32_t token) {
    if (token >= r.kv_end) return {0, -1};
    return place_of(b, r, token);
}

// ---- barriers

// Slots are taken in turn; the parity of their barriers changes every round.
template <uint32_t Size> struct Ring {
    uint32_t state = 0; // slot and parity: registers are few

    FB_DEVICE uint32_t slot() const { return state / 2; }
    FB_DEVICE uint32_t parity() const { return state % 2; }
    FB_DEVICE void advance() {
        state += 2;
        if (state >= 2 * Size) state = state % 2 ^ 1;
    }
};

// A ring of one or two slots, in one register.
template <uint32_t Size> struct Turn {
    static_assert(Size == 1 || Size == 2, "a power of two");
    uint32_t count = 0;

    FB_DEVICE uint32_t slot() const { return count % Size; }
    FB_DEVICE uint32_t parity() const { return count / Size % 2; }
    FB_DEVICE void advance() { count++; }
};

// By one lane of each warp that has read what is filled for both blocks.
FB_DEVICE void release(uint32_t barrier) {
    if (tile_blocks == 1) return mbarrier_arrive(barrier);
    mbarrier_arrive_cluster_read(map_shared(barrier, 0));
    mbarrier_arrive_cluster_read(map_shared(barrier, 1));
}

FB_DEVICE void release_work(const Block& b, uint32_t slot) {
    const uint32_t barrier = b.barrier(FB_AT(barriers.work_empty), slot);
    if (FB_CLUSTER == 1) mbarrier_arrive(barrier);
    else mbarrier_arrive_cluster_read(map_shared(barrier, 0));
}

FB_DEVICE const MlaWork& wait_work(const Block& b, const Turn<work_slots>& turn) {
    const uint32_t full = b.barrier(FB_AT(barriers.work_full), turn.slot());
    if (FB_CLUSTER == 1) mbarrier_wait(full, turn.parity());
    else mbarrier_wait_cluster(full, turn.parity());
    return b.memory.work[turn.slot()];
}

FB_DEVICE void init_barriers(const Block& b) {
    const auto init = [&](uint32_t at, int slots, uint32_t arrivals) {
        for (int i = 0; i < slots; i++) mbarrier_init(b.barrier(at, uint32_t(i)), arrivals);
    };
    init(FB_AT(barriers.half_full), half_slots, half_arrivals);
    init(FB_AT(barriers.half_empty), half_slots, 4 * tile_blocks);
    init(FB_AT(barriers.rope_empty), rope_slots, 4 * tile_blocks);
    init(FB_AT(barriers.query_full), query_slots, 1);
    init(FB_AT(barriers.query_empty), query_slots, score_warps);
    init(FB_AT(barriers.weights_full), weight_slots, score_warps);
    init(FB_AT(barriers.weights_empty), weight_slots, value_warps);
    init(FB_AT(barriers.go), weight_slots, score_warps);
    init(FB_AT(barriers.target_full), 1, score_warps);
    init(FB_AT(barriers.target_empty), 1, value_warps);
    init(FB_AT(barriers.work_full), work_slots, record_ints);
    constexpr int readers = 1 + gather_warps + score_warps + value_warps;
    init(FB_AT(barriers.work_empty), work_slots, readers * FB_CLUSTER);
    init(FB_AT(barriers.places_full), place_slots, 1);
    init(FB_AT(barriers.places_empty), place_slots, 1);
    init(FB_AT(barriers.rows_full), work_slots, 1);
    init(FB_AT(barriers.ask), 1, 1);
    init(FB_AT(barriers.states_full), 1, score_warps);
    init(FB_AT(barriers.rooms_full), 1, 1);
    init(FB_AT(barriers.parts_full), 1, value_warps);
    fence_mbarrier_init();
}
