// The warpgroup that changes tiles on their way: elements of another type become what the products
// take, hooks see them in f32, keys turn. What lands raw and is outside of a task's keys becomes
// zeros. Values of fp8 products are transposed.
#pragma once
#include "load.h"
#include "../../ptx/stmatrix.h"

#include "../../common/element.h"

constexpr int changing_barrier = 2; // of the warps that change

// Which pieces of 16 raw bytes of a tile a thread of 128 widens. Lanes side by side have different
// banks in raw tiles and, of rows of 64 or a multiple of 128 bytes, in panels.
template <class Side> struct PiecesOf {
    static constexpr int in_row = Side::raw_row / 16;
    static constexpr int even = in_row & -in_row;
    static constexpr int lanes = even < 16 ? even : 16; // of a row
    static constexpr int rows = 128 / lanes;            // at a time
    static constexpr int across = in_row / lanes;       // of a thread in a row
    static constexpr int count = across * ((FB_KV_TILE + rows - 1) / rows);
    static constexpr int chunks = 2 / value_bytes; // that a piece becomes
    static_assert(Side::raw_row % 16 == 0 && rows % 8 == 0 && FB_KV_TILE % 8 == 0);

    // Eight lanes have half of the banks of a row, and the other half of the next.
    static FB_DEVICE int row(int thread) {
        return lanes < 8 ? thread / lanes : thread / lanes ^ (thread / 4 & 1);
    }
    static FB_DEVICE int piece(int thread, int i) { return thread % lanes + i * lanes; }
    static FB_DEVICE int chunk(int thread, int i) {
        return piece(thread, i / chunks) * chunks + i % chunks;
    }
    static FB_DEVICE bool within(int thread, int n) {
        const int before = n / across * rows;
        return before + rows <= FB_KV_TILE || before + row(thread) < FB_KV_TILE;
    }
};

// Where a side's next tile lies: as it landed, and as products take it.
template <class Side> struct TileTurns {
    Turn<Side::places> from;
    Turn<FB_STAGES> to;

    FB_DEVICE void advance() {
        from.advance();
        to.advance();
    }
};

struct Changer {
    const Block& b;
    TileTurns<KeySide> keys;
    TileTurns<ValueSide> values;

    static FB_DEVICE int own() { return thread_now() % 128; }

    // Eight elements of a raw row that a hook sees, rounded once; by whole warps.
    template <class Side>
    FB_DEVICE uint4 change(const Task& task, const unsigned char* row, int chunk, bool kept,
                           const Notes& notes, int i) const {
        Vector<Side::dim, row_lanes(Side::dim / 8), FB_KV_TYPE> v = {row, chunk * 8};
        v.load();
        Side::change(b.attention(), {notes.position[i], notes.slot[i], task.record.kv_head}, v);
        return kept ? round_8<Side::type>(v.x) : make_uint4(0, 0, 0, 0);
    }

    // The panels of a stage, when nobody reads what they had; of all ways that write them.
    template <class Side> FB_DEVICE void take_panels(const TileTurns<Side>& at) const {
        wait(Side::empty(b, at.to.slot()), at.to.parity() ^ 1);
    }

    // From raw rows to panels, as another type: a thread has pieces of 16 raw bytes, at the same
    // place of rows that are a multiple of eight apart, so that addresses differ by constants. It
    // reads some before it widens the first, and while the panels may still be in use.
    template <class Side>
    FB_DEVICE void widen_rows(const Task& task, int tile, const TileTurns<Side>& at) const {
        using Own = PiecesOf<Side>;
        constexpr int together = only_widens ? 4 : 8; // as there are registers
        const uint32_t raw_tile =
            shared_address(Side::raw_tile(b, at.from.slot())) + Own::row(own()) * Side::raw_row;
        const uint32_t panels = shared_address(Side::tile(b, at.to.slot()));
        uint32_t target[Own::across][Own::chunks];
        FB_UNROLL
        for (int i = 0; i < Own::across * Own::chunks; i++)
            target[i / Own::chunks][i % Own::chunks] =
                panels + InPanels<tile_panel>::at(Own::row(own()), Own::chunk(own(), i));
        FB_UNROLL
        for (int begin = 0; begin < Own::count; begin += together) {
            uint4 raw[together];
            FB_UNROLL
            for (int n = begin; n < min(begin + together, Own::count); n++)
                if (Own::within(own(), n))
                    raw[n - begin] =
                        load_shared_16(raw_tile + Own::piece(own(), n % Own::across) * 16 +
                                       n / Own::across * (Own::rows * Side::raw_row));
            if (begin == 0) take_panels(at);
            FB_UNROLL
            for (int n = begin; n < min(begin + together, Own::count); n++) {
                if (!Own::within(own(), n)) continue;
                const uint4& x = raw[n - begin];
                const int below = n / Own::across * (Own::rows * panel_row);
                const uint32_t(&to)[Own::chunks] = target[n % Own::across];
                FB_UNROLL
                for (int i = 0; i < Own::chunks; i++) {
                    const uint4 half = i == 0 ? x : make_uint4(x.z, x.w, 0, 0);
                    store_shared_16(to[i] + below, convert_8<FB_KV_TYPE, Side::type>(half));
                }
            }
        }
        // What is outside of the task's keys becomes zeros.
        const int32_t first = task.start + tile * FB_KV_TILE;
        const int32_t low = task.record.kv_start - first;
        const int32_t high = task.record.kv_end - first;
        if (low <= 0 && high >= FB_KV_TILE) return;
        FB_NO_UNROLL
        for (int row = Own::row(own()); row < FB_KV_TILE; row += Own::rows) {
            if (row >= low && row < high) continue;
            FB_UNROLL
            for (int i = 0; i < Own::across * Own::chunks; i++)
                store_shared_16(panels + InPanels<tile_panel>::at(row, Own::chunk(own(), i)),
                                make_uint4(0, 0, 0, 0));
        }
    }

    // The same by a hook.
    template <class Side>
    FB_DEVICE void change_rows(const Task& task, int tile, const TileTurns<Side>& at,
                               const Notes& notes) const {
        constexpr int chunks = Side::dim / 8;
        constexpr int total = FB_KV_TILE * chunks;
        static_assert(total % 32 == 0, "whole warps");
        const int32_t first = task.start + tile * FB_KV_TILE;
        const unsigned char* rows = Side::raw_tile(b, at.from.slot());
        const uint32_t target = shared_address(Side::tile(b, at.to.slot()));
        FB_UNROLL_BY(4)
        for (int item = own(); item < total; item += 128) {
            const int row = item / chunks;
            const int chunk = item % chunks;
            const int32_t token = first + row;
            const bool kept = token >= task.record.kv_start && token < task.record.kv_end;
            const uint4 eight =
                change<Side>(task, rows + row * Side::raw_row, chunk, kept, notes, row);
            store_shared_16(target + InPanels<FB_KV_TILE * panel_row>::at(row, chunk), eight);
        }
    }

    // Of a tile that begins with token `first`, what is outside of the task's keys becomes zeros: a
    // word i of a lane has two columns of the two keys 8 i + lane % 4 * 2 of its warp's.
    template <int pieces>
    static FB_DEVICE void clear_outside(const Task& task, int32_t first, int own_keys,
                                        uint32_t (&words)[pieces][4]) {
        const fb_attention_record& r = task.record;
        if (first >= r.kv_start && first + FB_KV_TILE <= r.kv_end) return;
        FB_UNROLL
        for (int i = 0; i < 4; i++) {
            uint32_t kept = 0;
            FB_UNROLL
            for (int e = 0; e < 2; e++) {
                const int32_t token = first + own_keys + 8 * i + lane_now() % 4 * 2 + e;
                if (token >= r.kv_start && token < r.kv_end) kept |= 0xffffu << 16 * e;
            }
            FB_UNROLL
            for (int piece = 0; piece < pieces; piece++) words[piece][i] &= kept;
        }
    }

    // Values as they landed, [key][128 columns], become [column][keys] in their place: K-major. A
    // warp has 32 keys, of which it reads all before any warp writes.
    //
    // Of 16 keys the order is 0 1 8 9 2 3 10 11 4 5 12 13 6 7 14 15: four of them are those that a
    // thread has the probabilities of. Of 16 columns the even ones come first: a matrix of eight
    // rows then lies in different banks (store_row of store.h puts them back).
    FB_DEVICE void transpose_values(const Task& task, int tile, int stage) const {
        constexpr int pieces = panel_row / 16;
        const int lane = lane_now();
        const int own_keys = own() / 32 * 32;
        const bool has = own_keys < FB_KV_TILE;
        const uint32_t values = shared_address(ValueSide::tile(b, stage));
        uint32_t words[pieces][4];
        if (has) {
            FB_UNROLL
            for (int i = 0; i < pieces; i++)
                ldmatrix_x4_trans(words[i], values + (own_keys + lane) * panel_row +
                                                swizzled_piece(lane, i));
        }
        barrier_sync(changing_barrier, 128);
        if (!has) return;
        clear_outside(task, task.start + tile * FB_KV_TILE, own_keys, words);
        const int row = lane / 16 * 8 + lane % 8;
        const uint32_t to =
            values + row * panel_row + swizzled_piece(lane, own_keys / 16 + lane / 8 % 2);
        FB_UNROLL
        for (int i = 0; i < pieces; i++) {
            const uint32_t(&x)[4] = words[i];
            const uint32_t turned[4] = {
                __byte_perm(x[0], x[1], 0x6420),
                __byte_perm(x[2], x[3], 0x6420),
                __byte_perm(x[0], x[1], 0x7531),
                __byte_perm(x[2], x[3], 0x7531),
            };
            stmatrix_x4(to + i * (16 * panel_row), turned);
        }
    }

    template <class Side>
    FB_DEVICE void change_tile(const Task& task, int tile, TileTurns<Side>& at,
                               const Notes* notes) {
        const int stage = at.to.slot();
        wait(Side::landed(b, at.from.slot()), at.from.parity());
        if constexpr (Side::raw) {
            if constexpr (Side::hooked) {
                take_panels(at);
                change_rows<Side>(task, tile, at, *notes);
            } else {
                widen_rows<Side>(task, tile, at);
            }
        }
        if constexpr (Side::turns) {
            using Panels = InPanels<FB_KV_TILE * panel_row>;
            const Rotation& rotation = *rotation_of(b.shared);
            if constexpr (Side::raw) {
                barrier_sync(changing_barrier, 128);
                rotate_rows<Panels, FB_KV_TILE, 128>(rotation, Side::tile(b, stage),
                                                     notes->position, 1, own());
            } else {
                rotate_keys<Panels, FB_KV_TILE, 128, 1>(rotation, Side::tile(b, stage),
                                                        notes->position, own());
            }
        }
        if constexpr (Side::transposes) transpose_values(task, tile, stage);
        // Products read what is written, bulk copies replace what is read.
        fence_proxy_async_shared();
        __syncwarp();
        const int lane = lane_now();
        if (lane == 0) arrive(Side::full(b, stage));
        // Not before what was read is stored: until then reads may still be under way.
        if (Side::raw && lane < row_blocks) {
            const uint32_t empty = shared_address(&Side::raw_empty(b, at.from.slot()));
            mbarrier_arrive_cluster_read(map_shared(empty, uint32_t(lane)));
        }
        at.advance();
    }

    // Those of the keys' stage; values of the tile are changed before it comes again.
    FB_DEVICE const Notes* note(const Task& task, int tile) const {
        if constexpr (reads_notes || changes_by_notes) {
            take_panels(keys);
            note_keys(b, task, tile, keys.to.slot(), own(), 128);
        }
        if (changes_by_notes) barrier_sync(changing_barrier, 128);
        return notes_of(b.shared, keys.to.slot());
    }

    // A task's queries and rows, for those who compute.
    FB_DEVICE void turn_queries(const Task& task, uint32_t n) const {
        const auto turn = Turn<rows_count>::at(n);
        const int buffer = Turn<FB_QUERY_BUFFERS>::at(n).slot();
        wait(b.shared.barriers.rows_landed[turn.slot()], turn.parity());
        if (task.blocks > 0) {
            rotate_rows<InPanels<query_panel>, block_rows, 128>(
                *rotation_of(b.shared), b.shared.queries[buffer],
                b.shared.rows[turn.slot()].position, b.attention().rope_factor, own());
            fence_proxy_async_shared();
        }
        __syncwarp();
        if (lane_now() == 0) arrive(b.shared.barriers.rows_full[turn.slot()]);
    }

    FB_DEVICE void run() {
        FB_NO_UNROLL
        for (uint32_t n = 0;; n++) {
            const auto turn = Turn<task_count>::at(n);
            wait(b.shared.barriers.task_full[turn.slot()], turn.parity());
            const Task& task = b.shared.tasks[turn.slot()];
            if constexpr (rotates) turn_queries(task, n);
            if (task.blocks < 0) break;
            FB_NO_UNROLL
            for (int tile = task.blocks - 1; tile >= 0; tile--) {
                if constexpr (keys_wait) {
                    const Notes* notes = note(task, tile);
                    change_tile<KeySide>(task, tile, keys, notes);
                    if constexpr (values_land_raw)
                        change_tile<ValueSide>(task, tile, values, notes);
                } else {
                    change_tile<ValueSide>(task, tile, values, nullptr);
                }
            }
            __syncwarp();
            if (lane_now() == 0) arrive(b.shared.barriers.task_empty[turn.slot()]);
        }
    }
};
