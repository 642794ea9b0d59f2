//! Index tensors of the caller: where masks begin, and whether what is named is there.
const params = @import("params");
const items = @import("../pointers.zig").items;
const common = @import("common.zig");
const Work = common.Work;

/// What a kernel returns where an index tensor leads out of its target.
pub const leads_out = @import("../../kernel.zig").leads_out;

/// Whether a page of the tokens that some row may see is none of the `page_count` that there are.
pub fn pages_lead_out(w: *const Work) bool {
    const p = w.p;
    if (p.page_count == 0 or w.ragged or w.start >= w.end) return false;
    const size = p.page_size;
    const first = @as(i64, w.r.slot) * p.table_stride + @divFloor(w.r.position_start, size);
    var column = @divFloor(w.start, size);
    while (@as(i64, column) * size < w.end) : (column += 1) {
        const kept = w.r.column_offset;
        const columns = items(i32, p.columns);
        const logical = if (kept < 0) column else columns[@intCast(kept + column)] >> 1;
        const at: usize = @intCast(first + logical);
        const page = items(i32, p.page_table)[at];
        if (page < 0 or page >= p.page_count) return true;
        if (p.value_page_table == 0) continue;
        const value_page = items(i32, p.value_page_table)[at];
        if (value_page < 0 or value_page >= p.value_page_count) return true;
    }
    return false;
}

/// Notes where the mask of row i lies; the planned lengths count.
pub fn describe_mask(w: *Work, i: usize, f: *const common.Facts) void {
    const p = w.p;
    const tail = p.mask_mode == params.FB_MASK_TAIL;
    const width = if (tail) f.planned_queries else f.planned_keys;
    const from = if (tail) f.planned_keys - f.planned_queries else 0;
    const first_byte: i64 = items(i32, p.mask_indptr)[@intCast(f.request)];
    const shift: u6 = @intCast(p.mask_shift);
    const first = (first_byte << shift) + @as(i64, f.index) * width;
    const elements: i64 = @intCast(p.mask_elements);
    if (first_byte < 0 or first + width > elements << shift) w.leads_out = true;
    w.rows.mask_bit[i] = first - from;
    w.rows.mask_start[i] = from;
    w.rows.mask_end[i] = from + width;
}
