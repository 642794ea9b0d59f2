// A warpgroup that multiplies probabilities, which another one passes on, by its columns of values.
#pragma once
#include "store.h"
#include "take.h"

struct Multiply : Taker {
    Turn<weight_slots> weights;
    Turn<1> ends;
    const int first; // of the columns that the warpgroup has
    Sums sums;

    FB_DEVICE explicit Multiply(const Block& block)
        : Taker(block), first(uniform(thread_now() / 128 - first_computing - 1) * own_columns) {}

    static FB_DEVICE int own() { return thread_now() % 128 / 32 * 16 + lane_now() / 4; }
    FB_DEVICE Weights& passed() const { return b.shared; }

    // Tiles that these rows do not see.
    FB_DEVICE void pass(int count) {
        FB_NO_UNROLL
        for (; count > 0; count--) pass_values();
    }

    // The own columns of the stage's values.
    FB_DEVICE uint32_t own_values() const {
        return value_tile() + uint32_t(first / panel_columns * tile_panel);
    }

    // Values past a task's last key may be anything, and 0 times anything is not 0.
    FB_DEVICE void clear_tail(const Task& task) {
        const int32_t count = task.record.kv_end - task.start - (task.blocks - 1) * FB_KV_TILE;
        if (task.box_rows == 0 || count % task.box_rows == 0) return;
        constexpr int row_pieces = own_columns / 8;
        const uint32_t tile = own_values();
        FB_NO_UNROLL
        for (int i = thread_now() % 128; i < (FB_KV_TILE - count) * row_pieces; i += 128) {
            const int row = count + i / row_pieces;
            const int piece = i % row_pieces;
            store_shared_16(tile + piece / 8 * tile_panel + row * panel_row + piece % 8 * 16,
                            make_uint4(0, 0, 0, 0));
        }
        fence_proxy_async_shared();
        if (first == 0) barrier_sync(1, 128); // constants: else all barriers count as used
        else barrier_sync(2, 128);
    }

    FB_DEVICE void shrink_sums() {
        const float* keep = passed().keep[weights.slot()];
        const float by[2] = {keep[own()], keep[own() + 8]};
        if (!__any_sync(0xffffffffu, by[0] != 1 || by[1] != 1)) return;
        FB_UNROLL
        for (int i = 0; i < own_columns / 2; i++) sums[i] *= by[i / 2 % 2];
    }

    FB_DEVICE void clear_sums() {
        FB_UNROLL
        for (int i = 0; i < own_columns / 2; i++) sums[i] = 0;
    }

    FB_DEVICE void take_tile(const Task& task, bool fresh, bool last) {
        wait(passed().full[weights.slot()], weights.parity());
        if (!fresh) shrink_sums();
        wait_values();
        if (last) clear_tail(task);
        const uint64_t p =
            operand(shared_address(passed().panel) + uint32_t(weights.slot() * weight_bytes));
        const uint64_t v = operand(own_values(), tile_panel);
        FB_UNROLL
        for (int part = 0; part < sum_parts; part++) wgmma_tie(part_of(sums, part));
        wgmma_fence();
        FB_UNROLL
        for (int k = 0; k < value_steps; k++) {
            FB_UNROLL
            for (int part = 0; part < sum_parts; part++)
                FB_SHARED_VALUES(part_of(sums, part), p + (k * 32 >> 4),
                                 v + ((part * sum_part_bytes + k * 16 * panel_row) >> 4),
                                 k > 0 || !fresh);
        }
        wgmma_commit();
        wgmma_wait<0>();
        FB_UNROLL
        for (int part = 0; part < sum_parts; part++) wgmma_tie(part_of(sums, part));
        release_values();
        arrive_warp(passed().empty[weights.slot()]);
        weights.advance();
    }

    FB_DEVICE RowSums take_ends() {
        Weights& from = passed();
        wait(from.ends_full, ends.parity());
        RowSums done;
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const RowEnd end = from.ends[own() + 8 * h];
            done.base[h] = end.base;
            done.sum[h] = lane_now() % 4 == 0 ? end.sum : 0; // a thread's part of the quad's
            done.unit = end.unit;
        }
        __syncwarp();
        arrive_warp(from.ends_empty);
        ends.advance();
        return done;
    }

    FB_DEVICE void take_task(const Task& task, const TaskTurn& turn) {
        const Reach& reach = rows_of(turn).reach[0];
        const int begin = uniform(reach.begin);
        const int end = uniform(reach.end);
        const int blocks = uniform(task.blocks);
        release_rows(turn);
        pass(blocks - end);
        FB_NO_UNROLL
        for (int tile = end - 1; tile >= begin; tile--)
            take_tile(task, tile == end - 1, tile == blocks - 1);
        pass(begin);
        if (begin == end) clear_sums();
        const RowSums done = take_ends();
        const uint32_t wrong = store(b, task, own(), first, done, sums);
        if (!__any_sync(0xffffffffu, wrong != 0)) return;
        attend_wrong<2>(b.attention(), task.record, task.source.by_page, wrong,
                        {first, own_columns / 8}, first == 0, [](int h) { return own() + 8 * h; });
        // The next product takes no older sums, but its registers: these need not be kept.
        clear_sums();
    }

    FB_DEVICE void run() {
        TaskTurn turn;
        FB_NO_UNROLL
        for (;; turn.advance()) {
            const Task& task = wait_task(turn);
            if (uniform(task.blocks) < 0) break;
            take_task(task, turn);
            __syncwarp();
            arrive_warp(barriers().task_empty[turn.task.slot()]);
        }
    }
};
