// A warpgroup that scores 64 rows for those that multiply values: the products of the next tile run
// beneath the softmax of this one, whose probabilities go on through shared memory.
#pragma once
#include "../../ptx/stmatrix.h"
#include "scoring.h"

static_assert(FB_KV_TILE * 2 == weight_bytes, "a tile's probabilities are half of a panel");
static_assert(!FB_QUERIES_KEPT && FB_QUERY_BUFFERS == 1, "queries stay in shared memory");

// Of the queries' steps so many are in registers, too: products read less of shared memory.
constexpr int kept_steps = 16;

struct Score : Scoring {
    uint32_t queries[kept_steps][4];
    Scores products;      // of the tile after `s`
    Turn<FB_STAGES> next; // its keys
    Turn<weight_slots> weights;
    Turn<1> ends;

    using Scoring::Scoring;

    FB_DEVICE Weights& passed() const { return b.shared; }

    // Those of the next tile, in flight until they are taken.
    FB_DEVICE void issue_scores() {
        wait(barriers().keys_full[next.slot()], next.parity());
        const uint64_t q = operand(shared_address(b.shared.queries[0]));
        const uint64_t k = operand(shared_address(b.shared.keys[next.slot()]));
        wgmma_tie(products);
        wgmma_fence();
        FB_UNROLL
        for (int i = 0; i < key_steps; i++) {
            const uint64_t step = k + (key_step<tile_panel>(i) >> 4);
            if (i < kept_steps) FB_SCORES(products, queries[i % kept_steps], step, i > 0);
            else FB_SHARED_SCORES(products, q + (key_step<query_panel>(i) >> 4), step, true);
        }
        wgmma_commit();
        next.advance();
        next.place = uniform(next.place);
    }

    FB_DEVICE void take_products() {
        wgmma_wait<0>();
        wgmma_tie(products);
        FB_UNROLL
        for (int i = 0; i < FB_KV_TILE / 2; i++) s[i] = products[i];
        if (!reads_notes) release_keys();
    }

    // Tiles that these rows do not see.
    FB_DEVICE void pass(int count) {
        FB_NO_UNROLL
        for (; count > 0; count--) pass_keys();
    }

    FB_DEVICE void store_weights(const float (&keep)[2]) {
        Weights& to = passed();
        wait(to.empty[weights.slot()], weights.parity() ^ 1);
        const int lane = lane_now();
        const uint32_t row = shared_address(to.panel) + (warp_row() + lane % 16) * panel_row;
        FB_UNROLL
        for (int k = 0; k < value_steps; k++) {
            uint32_t a[4];
            FB_UNROLL
            for (int i = 0; i < 4; i++)
                a[i] = pack_pair<FB_Q_TYPE>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
            const int piece = weights.slot() * (weight_bytes / 16) + 2 * k + lane / 16;
            stmatrix_x4(row + swizzled_piece(lane, piece), a);
        }
        if (lane % 4 == 0) {
            to.keep[weights.slot()][own()] = keep[0];
            to.keep[weights.slot()][own() + 8] = keep[1];
        }
        fence_proxy_async_shared();
        __syncwarp();
        arrive_warp(to.full[weights.slot()]);
        weights.advance();
    }

    // The scores of a tile become probabilities. Returns what older sums are to be multiplied by.
    FB_DEVICE Shift weigh(const TaskRows& seen, const Reach& reach, int tile) {
        change_scores(seen, tile);
        if (tile < reach.whole_begin || tile >= reach.whole_end) hide_scores(seen, tile);
        Shift shift = {{1, 1}, false};
        if constexpr (Variant::softmax)
            shift.moves = softmax_exact<true>(factors, rows, shift.alpha, s);
        shift.keep(scale_values(seen, tile));
        if (reads_notes) release_read_keys();
        return shift;
    }

    // The tiles that these rows see, of which there are some.
    FB_DEVICE void take_tiles(const TaskRows& seen, const Reach& reach) {
        next = keys;
        FB_UNROLL
        for (int k = 0; k < kept_steps; k++) load_queries(k, queries[k]);
        issue_scores();
        take_products();
        FB_NO_UNROLL
        for (int tile = reach.end - 1; tile > reach.begin; tile--) {
            // Gathered keys are announced with the copies of the next, which may need the place of
            // those that are noted still.
            if (!reads_notes) issue_scores();
            const Shift shift = weigh(seen, reach, tile);
            if (reads_notes) issue_scores();
            store_weights(shift.alpha);
            take_products();
        }
        arrive_warp(barriers().queries_empty[buffer.slot()]);
        store_weights(weigh(seen, reach, reach.begin).alpha);
    }

    // The task's rows are done.
    FB_DEVICE void end() {
        Weights& to = passed();
        const RowSums done = row_sums();
        wait(to.ends_empty, ends.parity() ^ 1);
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            const float sum = quad_sum(done.sum[h]);
            if (lane_now() % 4 == 0) to.ends[own() + 8 * h] = {done.base[h], sum, done.unit};
        }
        __syncwarp();
        arrive_warp(to.ends_full);
        ends.advance();
    }

    FB_DEVICE void take_task(const Task& task, const TaskTurn& turn) {
        const TaskRows& seen = rows_of(turn);
        const Reach reach = own_reach(seen);
        rows = {{-FB_INFINITY, -FB_INFINITY}, {0, 0}};
        power = least_scale_power;
        find_factors(task, seen);
        pass(uniform(task.blocks) - reach.end);
        if (reach.begin == reach.end) arrive_warp(barriers().queries_empty[buffer.slot()]);
        else take_tiles(seen, reach);
        release_rows(turn);
        end();
        pass(reach.begin);
        buffer.advance();
    }

    FB_DEVICE void run() {
        TaskTurn turn;
        FB_NO_UNROLL
        for (;; turn.advance()) {
            const Task& task = wait_task(turn);
            if (uniform(task.blocks) < 0) break;
            take_task(task, turn); // whose end all lanes have met at
            arrive_warp(barriers().task_empty[turn.task.slot()]);
        }
    }
};
