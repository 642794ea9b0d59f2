// The warpgroup that changes tiles on their way: elements of another type become what the products
// take, hooks see them in f32. What is outside of a task's keys becomes zeros.
#pragma once
#include "load.h"

#include "../../common/element.h"

constexpr int changing_barrier = 2; // of the warps that change

struct Changer {
    const Block& b;
    Turn<FB_STAGES> keys;
    Turn<FB_STAGES> values;
    Turn<raw_stages> raw_keys;
    Turn<raw_stages> raw_values;

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

    template <class Side>
    FB_DEVICE void change_tile(const Task& task, int tile, Turn<raw_stages>& raw,
                               Turn<FB_STAGES>& to, const Notes& notes) {
        constexpr int chunks = Side::dim / 8;
        constexpr int total = FB_KV_TILE * chunks;
        static_assert(total % 32 == 0, "whole warps");
        const int32_t first = task.start + tile * FB_KV_TILE;
        const unsigned char* rows = Side::raw_tile(b, raw.slot());
        const uint32_t target = shared_address(Side::tile(b, to.slot()));
        wait(Side::raw_full(b, raw.slot()), raw.parity());
        wait(Side::empty(b, to.slot()), to.parity() ^ 1);
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
        // Products read what is written, bulk copies replace what is read.
        fence_proxy_async_shared();
        __syncwarp();
        const int lane = lane_now();
        if (lane == 0) arrive(Side::full(b, to.slot()));
        if (lane < FB_CLUSTER) {
            const uint32_t empty = shared_address(&Side::raw_empty(b, raw.slot()));
            mbarrier_arrive_cluster_read(map_shared(empty, uint32_t(lane)));
        }
        raw.advance();
        to.advance();
    }

    // Those of the keys' stage; values of the tile are changed before it comes again.
    FB_DEVICE const Notes& note(const Task& task, int tile) {
        if constexpr (reads_notes || changes_by_notes) {
            wait(b.shared.barriers.keys_empty[keys.slot()], keys.parity() ^ 1);
            note_keys(b, task, tile, keys.slot(), own(), 128);
        }
        if (changes_by_notes) barrier_sync(changing_barrier, 128);
        return *notes_of(b.shared, keys.slot());
    }

    FB_DEVICE void run() {
        FB_NO_UNROLL
        for (uint32_t n = 0;; n++) {
            const auto turn = Turn<task_count>::at(n);
            wait(b.shared.barriers.task_full[turn.slot()], turn.parity());
            const Task& task = b.shared.tasks[turn.slot()];
            if (task.blocks < 0) break;
            FB_NO_UNROLL
            for (int tile = task.blocks - 1; tile >= 0; tile--) {
                const Notes& notes = note(task, tile);
                change_tile<KeySide>(task, tile, raw_keys, keys, notes);
                if constexpr (values_land_raw)
                    change_tile<ValueSide>(task, tile, raw_values, values, notes);
            }
            __syncwarp();
            if (lane_now() == 0) arrive(b.shared.barriers.task_empty[turn.slot()]);
        }
    }
};
