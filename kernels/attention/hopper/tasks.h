// Which records a cluster takes, and how the blocks of one agree on them.
#pragma once
#include "facts.h"

// The n-th ticket, drawn (records.h) by the first warp of the cluster's first block and mailed to
// all blocks.
FB_DEVICE void mail_ticket(const Block& b, uint32_t n) {
    const fb_attention_params& p = b.attention();
    if (!draws_tickets() || !shares_records(p)) return;
    const uint32_t ticket = draw_ticket(p);
    const uint32_t letter = shared_address(&b.shared.mail[n % mail_count]);
    const uint32_t full = shared_address(&b.shared.barriers.mail_full[n % mail_count]);
    store_shared_4(letter, ticket);
    for (uint32_t other = 1; other < FB_CLUSTER; other++)
        store_async_4(map_shared(letter, other), ticket, map_shared(full, other));
}

// What all lanes of all blocks go on with.
FB_DEVICE uint32_t open_letter(const Block& b, uint32_t n) {
    const fb_attention_params& p = b.attention();
    if (!shares_records(p)) return uint32_t(p.record_count);
    const auto mail = Turn<mail_count>::at(n);
    if (rank_in_cluster() > 0) {
        const uint32_t full = shared_address(&b.shared.barriers.mail_full[mail.slot()]);
        if (lane_now() == 0) mbarrier_arrive_expect(full, sizeof(uint32_t));
        mbarrier_wait(full, mail.parity());
    }
    __syncwarp();
    return load_shared_4(shared_address(&b.shared.mail[mail.slot()]));
}

// Rows of the boxes that bindMaps (src/attention/families/hopper.ts) encodes, of which a page has a
// whole number; 0: such boxes would be too small, or a list of columns cuts ragged rows otherwise.
FB_DEVICE int32_t box_rows_of(const fb_attention_params& p, const fb_attention_record& r) {
    if (p.contiguous) return r.column_offset < 0 ? FB_KV_TILE : 0;
    const int32_t both = p.page_size | FB_KV_TILE;
    const int32_t rows = both & -both;
    return rows < least_box ? 0 : rows;
}

// A record without the kept tokens at its ends that no row sees, of which one stays; by a whole
// warp. Its rows are those of all blocks, which thus agree.
FB_DEVICE void trim_record(const fb_attention_params& p, fb_attention_record& r,
                           const Divider& by_page) {
    Bounds bounds = no_bounds();
    FB_NO_UNROLL
    for (int i = lane_now(); i < r.row_count; i += 32) {
        const RowSight sight = sight_of(p, r, i);
        bounds.add(sight.low, sight.high);
    }
    bounds.join();
    __syncwarp(); // all lanes have read what the first one writes
    if (lane_now() != 0) return;
    const KeptRange range = trim(p, r, bounds, by_page);
    int32_t passed = min(range.start, r.kv_end - 1) - r.kv_start;
    if (FB_INVARIANT) passed -= passed % FB_KV_TILE; // tiles begin where they always do
    r.kv_start += passed;
    r.kv_end = max(range.end, r.kv_start + 1);
}

// Its half of the keys to each of two blocks: the last tiles to the first one, which stores the
// rows. Of a single tile the other one has it.
FB_DEVICE void share_keys(Task& task) {
    fb_attention_record& r = task.record;
    task.first_key = r.kv_start;
    const int32_t before = (task.blocks + 1) / 2;
    const int32_t cut = min(task.start + before * FB_KV_TILE, r.kv_end);
    if (cluster_rank() > 0) {
        r.kv_end = cut;
        task.blocks = before;
    } else {
        r.kv_start = task.start = cut;
        task.blocks -= before;
    }
}

// The n-th task, by the warp whose lanes hold the words of its record.
FB_DEVICE void write_task(const Block& b, Task& task, const Divider& by_page, int32_t word,
                          uint32_t n) {
    const int lane = lane_now();
    if (lane < record_ints) reinterpret_cast<int32_t*>(&task.record)[lane] = word;
    __syncwarp();
    fb_attention_record& r = task.record;
    const fb_attention_params& p = b.attention();
    if (FB_DEVICE_LENGTHS || Variant::trims) trim_record(p, r, by_page);
    if (lane != 0) return;
    task.blocks = -1;
    if (r.row_count == 0) return; // the end of the list
    // Few rows are shared out as well: a block that had none would only load.
    const bool few = row_blocks > 1 && r.row_count <= block_rows;
    const int32_t most = few ? group_rows : block_rows;
    // In turn: causal rows see the more keys the later they are, and no block shall always have
    // the work of the later ones.
    const int32_t before = int32_t((rank_of_rows() + n) % row_blocks) * most;
    r.row_start += before;
    r.row_count = max(0, min(r.row_count - before, most));
    if (r.partial_row >= 0) r.partial_row += before;
    task.box_rows = box_rows_of(p, r);
    // Boxes lie inside of pages, gathered and ragged rows begin anywhere.
    const bool aligned = !p.contiguous && task.box_rows > 0;
    task.start = aligned ? r.kv_start & -task.box_rows : r.kv_start;
    task.blocks = (r.kv_end - task.start + FB_KV_TILE - 1) / FB_KV_TILE;
    task.source = source_of(p, r, by_page);
    if constexpr (splits_keys) share_keys(task);
    const int32_t count = r.kv_end - task.start - (task.blocks - 1) * FB_KV_TILE;
    const bool whole = task.blocks == 0 || task.box_rows == 0 || count % task.box_rows == 0;
    task.tail = whole ? 0 : count;
    // Late, so that a block within a long record reserves no more work; yet early enough for the
    // next record's rows and queries to be there at its end.
    task.early = min(4, task.blocks - 1);
}
