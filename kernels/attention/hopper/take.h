// A warpgroup that takes tasks and tiles from their rings.
#pragma once
#include "facts.h"

// ---- operands in shared memory

// Eight rows of a panel and the next eight are this far apart.
constexpr uint32_t eight_rows = 8 * panel_row;

FB_DEVICE uint64_t operand(uint32_t address, uint32_t leading = 16) {
    return wgmma_operand(address, 128, leading, eight_rows);
}

// From the first step of the key columns to step k: panels have four steps.
template <int panel> FB_DEVICE constexpr uint32_t key_step(int k) {
    return k / 4 * panel + k % 4 * 32;
}

// A task and its rows have rings of their own.
struct TaskTurn {
    Turn<task_count> task;
    Turn<rows_count> rows;

    FB_DEVICE void advance() {
        task.advance();
        rows.advance();
    }
};

struct Taker {
    const Block& b;
    Turn<FB_STAGES> keys; // where tiles come next
    Turn<FB_STAGES> values;

    FB_DEVICE explicit Taker(const Block& block) : b(block) {}

    FB_DEVICE Barriers& barriers() const { return b.shared.barriers; }

    FB_DEVICE void arrive_warp(const uint64_t& barrier) const {
        if (lane_now() == 0) arrive(barrier);
    }

    // In every block that shares the rows out: each of them writes this stage, if it is loaded.
    FB_DEVICE void release(const uint64_t& barrier, bool changed) const {
        const int lane = lane_now();
        if (row_blocks == 1 || changed) arrive_warp(barrier);
        else if (lane < row_blocks)
            mbarrier_arrive_cluster_read(map_shared(shared_address(&barrier), uint32_t(lane)));
    }

    // ---- tiles

    FB_DEVICE void wait_keys() const { wait(barriers().keys_full[keys.slot()], keys.parity()); }
    FB_DEVICE void release_keys() {
        release(barriers().keys_empty[keys.slot()], keys_land_raw);
        keys.advance();
        keys.place = uniform(keys.place);
    }
    // Lanes have read them on their own.
    FB_DEVICE void release_read_keys() {
        __syncwarp();
        release_keys();
    }

    // All lanes must have seen a phase before the warp lets it end.
    FB_DEVICE void pass_keys() {
        wait_keys();
        __syncwarp();
        release_keys();
    }

    FB_DEVICE void wait_values() const {
        wait(barriers().values_full[values.slot()], values.parity());
    }
    FB_DEVICE void release_values() {
        release(barriers().values_empty[values.slot()], values_land_raw);
        values.advance();
        values.place = uniform(values.place);
    }
    FB_DEVICE void pass_values() {
        wait_values();
        __syncwarp();
        release_values();
    }

    FB_DEVICE uint32_t key_tile() const {
        return shared_address(b.shared.keys[keys.slot()]);
    }
    FB_DEVICE uint32_t value_tile() const {
        return shared_address(b.shared.values[values.slot()]);
    }

    // ---- tasks

    FB_DEVICE const Task& wait_task(const TaskTurn& turn) const {
        wait(barriers().rows_full[turn.rows.slot()], turn.rows.parity());
        return b.shared.tasks[turn.task.slot()];
    }
    FB_DEVICE const TaskRows& rows_of(const TaskTurn& turn) const {
        return b.shared.rows[turn.rows.slot()];
    }
    // Others can be described when their keys are done with: before they are stored.
    FB_DEVICE void release_rows(const TaskTurn& turn) const {
        __syncwarp();
        arrive_warp(barriers().rows_empty[turn.rows.slot()]);
    }
};
