// A warpgroup that computes: 64 rows against the tiles that arrive, from the last to the first.
#pragma once
#include "join.h"
#include "scoring.h"
#include "sums.h"

struct Compute : Scoring {
    Sums sums;
    bool fresh; // they hold nothing yet
    Shift shift; // of the sums, before the next product is added
    LongSums before; // of fp8 products
    Joiner joiner;
    uint32_t probabilities[value_steps][4];
    uint32_t queries[FB_QUERIES_KEPT ? key_steps : 1][4];

    using Scoring::Scoring;

    // Tiles that these rows do not see: keys and values in turn, as those take them who do.
    FB_DEVICE void pass(int count) {
        FB_NO_UNROLL
        for (; count > 0; count--) {
            pass_keys();
            pass_values();
        }
    }

    // ---- products

    FB_DEVICE void keep_queries() {
        if constexpr (FB_QUERIES_KEPT) {
            FB_UNROLL
            for (int k = 0; k < key_steps; k++) load_queries(k, queries[k]);
            __syncwarp();
            arrive_warp(barriers().queries_empty[buffer.slot()]);
        }
    }
    FB_DEVICE void release_queries() const {
        if (!FB_QUERIES_KEPT) arrive_warp(barriers().queries_empty[buffer.slot()]);
    }

    FB_DEVICE void issue_scores() {
        const uint64_t q = operand(query_tile() + uint32_t(group() * (group_rows * panel_row)));
        const uint64_t k = operand(key_tile());
        wgmma_tie(s);
        wgmma_fence();
        FB_UNROLL
        for (int i = 0; i < key_steps; i++) {
            const uint64_t step = k + (key_step<tile_panel>(i) >> 4);
            if constexpr (FB_QUERIES_KEPT) FB_SCORES(s, queries[i], step, i > 0);
            else FB_SHARED_SCORES(s, q + (key_step<query_panel>(i) >> 4), step, i > 0);
        }
        wgmma_commit();
    }

    // What is to happen to the sums before comes first: scores are computed meanwhile. `plain`:
    // nothing is, and they hold something.
    template <bool plain = false> FB_DEVICE void issue_values() {
        if constexpr (!plain) settle_sums();
        wait_values();
        const uint64_t v = operand(value_tile(), tile_panel);
        tie_sums();
        wgmma_fence();
        FB_UNROLL
        for (int k = 0; k < value_steps; k++) {
            // Transposed values are one panel, others have a row for each key.
            const int step = fp8_products ? k * 32 : k * 16 * panel_row;
            FB_UNROLL
            for (int part = 0; part < sum_parts; part++)
                multiply_values(part_of(sums, part), probabilities[k],
                          v + ((part * sum_part_bytes + step) >> 4), plain || k > 0 || !fresh);
        }
        wgmma_commit();
        if constexpr (!plain) fresh = false;
    }

    FB_DEVICE void tie_sums() {
        FB_UNROLL
        for (int part = 0; part < sum_parts; part++) wgmma_tie(part_of(sums, part));
    }

    FB_DEVICE void multiply_sums(const float (&by)[2]) {
        FB_UNROLL
        for (int i = 0; i < FB_VALUE_DIM / 2; i++) sums[i] *= by[i / 2 % 2];
        before.shrink(by);
    }

    FB_DEVICE void settle_sums() {
        if (!fp8_products && shift.moves) {
            multiply_sums(shift.alpha);
            shift.moves = false;
        }
        before.add(b.shared, sums, fresh);
    }

    FB_DEVICE void pack() {
        FB_UNROLL
        for (int i = 0; i < 4 * value_steps; i++) {
            // Of fp8 two pairs of a row, eight columns apart.
            const int at = fp8_products ? i / 2 * 8 + i % 2 * 2 : 2 * i;
            uint32_t x = pack_pair<value_type>(s[at], s[at + 1]);
            if constexpr (fp8_products) x |= pack_pair<value_type>(s[at + 4], s[at + 5]) << 16;
            probabilities[i / 4][i % 4] = x;
        }
    }

    // The warp's scores once more, by the warp's own tensor core instructions.
    FB_DEVICE void scores_again(const TaskRows& seen, int tile) {
        FB_UNROLL
        for (int i = 0; i < FB_KV_TILE / 2; i++) s[i] = 0;
        const int lane = lane_now();
        const uint32_t row = key_tile() + (lane % 8 + lane / 16 * 8) * panel_row;
        FB_UNROLL
        for (int k = 0; k < key_steps; k++) {
            uint32_t a[4], keys[4];
            if constexpr (FB_QUERIES_KEPT) copy(queries[k], a);
            else load_queries(k, a);
            FB_UNROLL
            for (int i = 0; i < FB_KV_TILE / 16; i++) {
                ldmatrix_x4(keys, row + k / 4 * tile_panel + i * (16 * panel_row) +
                                      swizzled_piece(lane, k % 4 * 2 + lane / 8 % 2));
                add_product(a, keys[0], keys[1], 8 * i);
                add_product(a, keys[2], keys[3], 8 * i + 4);
            }
        }
        // Keys that lanes have read are overwritten by bulk copies. Besides, the compiler reads
        // notes again behind it, and keeps nothing of the first reading in registers.
        fence_proxy_async_shared();
        change_scores(seen, tile);
    }

    static FB_DEVICE void copy(const uint32_t (&from)[4], uint32_t (&to)[4]) {
        FB_UNROLL
        for (int i = 0; i < 4; i++) to[i] = from[i];
    }

    FB_DEVICE void add_product(const uint32_t (&a)[4], uint32_t b0, uint32_t b1, int at) {
        float d[4] = {s[at], s[at + 1], s[at + 2], s[at + 3]};
        if (fp8_products) mma_m16n8k32_e4m3(d, a, b0, b1);
        else if (FB_Q_TYPE == FB_BF16) mma_m16n8k16_bf16(d, a, b0, b1);
        else mma_m16n8k16_f16(d, a, b0, b1);
        FB_UNROLL
        for (int i = 0; i < 4; i++) s[at + i] = d[i];
    }

    // A tile that all rows see whole, behind one that gave them a reference: the maximum of later
    // scores is not looked for. The sums show when one may have outgrown the reference by `slack`;
    // then the scores are computed again and the exact way is taken, but for fp8 products.
    FB_DEVICE bool softmax_lagging(const TaskRows& seen, int tile, float (&alpha)[2]) {
        const float2 sums_of = exponentiate<false>(factors, rows, s);
        float sum[2] = {sums_of.x, sums_of.y};
        const bool again = __any_sync(0xffffffffu, !(fmaxf(sum[0], sum[1]) <= lagging_most));
        if (fp8_products && again) move_references(factors, rows, sum, alpha, s);
        if (fp8_products || !again) {
            rows.sum[0] += sum[0];
            rows.sum[1] += sum[1];
            return again;
        }
        scores_again(seen, tile);
        return softmax_exact<loses_keys>(factors, rows, alpha, s);
    }

    // Scores become probabilities; `whole`: every row sees every key of the tile, and has a
    // reference. Returns whether older sums are to be multiplied by `alpha`.
    template <bool whole>
    FB_DEVICE bool softmax(const TaskRows& seen, int tile, float (&alpha)[2]) {
        if constexpr (!Variant::softmax) return false;
        else if constexpr (whole && !FB_INVARIANT)
            return softmax_lagging(seen, tile, alpha);
        else return softmax_exact<!whole || loses_keys>(factors, rows, alpha, s);
    }

    // ---- a task

    // A task's values past its last key may be anything, and 0 times anything is not 0: all threads
    // that compute make them zeros, before any of them passes the tile. `at`: its stage.
    FB_DEVICE void clear_tail(const Task& task, const Turn<FB_STAGES>& at) {
        const int32_t count = uniform(task.tail);
        if (values_wait || count == 0) return;
        wait(barriers().values_full[at.slot()], at.parity());
        const uint32_t tile = shared_address(b.shared.values[at.slot()]);
        constexpr int row_pieces = 8 * value_panels;
        FB_NO_UNROLL
        for (int i = thread_now() - 128 * first_computing; i < (FB_KV_TILE - count) * row_pieces;
             i += 128 * computing_groups) {
            const int row = count + i / row_pieces;
            const int piece = i % row_pieces;
            store_shared_16(tile + piece / 8 * tile_panel + row * panel_row + piece % 8 * 16,
                            make_uint4(0, 0, 0, 0));
        }
        fence_proxy_async_shared();
        barrier_sync(1, 128 * computing_groups);
    }

    FB_DEVICE void open(const Task& task, const TaskRows& seen) {
        find_factors(task, seen);
        keep_queries();
    }

    // From the scores of a task's first tile, which are there, to the start of its probabilities.
    FB_DEVICE void take_first(const TaskRows& seen, const Reach& reach) {
        const int tile = reach.end - 1;
        if (!reads_notes) release_keys();
        if (tile == reach.begin) release_queries();
        change_scores(seen, tile);
        const int shown = hide_scores<Variant::softmax>(seen, tile);
        if constexpr (Variant::softmax) softmax_first(factors, shown, rows, s);
        power = least_scale_power;
        scale_values(seen, tile);
        if (reads_notes) release_read_keys();
    }

    // The first tile of a task alone.
    FB_DEVICE void begin(const Task& task, const TaskRows& seen, const Reach& reach) {
        pass(uniform(task.blocks) - reach.end);
        wait_keys();
        issue_scores();
        wgmma_wait<0>();
        wgmma_tie(s);
        take_first(seen, reach);
        pack();
        if (reach.end - 1 > reach.begin) wait_keys();
    }

    // Scores of tile `tile` beside the product of the one before it in time.
    template <bool masked, bool plain = false>
    FB_DEVICE void step(const TaskRows& seen, const Reach& reach, int tile) {
        issue_scores();
        issue_values<plain>();
        wgmma_wait<1>();
        wgmma_tie(s);
        // Until it is known that they need no second look.
        constexpr bool keeps_queries = !masked && !FB_INVARIANT && !fp8_products;
        constexpr bool keeps_keys = keeps_queries || reads_notes;
        if (!keeps_keys) release_keys();
        if (!keeps_queries && tile == reach.begin) release_queries();
        if constexpr (masked || !signs_in_masked) change_scores(seen, tile);
        if constexpr (masked) hide_scores(seen, tile);
        if constexpr (fp8_products) {
            // Seldom: the product is waited for, and nothing is left to do in the loop.
            float alpha[2] = {1, 1};
            if (softmax<!masked>(seen, tile, alpha)) {
                wgmma_wait<0>();
                tie_sums();
                multiply_sums(alpha);
            }
        } else {
            shift.moves = softmax<!masked>(seen, tile, shift.alpha);
            shift.keep(scale_values(seen, tile));
        }
        if (keeps_keys) release_read_keys();
        if (keeps_queries && tile == reach.begin) release_queries();
        wgmma_tie(s);
        // A wait in a loop of its own keeps the next one, which names no registers, below the
        // softmax.
        if (tile > reach.begin) wait_keys();
        wgmma_wait<0>();
        tie_sums();
        wgmma_tie(s);
        release_values();
        pack();
    }

    static constexpr int least_ahead = 8;

    // All tiles but the first.
    FB_DEVICE void go_on(const TaskRows& seen, const Reach& reach) {
        FB_NO_UNROLL
        for (int tile = reach.end - 2; tile >= reach.begin;) {
            // Tiles that some row does not see whole lie before and behind those that all see.
            FB_NO_UNROLL
            for (; tile >= reach.begin && (tile >= reach.whole_end || tile < reach.whole_begin);
                 tile--) {
                step<true>(seen, reach, tile);
            }
            FB_NO_UNROLL
            for (; tile >= reach.whole_begin && tile < reach.whole_end; tile--) {
                step<false>(seen, reach, tile);
                if constexpr (fp8_products) {
                    // Until sums move there is nothing else to ask. Few tiles do not pay for
                    // fetching the loop's instructions.
                    const int left = tile - reach.whole_begin;
                    const int end = left < least_ahead ? tile : tile - before.ahead(left);
                    FB_NO_UNROLL
                    for (; tile > end; tile--) step<false, true>(seen, reach, tile - 1);
                }
            }
        }
    }

    // The product that is left at the end of a task, alone.
    FB_DEVICE void end(const Reach& reach) {
        issue_values();
        wgmma_wait<0>();
        tie_sums();
        release_values();
        pass(reach.begin);
    }

    // Whether the end of a task may overlap the beginning of the next. Keys that are passed on the
    // way must fit the ring: who sees them waits for values that are released only afterwards.
    static constexpr bool crosses =
        !splits_keys && (FB_QUERIES_KEPT || FB_QUERY_BUFFERS > 1);
    FB_DEVICE bool can_cross(const Reach& reach, const Task& next, const TaskRows& seen) const {
        if (next.blocks <= 0 || reach.begin > 0) return false;
        const Reach& after = seen.reach[group()];
        return after.begin < after.end && next.blocks - after.end < FB_STAGES;
    }

    // The product that is left beside the scores of the next task's first tile.
    FB_DEVICE void cross(const Task& next, const TaskRows& seen) {
        const Reach reach = own_reach(seen);
        const int passed = uniform(next.blocks) - reach.end;
        auto after = values;
        after.advance();
        clear_tail(next, after);
        FB_NO_UNROLL
        for (int i = 0; i < passed; i++) pass_keys();
        wait_keys();
        issue_scores();
        issue_values();
        wgmma_wait<1>();
        wgmma_tie(s);
        take_first(seen, reach);
        wgmma_tie(s);
        if (reach.end - 1 > reach.begin) wait_keys();
        wgmma_wait<0>();
        tie_sums();
        wgmma_tie(s);
        release_values();
        FB_NO_UNROLL
        for (int i = 0; i < passed; i++) pass_values();
        pack();
    }

    // ---- tasks

    // Rows whose keys are done.
    FB_DEVICE void finish(const Task& task, RowSums done) {
        if (!joiner.join(b.shared, done, sums)) return;
        const uint32_t wrong = store(b, task, own(), 0, done, sums);
        attend_wrong<2>(b.attention(), whole_record(task), task.source.by_page, wrong,
                        {0, FB_VALUE_DIM / 8}, true, [](int h) { return own() + 8 * h; });
    }

    // Rows that see nothing.
    FB_DEVICE RowSums pass_task(const Task& task) {
        release_queries();
        pass(uniform(task.blocks));
        FB_UNROLL
        for (int i = 0; i < FB_VALUE_DIM / 2; i++) sums[i] = 0;
        return {{no_base, no_base}, {0, 0}, 1};
    }

    // Rows that see something; `begun`: the first tile is taken. Then it says whether that of the
    // next task is.
    FB_DEVICE RowSums take_task(const Task& task, const Reach& reach, bool& begun,
                                const TaskTurn& turn) {
        if (!begun) begin(task, rows_of(turn), reach);
        go_on(rows_of(turn), reach);
        release_rows(turn);
        const RowSums done = row_sums();
        buffer.advance();
        begun = false;
        if constexpr (crosses) {
            auto after = turn;
            after.advance();
            const Task& next = wait_task(after);
            begun = uniform(can_cross(reach, next, rows_of(after)));
            if (begun) {
                open(next, rows_of(after));
                cross(next, rows_of(after));
            }
        }
        if (!begun) end(reach);
        before.join(b.shared, sums);
        fresh = true;
        return done;
    }

    FB_DEVICE void run() {
        TaskTurn turn;
        bool begun = false;
        fresh = true;
        shift.moves = false;
        FB_NO_UNROLL
        for (;; turn.advance()) {
            const Task& task = wait_task(turn);
            if (uniform(task.blocks) < 0) break;
            const Reach reach = own_reach(rows_of(turn));
            if (!begun) {
                open(task, rows_of(turn));
                clear_tail(task, values); // who passes tiles waits for those who compute
            }
            RowSums done;
            if (reach.begin == reach.end) {
                release_rows(turn);
                done = pass_task(task);
                buffer.advance();
                begun = false;
            } else {
                done = take_task(task, reach, begun, turn);
            }
            finish(task, done);
            __syncwarp();
            arrive_warp(barriers().task_empty[turn.task.slot()]);
        }
    }
};

FB_DEVICE void compute_rows(const Block& b) {
    registers_increase<computing_registers>();
    Compute(b).run();
}
