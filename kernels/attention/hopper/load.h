// The warpgroup that loads. Warp 0 takes records; it and warp 1 load queries and find out which
// keys each row sees, warp 2 loads keys and warp 3 values.
#pragma once
#include "copy.h"
#include "tasks.h"

// ---- tiles of keys and values

// What makes keys differ from values: `full`, `empty` and `tile` are of what products take,
// `landed` of what waits to be changed, where it is `raw` in a place of its own.
struct KeySide {
    static constexpr int type = FB_Q_TYPE; // what products take
    static constexpr bool raw = keys_land_raw;
    static constexpr int places = raw ? FB_RAW_STAGES : FB_STAGES; // where it lands
    static constexpr bool waits = keys_wait;
    static constexpr bool turns = rotates;
    static constexpr bool transposes = false;
    static constexpr bool hooked = Variant::has_key;
    template <class V>
    static FB_DEVICE void change(const fb_attention_params& p, const KeyInputs& key, V& v) {
        Variant::key(p, key, v);
    }
    static constexpr int raw_row = raw_key_row;
    static constexpr bool leads = true; // says when the next task is wanted
    static constexpr int dim = FB_KEY_DIM;
    static constexpr int panels = key_panels;
    static FB_DEVICE unsigned char* raw_tile(const Block& b, int i) {
        return static_cast<RawKeys&>(b.shared).at(i);
    }
    static FB_DEVICE uint64_t& landed(const Block& b, int i) {
        return b.shared.barriers.keys_landed[i];
    }
    static FB_DEVICE uint64_t& raw_empty(const Block& b, int i) {
        return b.shared.barriers.raw_keys_empty[i];
    }
    static FB_DEVICE const fb_tensor_map* map(const Block& b) { return &b.p.k; }
    static FB_DEVICE unsigned char* tile(const Block& b, int i) { return b.shared.keys[i]; }
    static FB_DEVICE uint64_t& full(const Block& b, int i) {
        return b.shared.barriers.keys_full[i];
    }
    static FB_DEVICE uint64_t& empty(const Block& b, int i) {
        return b.shared.barriers.keys_empty[i];
    }
    static FB_DEVICE const fb_plane& plane(const Block& b) { return b.attention().k; }
    static FB_DEVICE uint64_t head(const Source& from) { return from.k; }
};

struct ValueSide {
    static constexpr int type = value_type;
    static constexpr bool raw = values_land_raw;
    static constexpr int places = raw ? FB_RAW_STAGES : FB_STAGES;
    static constexpr bool waits = values_wait;
    static constexpr bool turns = false;
    static constexpr bool transposes = fp8_products;
    static constexpr bool hooked = Variant::has_value;
    template <class V>
    static FB_DEVICE void change(const fb_attention_params& p, const KeyInputs& key, V& v) {
        Variant::value(p, key, v);
    }
    static constexpr int raw_row = raw_value_row;
    static constexpr bool leads = false;
    static constexpr int dim = FB_VALUE_DIM;
    static constexpr int panels = value_panels;
    static FB_DEVICE unsigned char* raw_tile(const Block& b, int i) {
        return static_cast<RawValues&>(b.shared).at(i);
    }
    static FB_DEVICE uint64_t& landed(const Block& b, int i) {
        return b.shared.barriers.values_landed[i];
    }
    static FB_DEVICE uint64_t& raw_empty(const Block& b, int i) {
        return b.shared.barriers.raw_values_empty[i];
    }
    static FB_DEVICE const fb_tensor_map* map(const Block& b) { return &b.p.v; }
    static FB_DEVICE unsigned char* tile(const Block& b, int i) { return b.shared.values[i]; }
    static FB_DEVICE uint64_t& full(const Block& b, int i) {
        return b.shared.barriers.values_full[i];
    }
    static FB_DEVICE uint64_t& empty(const Block& b, int i) {
        return b.shared.barriers.values_empty[i];
    }
    static FB_DEVICE const fb_plane& plane(const Block& b) { return b.attention().v; }
    static FB_DEVICE uint64_t head(const Source& from) { return from.v; }
};

// What hooks, bits and scales by token ask of a tile's keys, by every `step`-th thread.
FB_DEVICE void note_keys(const Block& b, const Task& task, int tile, int stage, int thread,
                         int step) {
    const fb_attention_params& p = b.attention();
    const fb_attention_record& r = task.record;
    Notes& notes = *notes_of(b.shared, stage);
    FB_NO_UNROLL
    for (int i = thread; i < FB_KV_TILE; i += step) {
        const int32_t token = task.start + tile * FB_KV_TILE + i;
        const Place place = find(p, r, task.source, token, r.kv_end);
        notes.position[i] = place.place;
        if (!notes_pages) continue;
        const bool kept = place.place != past_end;
        const int32_t row = kept ? without_full_bit(place.row) : 0;
        const int32_t page = place.page == nullptr ? 0 : *place.page;
        notes.slot[i] = page * p.page_size + row;
        if (FB_K_TOKEN_SCALE) notes.k_scale[i] = token_scale(p.k_scale, r, page, row, kept);
        if (FB_V_TOKEN_SCALE) notes.v_scale[i] = token_scale(p.v_scale, r, page, row, kept);
    }
}

// Of 64 rows and as many keys a tile is done before its next one's page ids could be asked for.
constexpr bool looks_far = block_rows == 64 && FB_KV_TILE == 64 && !passes_scores;

// Loads the tiles of a task from the last to the first, by a whole warp.
template <class Side> struct TileLoader {
    static constexpr bool raw = Side::raw;
    static constexpr int panels = raw ? 1 : Side::panels;
    static constexpr int row_bytes = raw ? Side::raw_row : panel_row; // of a panel
    static constexpr int panel_bytes = FB_KV_TILE * row_bytes;

    const Block& b;
    const int part; // first row of a tile's that this block gathers
    Turn<Side::places> stage;

    FB_DEVICE uint64_t& full() const {
        return Side::waits ? Side::landed(b, stage.slot()) : Side::full(b, stage.slot());
    }
    FB_DEVICE uint64_t& empty() const {
        return raw ? Side::raw_empty(b, stage.slot()) : Side::empty(b, stage.slot());
    }
    FB_DEVICE uint32_t tile() const {
        return shared_address(raw ? Side::raw_tile(b, stage.slot()) : Side::tile(b, stage.slot()));
    }
    FB_DEVICE void wait_empty() const { wait(empty(), stage.parity() ^ 1); }

    // A lane's box of the tensor map: of some rows and one panel. The blocks of a cluster share the
    // boxes of a tile out and load each for all.
    static FB_DEVICE int box_index() { return lane_now() * row_blocks + int(rank_of_rows()); }
    static FB_DEVICE int box_panel() { return box_index() % panels; }
    static FB_DEVICE int box_row(const Task& task) {
        return box_index() / panels * task.box_rows;
    }

    // Page (of ragged rows: none) and first row of what a lane loads; past the end a row that is
    // outside of every tensor, where boxes are zeros.
    FB_DEVICE Place find_box(const Task& task, int tile) const {
        const int32_t row = box_row(task);
        const int32_t token = task.start + tile * FB_KV_TILE + row;
        if (row >= FB_KV_TILE || token >= task.record.kv_end)
            return {nullptr, -FB_KV_TILE, past_end};
        Place place = find(b.attention(), task.record, task.source, token, past_end);
        place.row = without_full_bit(place.row);
        return place;
    }

    FB_DEVICE void note(const Task& task, int tile) const {
        if constexpr (Side::leads && reads_notes && !Side::waits) {
            note_keys(b, task, tile, stage.slot(), lane_now(), 32);
            __syncwarp();
        }
    }

    FB_DEVICE void load_box(const Task& task, int tile, int32_t page, int32_t row) {
        wait_empty();
        // A tile may be one box, which another block loads: it then goes through this stage without
        // this warp, and a lane that has yet to look would miss the phase.
        __syncwarp();
        note(task, tile);
        const uint32_t barrier = shared_address(&full());
        if (lane_now() == 0) mbarrier_arrive_expect(barrier, panels * panel_bytes);
        __syncwarp();
        if (box_row(task) < FB_KV_TILE) {
            const uint32_t to =
                this->tile() + box_panel() * panel_bytes + box_row(task) * row_bytes;
            const int at[4] = {box_panel() * panel_columns, row, task.record.kv_head, page};
            if (row_blocks > 1)
                tensor_load_multicast(to, Side::map(b), barrier, at, (1 << row_blocks) - 1);
            else tensor_load(to, Side::map(b), barrier, at);
        }
        __syncwarp();
        stage.advance();
    }

    // Page and first row of a box that begins with a token of [begin, end); of none outside, where
    // boxes are zeros.
    FB_DEVICE void look_up(const Task& task, int32_t token, int32_t begin, int32_t end,
                           int32_t& page, int32_t& row) const {
        page = 0;
        row = -FB_KV_TILE;
        if (token < begin || token >= end) return;
        const Place place = find(b.attention(), task.record, task.source, token, past_end);
        row = without_full_bit(place.row);
        if (place.page != nullptr) page = *place.page;
    }

    // All tiles from `first` on, the last first. Lanes look up a box each, of as many tiles as they
    // suffice for: the next ones while the first of these is loaded.
    FB_DEVICE void load_boxes_far(const Task& task, int first) {
        const int boxes = FB_KV_TILE / task.box_rows; // of a panel
        const int tiles = 32 / boxes;
        const int own = box_index() / panels;
        const int own_tile = task.blocks - 1 - lane_now() / boxes;
        int32_t token = task.start + own_tile * FB_KV_TILE + lane_now() % boxes * task.box_rows;
        const int32_t end = lane_now() < tiles * boxes ? task.record.kv_end : 0;
        const int32_t begin = task.start + first * FB_KV_TILE;
        int32_t page, row, next_page, next_row;
        look_up(task, token, begin, end, next_page, next_row);
        int from, left = 0; // the lane that knows this one's box, tiles that are known
        FB_NO_UNROLL
        for (int tile = task.blocks - 1; tile >= first; tile--, from += boxes) {
            const bool looks = left == 0;
            if (looks) {
                from = own;
                left = tiles;
                page = next_page;
                row = next_row;
            }
            left--;
            const int32_t this_row = __shfl_sync(0xffffffffu, row, from);
            const int32_t this_page = __shfl_sync(0xffffffffu, page, from);
            want_next(task, tile);
            load_box(task, tile, this_page, this_row);
            if (!looks) continue;
            token -= tiles * FB_KV_TILE;
            look_up(task, token, begin, end, next_page, next_row);
        }
    }

    // The same where a tile's products take longer: page ids are asked for a tile ahead.
    FB_DEVICE void load_boxes(const Task& task, int first) {
        if constexpr (looks_far) return load_boxes_far(task, first);
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
            load_box(task, tile, this_page, this_row);
        }
    }

    // Blocks that share rows out gather a part of each tile, and pass it on to the others; but not
    // of what is changed in its place, since nothing says when it has been read for them.
    static constexpr int parts = raw || !Side::waits ? row_blocks : 1;
    static constexpr int part_rows = FB_KV_TILE / parts;
    static_assert(part_rows % 8 == 0, "parts begin where the swizzle's pattern does");
    static FB_DEVICE int own_part() { return parts > 1 ? int(rank_of_rows()) * part_rows : 0; }
    // 32 rows of a tile's part, from the last tile's to the first's that is gathered.
    struct Group {
        int32_t token; // of the lane
        int first;

        FB_DEVICE void advance() {
            token += 32;
            first += 32;
            if (first < part_rows) return;
            token -= first + FB_KV_TILE;
            first = 0;
        }
    };

    // What a lane knows of its row of 32.
    struct Asked {
        int32_t page;
        int32_t row;
        uint32_t there; // lanes whose rows there are; others have the last one
    };

    // Of rows before the first tile, there is none.
    template <bool Listed> FB_DEVICE Asked ask(const Task& task, const Group& at) const {
        const fb_attention_record& r = task.record;
        const bool kept = uint32_t(at.token - r.kv_start) < uint32_t(r.kv_end - r.kv_start);
        const Place place = find_kept<Listed>(b.attention(), r, task.source,
                                              kept ? at.token : r.kv_end - 1);
        return {place.page == nullptr ? 0 : *place.page, without_full_bit(place.row),
                __ballot_sync(0xffffffffu, kept)};
    }

    FB_DEVICE void copy_rows(const Task& task, int first, const Asked& asked) const {
        using Layout = LayoutOf<raw, row_bytes, panel_bytes>;
        constexpr int bytes = raw ? row_bytes : operand_bytes * Side::dim;
        const uint32_t to = tile() + (part + first) * row_bytes;
        const int count = part_rows % 32 == 0 ? 32 : min(32, part_rows - first);
        const uint64_t head = Side::head(task.source);
        const uint64_t address = row_address(Side::plane(b), head, asked.page, asked.row);
        const uint64_t units = (address - head) / 16;
        if (__any_sync(0xffffffffu, units >> 32 != 0))
            copy_rows_of<Layout, bytes>(to, count, FarRows{address}, asked.there);
        else
            copy_rows_of<Layout, bytes>(to, count, NearRows{head, uint32_t(units)}, asked.there);
    }

    // Page ids that are on their way are of groups whose number divides a part's: they have
    // registers of their own, since to move one is to wait for it.
    static constexpr int part_groups = (part_rows + 31) / 32;
    static constexpr int groups_ahead = part_groups % 2 == 0 ? 2 : part_groups;

    // The last `count` tiles that are left, row by row. Where page ids have been used, those of a
    // later group are asked for.
    template <bool Listed> FB_DEVICE void gather(const Task& task, int count) {
        Group group = {task.start + (count - 1) * FB_KV_TILE + part + row_of_lane(), 0};
        Asked asked[groups_ahead];
        FB_UNROLL
        for (int i = 0; i < groups_ahead; i++) {
            asked[i] = ask<Listed>(task, group);
            group.advance();
        }
        FB_NO_UNROLL
        for (int tile = count - 1; tile >= 0; tile--) {
            want_next(task, tile);
            wait_empty();
            note(task, tile);
            FB_NO_UNROLL
            for (int first = 0; first < part_rows; first += 32 * groups_ahead) {
                FB_UNROLL
                for (int i = 0; i < groups_ahead; i++) {
                    copy_rows(task, first + 32 * i, asked[i]);
                    asked[i] = ask<Listed>(task, group);
                    group.advance();
                }
            }
            announce();
            stage.advance();
        }
    }

    // The part of a tile is there as soon as it has landed; those of other blocks are expected.
    FB_DEVICE void announce() const {
        cp_async_wait_all();
        fence_proxy_async_shared();
        __syncwarp();
        if (lane_now() != 0) return;
        constexpr int bytes = part_rows * row_bytes; // of a panel
        const uint32_t barrier = shared_address(&full());
        FB_UNROLL
        for (int i = 1; i < parts; i++) {
            const uint32_t other = (rank_of_rows() + i) % row_blocks;
            const uint32_t from = tile() + part * row_bytes, there = map_shared(barrier, other);
            FB_UNROLL
            for (int at = 0; at < panels * panel_bytes; at += panel_bytes)
                bulk_share(map_shared(from + at, other), from + at, bytes, there);
        }
        mbarrier_arrive_expect(barrier, (parts - 1) * panels * bytes);
    }

    FB_DEVICE void want_next(const Task& task, int tile) const {
        if (Side::leads && tile == task.early && lane_now() == 0)
            arrive(b.shared.barriers.task_wanted);
    }

    // Values before a task's first key may be anything, and 0 times anything is not 0: the tile
    // that has any is gathered without them, if nobody changes it.
    FB_DEVICE void load(const Task& task) {
        const bool begins_early =
            !Side::leads && !Side::waits && task.start < task.record.kv_start;
        const int gathered = task.box_rows == 0 ? task.blocks : begins_early ? 1 : 0;
        // Of rows without keys, and of the first of two blocks that share a single tile.
        if (task.blocks == 0) want_next(task, task.early);
        if (gathered < task.blocks) load_boxes(task, gathered);
        if (gathered == 0) return;
        if (task.record.column_offset < 0) gather<false>(task, gathered);
        else gather<true>(task, gathered);
    }
};

// By a whole warp, for all tasks.
template <class Side> FB_DEVICE void load_tiles(const Block& b) {
    Barriers& barriers = b.shared.barriers;
    TileLoader<Side> loader = {b, uniform(TileLoader<Side>::own_part())};
    FB_NO_UNROLL
    for (uint32_t n = 0;; n++) {
        const auto turn = Turn<task_count>::at(n);
        wait(barriers.task_full[turn.slot()], turn.parity());
        const Task& task = b.shared.tasks[turn.slot()];
        if (task.blocks < 0) break;
        loader.load(task);
        // Of a task without tiles, lanes have yet to look.
        __syncwarp();
        if (lane_now() == 0) arrive(barriers.task_empty[turn.slot()]);
    }
}

// ---- queries, and what they see

// Blocks of keys that a warpgroup's rows see.
FB_DEVICE Reach reach_of(const Task& task, const Bounds& rows) {
    if (rows.any_low > rows.any_high) return {0, 0, 0, 0};
    const fb_attention_record& r = task.record;
    const int32_t begin = (rows.any_low - task.start) / FB_KV_TILE;
    const int32_t end = (rows.any_high - task.start) / FB_KV_TILE + 1;
    const int32_t low = pairs_hide ? max(rows.all_low, r.full_start) : rows.all_low;
    const int32_t high = pairs_hide ? min(rows.all_high, r.full_end - 1) : rows.all_high;
    if (low > high) return {begin, end, 0, 0};
    // The first tile gives the rows their references, and is none of these; nor is the one behind
    // it, if some row sees too little of the first.
    const int32_t first = end - 1;
    const int32_t whole_begin = (low - task.start + FB_KV_TILE - 1) / FB_KV_TILE;
    int32_t whole_end = min((high + 1 - task.start) / FB_KV_TILE, first);
    if (high + 1 - task.start - first * FB_KV_TILE < reference_keys)
        whole_end = min(whole_end, first - 1);
    if (whole_begin >= whole_end) return {begin, end, 0, 0};
    return {begin, end, whole_begin, whole_end};
}

// Kept tokens that a row sees: positions ascend with them, so that they are a range.
struct Seen {
    int32_t low;
    int32_t high;
};

FB_DEVICE Seen tokens_seen(const Block& b, const Task& task, const RowSight& sight) {
    const Divider by_page = task.source.by_page;
    const fb_attention_params& p = b.attention();
    const fb_attention_record& r = task.record;
    if (r.column_offset >= 0) {
        const int32_t end =
            sight.high >= last_position
                ? r.kv_end
                : first_after(p, r, by_page, r.kv_start, r.kv_end, sight.high);
        const int32_t begin = sight.low == no_position
                                  ? r.kv_start
                                  : first_after(p, r, by_page, r.kv_start, end, sight.low - 1);
        return {begin, end - 1};
    }
    // Compared before the subtraction, which cannot overflow then.
    const int32_t origin = r.position_start;
    return {max(sight.low, origin + r.kv_start) - origin,
            max(min(sight.high, origin + r.kv_end - 1), origin - 1) - origin};
}

// Whether rows may see different keys, or are asked for more.
FB_DEVICE bool rows_differ(const fb_attention_params& p) {
    if (FB_DEVICE_LENGTHS || FB_MASK || Variant::has_bounds || Variant::row_words > 0 || rotates)
        return true;
    return p.causal || p.window_left >= 0 || p.token_requests != 0;
}

// The rows of one warpgroup, by a whole warp.
FB_DEVICE void describe_rows(const Block& b, const Task& task, TaskRows& rows, int group) {
    const fb_attention_params& p = b.attention();
    const float factor = score_factor(p, task.record);
    constexpr int lane_rows = group_rows / 32;
    const int first = group * group_rows + lane_now();
    // A lane asks for all of its rows before it looks at one: the memory answers once.
    RowInputs asked[lane_rows] = {};
    FB_UNROLL
    for (int i = 0; i < lane_rows; i++) {
        const int at = first + 32 * i;
        if (rows_differ(p) && at < task.record.row_count)
            asked[i] = row_inputs(p, task.record, at);
    }
    bool ordered = true;
    Bounds bounds = no_bounds();
    FB_UNROLL
    for (int i = 0; i < lane_rows; i++) {
        const int at = first + 32 * i;
        RowSight sight = {{}, no_position, last_position};
        if (at >= task.record.row_count) sight = sight_of_none();
        else if (rows_differ(p)) sight = sight_of(p, asked[i]);
        const Seen seen = tokens_seen(b, task, sight);
        rows.low[at] = seen.low;
        rows.high[at] = seen.high;
        if (rotates) rows.position[at] = sight.row.query;
        note_row(p, task.record, rows, at, sight);
        ordered = ordered && factor * scale_of(rows, at) > 0;
        if (at < task.record.row_count) bounds.add(seen.low, seen.high);
    }
    bounds.join();
    // Where a factor turns scores round all tiles count as masked: others then need not ask. Four
    // warps have the same products, and go the same way.
    const bool asks = signs_in_masked && !__all_sync(0xffffffffu, ordered);
    if (lane_now() != 0) return;
    Reach& reach = rows.reach[group];
    reach = reach_of(task, bounds);
    if (asks) reach.whole_begin = reach.whole_end = 0;
    if (group > 0) return;
    rows.start = task.start;
    rows.kv_head = task.record.kv_head;
}

// Address of a row's queries; 0: there are none.
FB_DEVICE uint64_t query_address(const fb_attention_params& p, const Task& task, int row) {
    if (row >= task.record.row_count) return 0;
    const QueryRow at = query_row(task.record, row);
    return p.q + query_element * (at.token * p.q_stride_token + at.head * p.q_stride_head);
}

// Rows that a warp copies before another part is its turn: wide ones are shared by both warps.
constexpr int copied_rows = passes_scores ? group_rows / 2 : group_rows;

FB_DEVICE void copy_queries(const Block& b, const Task& task, uint32_t tile, int part) {
    FB_NO_UNROLL
    for (int first = part * copied_rows; first < (part + 1) * copied_rows; first += 32) {
        const uint64_t address = query_address(b.attention(), task, first + row_of_lane());
        copy_rows_of<InPanels<query_panel>, operand_bytes * FB_KEY_DIM>(
            tile + first * panel_row, 32, FarRows{address},
            __ballot_sync(0xffffffffu, address != 0));
    }
}

// Queries that a hook changes, once their rows are described.
FB_DEVICE void change_queries(const Block& b, const Task& task, const TaskRows& rows,
                              uint32_t tile, int group) {
    const fb_attention_params& p = b.attention();
    constexpr int pieces = FB_KEY_DIM / 8;
    FB_NO_UNROLL
    for (int i = lane_now(); i < group_rows * pieces; i += 32) {
        const int row = group * group_rows + i / pieces;
        const int piece = i % pieces;
        const uint64_t address = query_address(p, task, row);
        Vector<FB_KEY_DIM, row_lanes(pieces), FB_QUERY_TYPE> v = {
            reinterpret_cast<const void*>(address == 0 ? p.q : address), piece * 8};
        v.load();
        if constexpr (Variant::has_query)
            Variant::query(p, rows.words[Variant::row_words == 0 ? 0 : row], v);
        store_shared_16(tile + InPanels<query_panel>::at(row, piece),
                        address == 0 ? make_uint4(0, 0, 0, 0) : round_8<FB_Q_TYPE>(v.x));
    }
}

FB_DEVICE void wait_rows_empty(const Block& b, uint32_t n) {
    const auto turn = Turn<rows_count>::at(n);
    wait(b.shared.barriers.rows_empty[turn.slot()], turn.parity() ^ 1);
}

// The place of queries is free when the scores of the task before are done: late. Where it is the
// only one, rows are described before; elsewhere while their queries arrive.
constexpr bool queries_come_last = queries_change || (!FB_QUERIES_KEPT && FB_QUERY_BUFFERS == 1);

// By two warps: those of a warpgroup, or of every other, each.
FB_DEVICE void load_queries(const Block& b, const Task& task, const TaskRows& rows, uint32_t n) {
    const auto buffer = Turn<FB_QUERY_BUFFERS>::at(n);
    wait(b.shared.barriers.queries_empty[buffer.slot()], buffer.parity() ^ 1);
    const uint32_t tile = shared_address(b.shared.queries[buffer.slot()]);
    if constexpr (queries_change) {
        __syncwarp(); // with those that described the rows
        FB_NO_UNROLL
        for (int group = thread_now() / 32; group < score_groups; group += 2)
            change_queries(b, task, rows, tile, group);
    } else {
        FB_NO_UNROLL
        for (int part = thread_now() / 32; part < block_rows / copied_rows; part += 2)
            copy_queries(b, task, tile, part);
    }
}

// A task's rows, by the same.
FB_DEVICE void load_rows(const Block& b, const Task& task, uint32_t n) {
    TaskRows& rows = b.shared.rows[Turn<rows_count>::at(n).slot()];
    if (!queries_come_last) load_queries(b, task, rows, n);
    wait_rows_empty(b, n);
    FB_NO_UNROLL
    for (int group = thread_now() / 32; group < score_groups; group += 2)
        describe_rows(b, task, rows, group);
    if (queries_come_last) load_queries(b, task, rows, n);
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
            if (n > 0) wait(barriers.task_wanted, n - 1 & 1);
            if (n > 0 || starts_by_ticket(p)) {
                const uint32_t letter = starts_by_ticket(p) ? n : n - 1;
                mail_ticket(b, letter);
                index = open_letter(b, letter);
            }
            const int32_t word = record_word(p, index);
            wait(barriers.task_empty[turn.slot()], turn.parity() ^ 1);
            write_task(b, task, by_page, word, n);
            __syncwarp();
            if (lane_now() == 0) arrive(barriers.task_full[turn.slot()]);
        } else {
            wait(barriers.task_full[turn.slot()], turn.parity());
        }
        const bool last = task.blocks < 0;
        if (last) wait_rows_empty(b, n);
        else load_rows(b, task, n);
        __syncwarp();
        const int rows = Turn<rows_count>::at(n).slot();
        const uint64_t& full = rotates ? barriers.rows_landed[rows] : barriers.rows_full[rows];
        if (lane_now() == 0) arrive(full);
        if (last) break;
    }
    close_records(p);
}
