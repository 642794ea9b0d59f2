// The warpgroup that loads. Warp 0 takes records; it and warp 1 load queries and find out which
// keys each row sees, warp 2 loads keys and warp 3 values.
#pragma once
#include "tasks.h"

// ---- tiles of keys and values

// What makes keys differ from values.
struct KeySide {
    static constexpr bool leads = true; // says when the next task is wanted
    static constexpr int dim = FB_KEY_DIM;
    static constexpr int panels = key_panels;
    static constexpr int bytes = key_bytes;
    static FB_DEVICE const fb_tensor_map* map(const Block& b) { return &b.p.k; }
    static FB_DEVICE unsigned char* tile(const Block& b, int i) { return b.shared.keys[i]; }
    static FB_DEVICE uint64_t& full(const Block& b, int i) {
        return b.shared.barriers.keys_full[i];
    }
    static FB_DEVICE uint64_t& empty(const Block& b, int i) {
        return b.shared.barriers.keys_empty[i];
    }
    static FB_DEVICE uint64_t row(const Block& b, const Source& from, int32_t page, int32_t row) {
        return row_address(b.attention().k, from.k, page, row);
    }
};

struct ValueSide {
    static constexpr bool leads = false;
    static constexpr int dim = FB_VALUE_DIM;
    static constexpr int panels = value_panels;
    static constexpr int bytes = value_tile_bytes;
    static FB_DEVICE const fb_tensor_map* map(const Block& b) { return &b.p.v; }
    static FB_DEVICE unsigned char* tile(const Block& b, int i) { return b.shared.values[i]; }
    static FB_DEVICE uint64_t& full(const Block& b, int i) {
        return b.shared.barriers.values_full[i];
    }
    static FB_DEVICE uint64_t& empty(const Block& b, int i) {
        return b.shared.barriers.values_empty[i];
    }
    static FB_DEVICE uint64_t row(const Block& b, const Source& from, int32_t page, int32_t row) {
        return row_address(b.attention().v, from.v, page, row);
    }
};

// Copies rows [first, first + rows) of a tile, whose addresses the lanes hold; 0: zeros.
template <int Dim, int Panel>
FB_DEVICE void copy_rows_of(uint32_t tile, int first, int rows, uint64_t address) {
    constexpr int pieces = Dim / 8;
    const int lane = lane_now();
    FB_UNROLL_BY(4)
    for (int i = 0; i < pieces; i++) {
        const int row = (lane + i * 32) / pieces;
        const int piece = (lane + i * 32) % pieces;
        const uint64_t from = __shfl_sync(0xffffffffu, address, row);
        if (row >= rows) continue;
        const uint32_t to = tile + piece / 8 * Panel + (first + row) * panel_row +
                            swizzled_piece(first + row, piece % 8);
        const uint64_t source = from == 0 ? 0 : from + piece * 16;
        cp_async_16(to, reinterpret_cast<const void*>(source), from == 0 ? 0 : 16);
    }
}

// Loads the tiles of a task from the last to the first, by a whole warp.
template <class Side> struct TileLoader {
    const Block& b;
    Turn<FB_STAGES> stage;

    // A lane's box of the tensor map: of some rows and one panel. The blocks of a cluster share the
    // boxes of a tile out and load each for all.
    static FB_DEVICE int box_index() { return lane_now() * FB_CLUSTER + int(rank_in_cluster()); }
    static FB_DEVICE int box_panel() { return box_index() % Side::panels; }
    static FB_DEVICE int box_row(const Task& task) {
        return box_index() / Side::panels * task.box_rows;
    }

    // Page (of ragged rows: none) and first row of what a lane loads; past the end a row that is
    // outside of every tensor, where boxes are zeros.
    FB_DEVICE Place find_box(const Task& task, int tile) const {
        const int32_t row = box_row(task);
        const int32_t token = task.start + tile * FB_KV_TILE + row;
        if (row >= FB_KV_TILE || token >= task.record.kv_end)
            return {nullptr, -FB_KV_TILE, past_end};
        return find(b.attention(), task.record, task.source, token, past_end);
    }

    FB_DEVICE void load_box(const Task& task, int32_t page, int32_t row) {
        wait(Side::empty(b, stage.slot()), stage.parity() ^ 1);
        const uint32_t full = shared_address(&Side::full(b, stage.slot()));
        if (lane_now() == 0) mbarrier_arrive_expect(full, Side::bytes);
        __syncwarp();
        if (box_row(task) < FB_KV_TILE) {
            const uint32_t to = shared_address(Side::tile(b, stage.slot())) +
                                box_panel() * tile_panel + box_row(task) * panel_row;
            const int at[4] = {box_panel() * 64, row, task.record.kv_head, page};
            if (FB_CLUSTER > 1)
                tensor_load_multicast(to, Side::map(b), full, at, (1 << FB_CLUSTER) - 1);
            else tensor_load(to, Side::map(b), full, at);
        }
        __syncwarp();
        stage.advance();
    }

    // All tiles from `first` on; page ids are asked for a tile ahead.
    FB_DEVICE void load_boxes(const Task& task, int first) {
        int32_t row, page;
        FB_NO_UNROLL
        for (int tile = task.blocks; tile >= first; tile--) {
            const int32_t this_row = row, this_page = page;
            if (tile > first) {
                const Place place = find_box(task, tile - 1);
                row = place.row;
                page = place.page == nullptr ? 0 : *place.page;
            }
            if (tile == task.blocks) continue;
            want_next(task, tile);
            load_box(task, this_page, this_row);
        }
    }

    // The last `count` tiles that are left, row by row, by each block for itself. A tile counts as
    // full when the next one's copies are under way.
    FB_DEVICE void gather(const Task& task, int count) {
        uint64_t* before = nullptr;
        FB_NO_UNROLL
        for (int tile = count - 1; tile >= 0; tile--) {
            want_next(task, tile);
            wait(Side::empty(b, stage.slot()), stage.parity() ^ 1);
            FB_NO_UNROLL
            for (int first = 0; first < FB_KV_TILE; first += 32) {
                const int32_t token = task.start + tile * FB_KV_TILE + first + lane_now();
                const bool before_first = token < task.record.kv_start;
                const int32_t end = before_first ? token : task.record.kv_end;
                const Place place = find(b.attention(), task.record, task.source, token, end);
                const int32_t page = place.page == nullptr ? 0 : *place.page;
                const uint64_t address =
                    place.position == past_end ? 0 : Side::row(b, task.source, page, place.row);
                copy_rows_of<Side::dim, tile_panel>(shared_address(Side::tile(b, stage.slot())),
                                                    first, min(32, FB_KV_TILE - first), address);
            }
            cp_async_commit();
            if (before != nullptr) {
                cp_async_wait<1>();
                landed(*before);
            }
            before = &Side::full(b, stage.slot());
            stage.advance();
        }
        cp_async_wait<0>();
        if (before != nullptr) landed(*before);
    }

    FB_DEVICE void landed(const uint64_t& full) {
        fence_proxy_async_shared();
        __syncwarp();
        if (lane_now() == 0) arrive(full);
    }

    FB_DEVICE void want_next(const Task& task, int tile) const {
        if (Side::leads && tile == task.early && lane_now() == 0)
            arrive(b.shared.barriers.task_wanted);
    }

    // Values before a task's first key may be anything, and 0 times anything is not 0: the tile
    // that has any is gathered, without them.
    FB_DEVICE void load(const Task& task) {
        const bool begins_early = !Side::leads && task.start < task.record.kv_start;
        const int gathered = task.box_rows == 0 ? task.blocks : begins_early ? 1 : 0;
        if (gathered < task.blocks) load_boxes(task, gathered);
        if (gathered > 0) gather(task, gathered);
    }
};

// By a whole warp, for all tasks.
template <class Side> FB_DEVICE void load_tiles(const Block& b) {
    Barriers& barriers = b.shared.barriers;
    TileLoader<Side> loader = {b};
    FB_NO_UNROLL
    for (uint32_t n = 0;; n++) {
        const auto turn = Turn<task_count>::at(n);
        wait(barriers.task_full[turn.slot()], turn.parity());
        const Task& task = b.shared.tasks[turn.slot()];
        if (task.blocks < 0) break;
        loader.load(task);
        __syncwarp();
        if (lane_now() == 0) arrive(barriers.task_empty[turn.slot()]);
    }
}

// ---- queries, and what they see

struct Seen {
    int32_t low;
    int32_t high;
};

// Kept tokens that a row sees: positions ascend with them, so that they are a range.
FB_DEVICE Seen tokens_seen(const Block& b, const Task& task, int row) {
    const Divider by_page = task.source.by_page;
    const fb_attention_params& p = b.attention();
    const fb_attention_record& r = task.record;
    int32_t low = no_position;
    int32_t high = last_position;
    if (row < r.row_count && (p.causal || p.window_left >= 0 || p.token_requests != 0)) {
        const RowInputs inputs = row_inputs(p, r, row);
        if (p.causal) high = inputs.query;
        if (p.window_left >= 0) low = inputs.query - p.window_left;
        if (inputs.request < 0 || high < 0) return {past_end, no_position};
    }
    if (r.column_offset >= 0) {
        const int32_t end = high >= last_position
                                ? r.kv_end
                                : first_after(p, r, by_page, r.kv_start, r.kv_end, high);
        const int32_t begin = low == no_position
                                  ? r.kv_start
                                  : first_after(p, r, by_page, r.kv_start, end, low - 1);
        return {begin, end - 1};
    }
    // Compared before the subtraction, which cannot overflow then.
    const int32_t origin = r.position_start;
    low = max(low, origin + r.kv_start) - origin;
    high = max(min(high, origin + r.kv_end - 1), origin - 1) - origin;
    return {low, high};
}

FB_DEVICE int32_t warp_least(int32_t x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = min(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

FB_DEVICE int32_t warp_most(int32_t x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = max(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// The rows of one warpgroup, by a whole warp.
FB_DEVICE void describe_rows(const Block& b, Task& task, int group) {
    int32_t any_low = past_end, any_high = -1, all_low = 0, all_high = last_position;
    FB_NO_UNROLL
    for (int row = lane_now(); row < group_rows; row += 32) {
        const int at = group * group_rows + row;
        const Seen seen = tokens_seen(b, task, at);
        task.low[at] = seen.low;
        task.high[at] = seen.high;
        if (at >= task.record.row_count) continue;
        if (seen.low <= seen.high) {
            any_low = min(any_low, seen.low);
            any_high = max(any_high, seen.high);
        }
        all_low = max(all_low, seen.low);
        all_high = min(all_high, seen.high);
    }
    any_low = warp_least(any_low);
    any_high = warp_most(any_high);
    all_low = warp_most(all_low);
    all_high = warp_least(all_high);
    if (lane_now() != 0) return;
    Reach& reach = task.reach[group];
    reach = {0, 0, 0, 0};
    if (any_low > any_high) return;
    reach.begin = (any_low - task.start) / FB_KV_TILE;
    reach.end = (any_high - task.start) / FB_KV_TILE + 1;
    if (all_low > all_high) return;
    // The first tile gives the rows their references, and is none of these; nor is the one behind
    // it, if some row sees too little of the first.
    const int32_t first = reach.end - 1;
    const int32_t whole_begin = (all_low - task.start + FB_KV_TILE - 1) / FB_KV_TILE;
    int32_t whole_end = min((all_high + 1 - task.start) / FB_KV_TILE, first);
    if (all_high + 1 - task.start - first * FB_KV_TILE < reference_keys)
        whole_end = min(whole_end, first - 1);
    if (whole_begin < whole_end) {
        reach.whole_begin = whole_begin;
        reach.whole_end = whole_end;
    }
}

FB_DEVICE void copy_queries(const Block& b, const Task& task, uint32_t tile, int group) {
    const fb_attention_params& p = b.attention();
    FB_NO_UNROLL
    for (int first = group * group_rows; first < (group + 1) * group_rows; first += 32) {
        const int row = first + lane_now();
        uint64_t address = 0;
        if (row < task.record.row_count) {
            const QueryRow at = query_row(task.record, row);
            address = p.q + 2 * (at.token * p.q_stride_token + at.head * p.q_stride_head);
        }
        copy_rows_of<FB_KEY_DIM, query_panel>(tile, first, 32, address);
    }
}

// A task's rows, by two warps: a warpgroup's, or every other's, each.
FB_DEVICE void load_rows(const Block& b, Task& task, uint32_t n) {
    const auto buffer = Turn<FB_QUERY_BUFFERS>::at(n);
    wait(b.shared.barriers.queries_empty[buffer.slot()], buffer.parity() ^ 1);
    const uint32_t tile = shared_address(b.shared.queries[buffer.slot()]);
    FB_NO_UNROLL
    for (int group = thread_now() / 32; group < computing_groups; group += 2)
        copy_queries(b, task, tile, group);
    FB_NO_UNROLL
    for (int group = thread_now() / 32; group < computing_groups; group += 2)
        describe_rows(b, task, group); // while the queries arrive
    cp_async_wait_all();
    fence_proxy_async_shared();
}

// Warps 0 and 1; warp 0 takes the records.
FB_DEVICE void load_tasks(const Block& b) {
    const fb_attention_params& p = b.attention();
    Barriers& barriers = b.shared.barriers;
    const Divider by_page = divider_of(uint32_t(p.page_size));
    FB_NO_UNROLL
    for (uint32_t n = 0;; n++) {
        const auto turn = Turn<task_count>::at(n);
        Task& task = b.shared.tasks[turn.slot()];
        if (uniform(thread_now() / 32) == 0) {
            uint32_t index = cluster_index();
            if (n > 0) {
                wait(barriers.task_wanted, n - 1 & 1);
                mail_ticket(b, n - 1);
                index = open_letter(b, n - 1);
            }
            const int32_t word = record_word(p, index);
            wait(barriers.task_empty[turn.slot()], turn.parity() ^ 1);
            write_task(b, task, by_page, word);
            __syncwarp();
            if (lane_now() == 0) arrive(barriers.task_full[turn.slot()]);
        } else {
            wait(barriers.task_full[turn.slot()], turn.parity());
        }
        const bool last = task.blocks < 0;
        if (!last) load_rows(b, task, n);
        __syncwarp();
        if (lane_now() == 0) arrive(barriers.rows_full[turn.slot()]);
        if (last) break;
    }
    close_records(p);
}
