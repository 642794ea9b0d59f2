// The warps that bring things: one thread of the first loads queries and keys, the second hands
// records out, the others find keys, and gather those whose rows lie apart.
#pragma once
#include "../../ptx/cp_async.h"
#include "../../ptx/pdl.h"
#include "../../ptx/tma.h"
#include "memory.h"

// ---- keys

// `Count` pieces from `First` on of a tile's keys to where they lie one after the other. In a
// cluster each block loads every other piece, for both.
template <int First, int Count>
FB_DEVICE void load_pieces(const Block& b, const KeyPlace* places, int box, uint32_t to,
                           uint32_t full) {
    const int rank = tile_blocks == 1 ? 0 : int(cluster_rank());
    if (Count == 1 && rank > 0) return;
    FB_NO_UNROLL
    for (int row = 0; row < FB_KV_TILE; row += box) {
        const KeyPlace place = *places++;
        FB_UNROLL
        for (int c = 0; c < Count; c += tile_blocks) {
            const uint32_t target = to + (c + rank) * piece_bytes + row * piece_span;
            constexpr bool apart = FB_KEY_TAIL > 0 && First == 2 * half_pieces;
            const fb_tensor_map* map = apart ? &b.maps.v : &b.maps.k;
            const int at[3] = {apart ? 0 : (First + c + rank) * 64, place.row, place.page};
            if (tile_blocks == 1) tensor_load(target, map, full, at);
            else tensor_load_multicast(target, map, full, at, 3);
        }
    }
}

// ---- queries

// Dense rows are one axis of the map, [rows]; others two, [token, head], of which a box holds heads
// of one token.
FB_DEVICE bool dense_queries(const fb_attention_params& p) {
    return p.q_stride_token == p.query_heads * p.q_stride_head;
}

// `Count` pieces from `First` on.
template <int First, int Count>
FB_DEVICE void load_queries(const Block& b, const fb_attention_record& r, uint32_t to,
                            uint32_t full) {
    const bool dense = dense_queries(b.p);
    const int heads = b.p.query_heads;
    const int box = dense ? FB_QUERY_TILE : min(heads & -heads, FB_QUERY_TILE);
    FB_NO_UNROLL
    for (int i = 0; i < FB_QUERY_TILE; i += box) {
        const int row = r.row_start + i;
        const int token = dense ? 0 : row / heads;
        FB_UNROLL
        for (int c = 0; c < Count; c++) {
            const int at[3] = {(First + c) * 64, row - token * heads, token};
            tensor_load(to + c * query_bytes + i * 128, &b.maps.q, full, at);
        }
    }
}

// ---- the loading thread

// Per record the queries for registers, which pass through the halves, then per tile its left half
// with the rope piece and its right half; the other queries after the first left half. Keys whose
// boxes would be small it leaves to the gathering warps.
FB_DEVICE void load(const Block& b) {
    Ring<half_slots> half;
    Ring<rope_slots> rope;
    Turn<place_slots> found;
    Turn<work_slots> works;
    Turn<query_slots> query;
    const auto acquire = [&](uint32_t bytes) { // the next half, to be full with so many bytes
        mbarrier_wait(b.barrier(FB_AT(barriers.half_empty), half.slot()), half.parity() ^ 1);
        const uint32_t full = b.barrier(FB_AT(barriers.half_full), half.slot());
        mbarrier_arrive_expect(full, bytes);
        if (half_arrivals > 1) mbarrier_arrive_many(full, half_arrivals - 1);
        return full;
    };
    const auto half_at = [&] {
        return b.shared + FB_AT(halves) + half.slot() * (half_pieces * piece_bytes);
    };
    const auto load_rest = [&](const fb_attention_record& r) {
        const uint32_t slot = query.slot();
        mbarrier_wait(b.barrier(FB_AT(barriers.query_empty), slot), query.parity() ^ 1);
        query.advance();
        const uint32_t full = b.barrier(FB_AT(barriers.query_full), slot);
        constexpr int last = key_pieces - kept_pieces;
        mbarrier_arrive_expect(full, last * query_bytes);
        load_queries<kept_pieces, last>(
            b, r, b.shared + FB_AT(queries) + slot * (last * query_bytes), full);
    };
    pdl_wait();
    pdl_launch_dependents();
    for (;; works.advance()) {
        const MlaWork& work = wait_work(b, works);
        if (work.ends()) return;
        const fb_attention_record& r = work.record;
        const int tiles = work.tiles();
        const int box = key_box(b.p, r);
        if (tiles > 0 && !turned) {
            uint32_t full = acquire(half_pieces * piece_bytes);
            load_queries<0, half_pieces>(b, r, half_at(), full);
            half.advance();
            constexpr int rest = turned ? 0 : kept_pieces - half_pieces;
            full = acquire(rest * piece_bytes);
            load_queries<half_pieces, rest>(b, r, half_at(), full);
            half.advance();
        }
        FB_NO_UNROLL
        for (int tile = 0; tile < tiles; tile++) {
            const KeyPlace* places = b.memory.places[found.slot()];
            mbarrier_wait(b.barrier(FB_AT(barriers.places_full), found.slot()), found.parity());
            if (box >= least_box) {
                const uint32_t full = acquire((half_pieces + 1) * piece_bytes);
                mbarrier_wait(b.barrier(FB_AT(barriers.rope_empty), rope.slot()),
                              rope.parity() ^ 1);
                load_pieces<0, half_pieces>(b, places, box, half_at(), full);
                load_pieces<2 * half_pieces, 1>(
                    b, places, box, b.shared + FB_AT(ropes) + rope.slot() * piece_bytes, full);
            }
            rope.advance();
            half.advance();
            if (tile == 0 && !eights) load_rest(r);
            if (box >= least_box) {
                const uint32_t full = acquire(half_pieces * piece_bytes);
                load_pieces<half_pieces, half_pieces>(b, places, box, half_at(), full);
            }
            mbarrier_arrive(b.barrier(FB_AT(barriers.places_empty), found.slot()));
            found.advance();
            half.advance();
        }
        mbarrier_arrive(b.barrier(FB_AT(barriers.ask)));
        release_work(b, works.slot());
        if (FB_SPLIT_KEYS) {
            // Tells the other block where sums of its warpgroups go.
            const uint32_t other = cluster_rank() ^ 1;
            mbarrier_wait(b.barrier(FB_AT(barriers.target_empty)), works.count % 2 ^ 1);
            for (int group = 0; group < shared_halves; group++) {
                acquire(0);
                store_cluster_4(map_shared(b.shared + FB_AT(rooms) + 4 * group, other),
                                half_at());
                half.advance();
            }
            const uint32_t full = b.barrier(FB_AT(barriers.rooms_full));
            mbarrier_arrive_cluster(map_shared(full, other));
        }
    }
}

// ---- the gathering warps

// Where the boxes of each tile of a record begin, for the loading thread: by one warp.
FB_DEVICE void find_boxes(const Block& b, const fb_attention_record& r, int tiles, int box,
                          Turn<place_slots>& found) {
    FB_NO_UNROLL
    for (int tile = 0; tile < tiles; tile++) {
        const int row = lane_now() * box;
        KeyPlace place = {0, -1};
        if (row < FB_KV_TILE) place = find_key(b, r, r.kv_start + tile * FB_KV_TILE + row);
        mbarrier_wait(b.barrier(FB_AT(barriers.places_empty), found.slot()), found.parity() ^ 1);
        if (row < FB_KV_TILE) b.memory.places[found.slot()][lane_now()] = place;
        __syncwarp();
        if (lane_now() == 0) mbarrier_arrive(b.barrier(FB_AT(barriers.places_full), found.slot()));
        found.advance();
    }
}

// A tile that the loading thread shall not load, but count.
FB_DEVICE void skip_tile(const Block& b, Turn<place_slots>& found) {
    if (threadIdx.x == 32 * gather_warp) {
        mbarrier_wait(b.barrier(FB_AT(barriers.places_empty), found.slot()), found.parity() ^ 1);
        mbarrier_arrive(b.barrier(FB_AT(barriers.places_full), found.slot()));
    }
    found.advance();
}

// Address of a row of keys, or of their rope pieces; 0: there is none.
FB_DEVICE uint64_t plane_row(const fb_plane& plane, const KeyPlace& place) {
    if (place.page < 0) return 0;
    return plane.data + value_bytes * (place.page * plane.stride_page +
                                       place.row * plane.stride_token);
}

FB_DEVICE uint64_t key_row(const Block& b, const KeyPlace& place) {
    return plane_row(b.p.k, place);
}

// `Count` pieces from `first` on of a warp's 32 rows, of which each lane knows one: neighbours copy
// what a piece has of one row.
template <int Count>
FB_DEVICE void gather_pieces(const Block& b, uint64_t own, int first_row, int first, uint32_t to) {
    constexpr int lanes = piece_span / 16;
    const int lane = lane_now();
    FB_NO_UNROLL
    for (int i = 0; i < lanes; i++) {
        const int row = 32 / lanes * i + lane / lanes;
        const uint64_t found = __shfl_sync(~0u, own, row);
        const uint64_t from =
            (found == 0 ? b.p.k.data : found) + first * piece_span + lane % lanes * 16;
        const int chunk = (lane ^ (eights ? row >> 1 : row)) & (lanes - 1);
        const uint32_t target = to + (first_row + row) * piece_span + chunk * 16;
        FB_UNROLL
        for (int c = 0; c < Count; c++)
            cp_async_16(target + c * piece_bytes,
                        reinterpret_cast<const void*>(from + c * piece_span), found == 0 ? 0 : 16);
    }
    if (!copies_arrive) cp_async_commit();
}

// What has landed, by all gathering threads: two before `next`, of the barriers at `full`.
template <uint32_t Slots>
FB_DEVICE void announce(const Block& b, uint32_t full, const Ring<Slots>& next) {
    fence_proxy_async_shared();
    barrier_sync(gather_barrier, 32 * gather_warps);
    if (threadIdx.x != 32 * gather_warp) return;
    const uint32_t slot = next.slot() < 2 ? next.slot() + Slots - 2 : next.slot() - 2;
    mbarrier_arrive(b.barrier(full, slot));
}

// Keys of a record whose rows lie apart. A half is announced when the second after it has been
// begun. One later the ring would hang: its oldest half is free only when those have been seen.
FB_DEVICE void gather(const Block& b, const MlaWork& work, Ring<half_slots>& half,
                      Ring<rope_slots>& rope, Turn<place_slots>& found) {
    const fb_attention_record& r = work.record;
    const int first_row = threadIdx.x / 32 % gather_warps * 32;
    const auto half_at = [&] {
        return b.shared + FB_AT(halves) + half.slot() * (half_pieces * piece_bytes);
    };
    const auto begun = [&](int tile) {
        if (copies_arrive) {
            cp_async_mbarrier_arrive(b.barrier(FB_AT(barriers.half_full), half.slot()));
        } else if (tile > 0) {
            cp_async_wait<3>(); // all but the last half and this one
            announce(b, FB_AT(barriers.half_full), half);
        }
    };
    pdl_wait();
    KeyPlace next = find_key(b, r, r.kv_start + first_row + lane_now());
    FB_NO_UNROLL
    for (int tile = 0; tile < work.tiles(); tile++) {
        skip_tile(b, found);
        const uint64_t own = key_row(b, next);
        // First what lies apart: its addresses and those of the keys were too many to hold.
        mbarrier_wait(b.barrier(FB_AT(barriers.rope_empty), rope.slot()), rope.parity() ^ 1);
        gather_pieces<1>(b, FB_KEY_TAIL > 0 ? plane_row(b.p.k_tail, next) : own, first_row,
                         FB_KEY_TAIL > 0 ? 0 : 2 * half_pieces,
                         b.shared + FB_AT(ropes) + rope.slot() * piece_bytes);
        next = find_key(b, r, r.kv_start + (tile + 1) * FB_KV_TILE + first_row + lane_now());
        mbarrier_wait(b.barrier(FB_AT(barriers.half_empty), half.slot()), half.parity() ^ 1);
        gather_pieces<half_pieces>(b, own, first_row, 0, half_at());
        rope.advance();
        begun(tile);
        half.advance();
        mbarrier_wait(b.barrier(FB_AT(barriers.half_empty), half.slot()), half.parity() ^ 1);
        gather_pieces<half_pieces>(b, own, first_row, half_pieces, half_at());
        begun(tile);
        half.advance();
    }
    if (copies_arrive) return;
    cp_async_wait<1>();
    announce(b, FB_AT(barriers.half_full), half);
    cp_async_wait<0>();
    Ring<half_slots> after = half;
    after.advance();
    announce(b, FB_AT(barriers.half_full), after);
}

// The last position that row `i` sees; rows past the last are never written.
FB_DEVICE int32_t last_seen(const fb_attention_params& p, const fb_attention_record& r, int i) {
    if (i >= r.row_count) return last_position;
    const RowInputs row = row_inputs(p, r, i);
    return row.request < 0 ? no_position : p.causal ? row.query : last_position;
}

// By one warp.
FB_DEVICE void describe_rows(const Block& b, const fb_attention_record& r, uint32_t slot) {
    FB_NO_UNROLL
    for (int row = lane_now(); row < FB_QUERY_TILE; row += 32)
        b.memory.last_seen[slot][row] = last_seen(b.p, r, row);
    __syncwarp();
    if (lane_now() == 0) mbarrier_arrive(b.barrier(FB_AT(barriers.rows_full), slot));
}

// The warps that find and gather keys know a record early: the last describes its rows as well.
FB_DEVICE void find_keys(const Block& b) {
    Ring<half_slots> half;
    Ring<rope_slots> rope;
    Turn<place_slots> found;
    Turn<work_slots> works;
    for (;; works.advance()) {
        const MlaWork& work = wait_work(b, works);
        if (work.ends()) return;
        // The first of the warps finds the first keys meanwhile.
        if (threadIdx.x / 32 == rows_warp) describe_rows(b, work.record, works.slot());
        // What rows are described by came by a copy.
        if (works.count == 0 && !b.p.contiguous && !b.p.pages_settled) pdl_wait();
        const int tiles = work.tiles();
        const int box = key_box(b.p, work.record);
        for (int from = 0; from < (tiles > 0 ? kept_pieces : 0); from += half_pieces)
            half.advance(); // queries pass through
        if (tiles > 0 && box < least_box) {
            gather(b, work, half, rope, found);
        } else {
            if (threadIdx.x / 32 == gather_warp) find_boxes(b, work.record, tiles, box, found);
            for (int tile = 0; tile < tiles; tile++) {
                half.advance();
                half.advance();
                rope.advance();
            }
        }
        FB_UNROLL
        for (int i = 0; i < shared_halves; i++) half.advance();
        __syncwarp(); // all lanes have read the record
        if (lane_now() == 0) release_work(b, works.slot());
    }
}

// ---- the dispatching warp; after the first record that of the cluster's first block

// Of a record's words the one that block `rank` sees: of its own rows, or keys.
#define word_of(member) int(FB_OFFSET(fb_attention_record, member) / 4)
FB_DEVICE int32_t own_word(int32_t value, int word, int rank, bool is_record) {
    if (FB_SPLIT_KEYS) {
        const int32_t start = __shfl_sync(~0u, value, word_of(kv_start));
        const int32_t end = __shfl_sync(~0u, value, word_of(kv_end));
        if (word == word_of(level)) return is_record;
        const int tiles = (end - start + FB_KV_TILE - 1) / FB_KV_TILE;
        const int32_t middle = min(start + (tiles + 1) / 2 * FB_KV_TILE, end);
        if (word == word_of(kv_start)) return rank == 0 ? start : middle;
        if (word == word_of(kv_end)) return rank == 0 ? middle : end;
        if (word == word_of(first_merge)) return rank == 0 ? end : start; // see whole_record()
        return value;
    }
    const int first = rank * FB_QUERY_TILE;
    if (word == word_of(row_start)) return value + first;
    if (word == word_of(row_count)) return max(0, min(value - first, FB_QUERY_TILE));
    if (word == word_of(partial_row)) return value < 0 ? value : value + first;
    return word == word_of(level) ? int32_t(is_record) : value;
}

// Hands a word of a record to a block of the cluster, or to the own one.
FB_DEVICE void hand_word(const Block& b, uint32_t slot, int word, int rank, int32_t value,
                         bool is_own) {
    const uint32_t to = b.shared + FB_AT(work) + slot * sizeof(MlaWork) + 4 * word;
    const uint32_t full = b.barrier(FB_AT(barriers.work_full), slot);
    if (FB_CLUSTER == 1 || is_own) {
        store_shared_4(to, value);
        mbarrier_arrive(full);
    } else {
        store_cluster_4(map_shared(to, rank), value);
        mbarrier_arrive_cluster(map_shared(full, rank));
    }
}

// What a lane of the dispatching warp has of a record: lanes 0 to 15 have a word each, and so have
// the others.
FB_DEVICE int32_t record_word(const Block& b, uint32_t index) {
    if (index >= uint32_t(b.p.record_count)) return 0;
    return read_int(b.p.records, int64_t(index) * record_ints + lane_now() % record_ints);
}

// Clusters start at the record of their own index, which each block hands to itself: to write it
// into another takes longer. The next they take by ticket, when the last tile of one is on its way:
// then lanes 0 to 15 of the first block hand its words to that, the others to the second.
FB_DEVICE void dispatch(const Block& b, int32_t value) {
    const int word = lane_now() % record_ints;
    const int rank = lane_now() / record_ints;
    const int own = FB_CLUSTER == 1 ? 0 : int(cluster_rank());
    const auto records = uint32_t(b.p.record_count);
    Turn<work_slots> works;
    for (;;) {
        const bool is_record = __shfl_sync(~0u, value, word_of(row_count)) > 0;
        const bool is_first = works.count == 0;
        mbarrier_wait_cluster(b.barrier(FB_AT(barriers.work_empty), works.slot()),
                              works.parity() ^ 1);
        const int to = is_first ? own : rank;
        const int32_t shown = own_word(value, word, to, is_record);
        if (is_first ? rank == 0 : rank < FB_CLUSTER)
            hand_word(b, works.slot(), word, to, shown, is_first);
        if (own > 0) return;
        if (is_first) pdl_wait(); // records came by a copy; counters are the last kernel's
        if (!is_record) break;
        mbarrier_wait(b.barrier(FB_AT(barriers.ask)), works.count % 2);
        works.advance();
        uint32_t ticket = records;
        if (lane_now() == 0 && shares_records(b.p)) ticket = draw_ticket(b.p);
        value = record_word(b, __shfl_sync(~0u, ticket, 0));
    }
    if (lane_now() == 0 && shares_records(b.p)) leave_records(b.p);
}
