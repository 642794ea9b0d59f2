//! What index tensors of an attention hold, looked at before its kernels follow them.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const items = @import("../pointers.zig").items;

const Contents = params.fb_contents_params;
const Attention = params.fb_attention_params;
const Record = params.fb_attention_record;

/// One item has them all.
const all_records = std.math.maxInt(i32);

pub const kernels = [_]Kernel{.of("attention_contents", Contents, all_records, run)};

/// Places in the report.
const pages = 0;
const masks = 1;

fn run(p: *const Contents, index: u32, _: [*]align(64) u8) i32 {
    if (index > 0) return 0;
    const a = &p.attention;
    copy(a.page_table, p.pages_copy, p.pages_entries);
    copy(a.mask_indptr, p.masks_copy, p.masks_entries);
    for (items(Record, a.records)[0..@intCast(a.record_count)]) |*r| {
        if (r.row_count <= 0) continue;
        const first: usize = @intCast(@divFloor(r.row_start, r.query_head_count));
        const last: usize = @intCast(@divFloor(r.row_start + r.row_count - 1, r.query_head_count));
        const requests = items(i32, a.token_requests)[first .. last + 1];
        const paged = a.contiguous == 0 and r.slot >= 0;
        if (a.page_count > 0 and paged) look_at_pages(p, r, longest(a, requests));
        if (a.mask_mode != params.FB_MASK_NONE) look_at_masks(p, requests);
    }
    return 0;
}

fn copy(source: u64, target: u64, count: i32) void {
    if (count == 0) return;
    const length: usize = @intCast(count);
    @memcpy(items(i32, target)[0..length], items(i32, source)[0..length]);
}

fn add(p: *const Contents, kind: usize, entry: usize, held: i32) void {
    const seen = @as(u64, entry) << 32 | @as(u32, @bitCast(held));
    const first = &items(u64, p.report)[kind];
    first.* = @min(first.*, seen);
    const target = if (kind == pages) p.pages_copy else p.masks_copy;
    if (target != 0) items(i32, target)[entry] = 0;
}

/// Most tokens of K/V of these requests, where only the device knows them.
fn longest(a: *const Attention, requests: []const i32) i32 {
    if (a.kv_lengths == 0) return std.math.maxInt(i32);
    var most: i32 = 0;
    for (requests) |request| {
        if (request >= 0) most = @max(most, items(i32, a.kv_lengths)[@intCast(request)]);
    }
    return most;
}

fn look_at_pages(p: *const Contents, r: *const Record, most: i32) void {
    const a = &p.attention;
    const size = a.page_size;
    const row = @as(i64, r.slot) * a.table_stride + @divFloor(r.position_start, size);
    var i = @divFloor(r.kv_start, size);
    while (@as(i64, i) * size < r.kv_end) : (i += 1) {
        const kept = r.column_offset;
        const column = if (kept < 0) i else items(i32, a.columns)[@intCast(kept + i)] >> 1;
        if (r.position_start + @as(i64, column) * size >= most) return;
        const entry: usize = @intCast(row + column);
        const page = items(i32, a.page_table)[entry];
        if (page < 0 or page >= a.page_count) add(p, pages, entry, page);
    }
}

/// The planned lengths count.
fn look_at_masks(p: *const Contents, requests: []const i32) void {
    const a = &p.attention;
    for (requests) |request| {
        if (request < 0) continue;
        const r: usize = @intCast(request);
        const starts = items(i32, a.query_indptr)[r..][0..2];
        const queries: i64 = starts[1] - starts[0];
        const is_tail = a.mask_mode == params.FB_MASK_TAIL;
        const keys: i64 = if (is_tail) queries else items(i32, a.planned_kv_lengths)[r];
        const unit = @as(i64, 1) << @intCast(a.mask_shift);
        const bytes = @divFloor(queries * keys + unit - 1, unit);
        const start = items(i32, a.mask_indptr)[r];
        if (start < 0 or start + bytes > @as(i64, @intCast(a.mask_elements)))
            add(p, masks, r, start);
    }
}
