// The warpgroup that changes tiles on their way: elements of another type become what the products
// take, hooks see them in f32, keys turn. What lands raw and is outside of a task's keys becomes
// zeros.
#pragma once
#include "load.h"

#include "../../common/element.h"

constexpr int changing_barrier = 2; // of the warps that change

struct Changer {
    const Block& b;
    Turn<FB_STAGES> keys;
    Turn<FB_STAGES> values;

    static FB_DEVICE int own() { return thread_now() % 128; }

    // Eight elements of a raw row, changed and rounded once; by whole warps.
    template <class Side>
    FB_DEVICE uint4 change(const Task& task, const unsigned char* row, int chunk, bool kept,
                           const Notes& notes, int i) const {
        if constexpr (!Side::hooked) {
            if (!kept) return make_uint4(0, 0, 0, 0);
            return convert_8<FB_KV_TYPE, FB_Q_TYPE>(shared_address(row + chunk * 8 * value_bytes));
        } else {
            Vector<Side::dim, row_lanes(Side::dim / 8), FB_KV_TYPE> v = {row, chunk * 8};
            v.load();
            Side::change(b.attention(), {notes.position[i], notes.slot[i], task.record.kv_head}, v);
            return kept ? round_8<FB_Q_TYPE>(v.x) : make_uint4(0, 0, 0, 0);
        }
    }

    // From raw rows to panels.
    template <class Side>
    FB_DEVICE void change_rows(const Task& task, int tile, int stage, const Notes& notes) const {
        constexpr int chunks = Side::dim / 8;
        constexpr int total = FB_KV_TILE * chunks;
        static_assert(total % 32 == 0, "whole warps");
        const int32_t first = task.start + tile * FB_KV_TILE;
        const unsigned char* rows = Side::raw_tile(b, stage);
        const uint32_t target = shared_address(Side::tile(b, stage));
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

    template <class Side>
    FB_DEVICE void change_tile(const Task& task, int tile, Turn<FB_STAGES>& at,
                               const Notes& notes) {
        const int stage = at.slot();
        wait(Side::landed(b, stage), at.parity());
        if constexpr (Side::raw) {
            wait(Side::empty(b, stage), at.parity() ^ 1);
            change_rows<Side>(task, tile, stage, notes);
        }
        if constexpr (Side::turns) {
            using Panels = InPanels<FB_KV_TILE * panel_row>;
            const Rotation& rotation = *rotation_of(b.shared);
            if constexpr (Side::raw) {
                barrier_sync(changing_barrier, 128);
                rotate_rows<Panels, FB_KV_TILE, 128>(rotation, Side::tile(b, stage),
                                                     notes.position, 1, own());
            } else {
                rotate_keys<Panels, FB_KV_TILE, 128, 1>(rotation, Side::tile(b, stage),
                                                        notes.position, own());
            }
        }
        // Products read what is written, bulk copies replace what is read.
        fence_proxy_async_shared();
        __syncwarp();
        const int lane = lane_now();
        if (lane == 0) arrive(Side::full(b, stage));
        if (Side::raw && lane < FB_CLUSTER) {
            const uint32_t empty = shared_address(&Side::raw_empty(b, stage));
            mbarrier_arrive_cluster_read(map_shared(empty, uint32_t(lane)));
        }
        at.advance();
    }

    // Those of the keys' stage; values of the tile are changed before it comes again.
    FB_DEVICE const Notes& note(const Task& task, int tile) const {
        if constexpr (reads_notes || changes_by_notes) {
            wait(b.shared.barriers.keys_empty[keys.slot()], keys.parity() ^ 1);
            note_keys(b, task, tile, keys.slot(), own(), 128);
        }
        if (changes_by_notes) barrier_sync(changing_barrier, 128);
        return *notes_of(b.shared, keys.slot());
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
                const Notes& notes = note(task, tile);
                change_tile<KeySide>(task, tile, keys, notes);
                if constexpr (values_land_raw) change_tile<ValueSide>(task, tile, values, notes);
            }
            __syncwarp();
            if (lane_now() == 0) arrive(b.shared.barriers.task_empty[turn.slot()]);
        }
    }
};
