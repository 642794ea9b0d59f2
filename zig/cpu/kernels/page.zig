//! Pages: new tokens in, moves within, updates of the page table.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

const Dtype = simd.Dtype;
const items = pointers.items;
const offset = pointers.offset;

/// Tokens that one grid index of `append` handles.
const append_tokens = 16;

pub const kernels = [_]Kernel{
    .of("append", params.fb_append_params, append_tokens, run_append),
    .of("copy_tokens", params.fb_copy_params, 1, run_copy),
    .of("table_update", params.fb_table_params, 1, run_table),
};

/// Writes tokens [16 * index, ...) of every plane, and their positions, into their slots.
fn run_append(p: *const params.fb_append_params, index: u32, scratch: [*]align(64) u8) i32 {
    const count: usize = @intCast(p.token_count);
    const first = @as(usize, index) * append_tokens;
    for (first..@max(first, @min(count, first + append_tokens))) |token| {
        const at = place_of(p, token) orelse continue;
        if (p.key_positions != 0) append_position(p, token, at);
        for (0..@intCast(p.plane_count)) |plane| {
            append_token(p, plane, token, at, scratch);
        }
    }
    return 0;
}

/// Where a token goes; page -1: nowhere.
pub const Place = struct { page: i64 = -1, within: i64 = 0 };

/// Keeps a token's position, in pages of positions.
pub fn append_position(p: *const params.fb_append_params, token: usize, at: Place) void {
    const slot: usize = @intCast(at.page * p.page_size + at.within);
    items(i32, p.key_positions)[slot] =
        if (p.new_positions == 0) -1 else items(i32, p.new_positions)[token];
}

/// Where a token goes, within the pages that there are.
pub inline fn place_of(p: *const params.fb_append_params, token: usize) ?Place {
    const at = if (p.slot_mapping != 0) place_of_slot(p, token) else place_in_table(p, token);
    return if (at.page < 0 or at.page >= p.page_count) null else at;
}

fn place_of_slot(p: *const params.fb_append_params, token: usize) Place {
    const slot = items(i32, p.slot_mapping)[token];
    const page = @divFloor(slot, p.page_size);
    return .{ .page = page, .within = slot - page * p.page_size };
}

/// The page at a token's place in its request's row of the table.
fn place_in_table(p: *const params.fb_append_params, token: usize) Place {
    const request = items(i32, p.token_requests)[token];
    const position = items(i32, p.positions)[token];
    if (request < 0 or request >= p.request_count or position < 0) return .{};
    const column = @divFloor(position, p.page_size);
    const r: usize = @intCast(request);
    var start = @as(i64, request) * p.table_stride;
    var end = start + p.table_stride;
    if (p.row_indptr != 0) {
        start = items(i32, p.row_indptr)[r];
        end = items(i32, p.row_indptr)[r + 1];
    }
    const entry = start + column;
    if (start < 0 or entry >= end or entry >= p.table_entries) return .{};
    const page = items(i32, p.page_table)[@intCast(entry)];
    return .{ .page = page, .within = position - column * p.page_size };
}

/// A head's row of a token: what is read, and where it goes.
pub const Row = struct {
    source: usize,
    target: usize,
    from: Dtype,
    to: Dtype,
    /// Divides the row before it is rounded; null: there are no scales.
    scale: ?f32,
};

/// That of plane `i`.
pub inline fn row_of(
    p: *const params.fb_append_params,
    i: usize,
    token: usize,
    head: i64,
    at: Place,
) Row {
    const plane = &p.planes[i];
    const from: Dtype = @fromBackingInt(@intCast(p.source_dtypes[i]));
    const to: Dtype = @fromBackingInt(@intCast(p.plane_dtypes[i]));
    const read = @as(i64, @intCast(token)) * p.source_stride_token[i] +
        head * p.source_stride_head[i];
    const write = at.page * plane.stride_page + head * plane.stride_head +
        at.within * plane.stride_token;
    return .{
        .source = offset(p.sources[i], read, from.bytes()),
        .target = offset(plane.data, write, to.bytes()),
        .from = from,
        .to = to,
        .scale = if (p.scales[i].data == 0) null else scale_of(p, i, token, head, at),
    };
}

fn scale_of(
    p: *const params.fb_append_params,
    i: usize,
    token: usize,
    head: i64,
    at: Place,
) f32 {
    const scale = &p.scales[i];
    const known = p.token_requests != 0;
    const request: i64 = if (known) @max(0, items(i32, p.token_requests)[token]) else 0;
    const place = request * scale.stride_request + head * scale.stride_head +
        at.page * scale.stride_page + at.within * scale.stride_token;
    return items(f32, offset(scale.data, place, 4))[0];
}

fn append_token(
    p: *const params.fb_append_params,
    i: usize,
    token: usize,
    at: Place,
    scratch: [*]align(64) u8,
) void {
    const dim: usize = @intCast(p.dims[i]);
    for (0..@intCast(p.heads[i])) |head| {
        const row = row_of(p, i, token, @intCast(head), at);
        const source = items(u8, row.source);
        const target = items(u8, row.target);
        if (row.from == row.to and row.scale == null) {
            @memcpy(target[0 .. dim * row.to.bytes()], source[0 .. dim * row.to.bytes()]);
            continue;
        }
        const wide: [*]f32 = @ptrCast(scratch);
        simd.widen_row(row.from, source, wide, dim, 1);
        if (row.scale) |scale| divide(wide[0..dim], scale);
        simd.narrow_row(row.to, wide, target, dim, 1);
    }
}

pub fn divide(row: []f32, scale: f32) void {
    for (row) |*x| x.* /= scale;
}

/// Performs all moves of plane `index`, in order.
fn run_copy(p: *const params.fb_copy_params, index: u32, _: [*]align(64) u8) i32 {
    if (index >= p.plane_count) return 0;
    const plane = &items(params.fb_copy_plane, p.planes)[index];
    const moves = items([3]i32, p.moves);
    for (moves[0..@intCast(p.move_count)]) |move| {
        for (0..@intCast(plane.heads)) |head| {
            const source = slot_address(plane, move[0], @intCast(head), p.page_size);
            const target = slot_address(plane, move[1], @intCast(head), p.page_size);
            copy_run(plane, source, target, @intCast(move[2]), move[0] < move[1]);
        }
    }
    return 0;
}

fn slot_address(c: *const params.fb_copy_plane, token: i32, head: i64, page_size: i32) usize {
    const page: i64 = @divFloor(token, page_size);
    const within = token - page * page_size;
    const at = page * c.plane.stride_page + head * c.plane.stride_head +
        within * c.plane.stride_token;
    return offset(c.plane.data, at, @intCast(c.element_bytes));
}

/// Copies tokens one by one, from the end when the target lies above: runs may overlap.
fn copy_run(
    c: *const params.fb_copy_plane,
    source: usize,
    target: usize,
    count: usize,
    upwards: bool,
) void {
    const bytes: usize = @intCast(c.row_bytes);
    for (0..count) |i| {
        const at: i64 = @intCast(if (upwards) count - 1 - i else i);
        const step = offset(0, at * c.plane.stride_token, @intCast(c.element_bytes));
        const from = items(u8, source +% step);
        const to = items(u8, target +% step);
        @memmove(to[0..bytes], from[0..bytes]);
    }
}

/// Applies all updates of a page table (grid of one).
fn run_table(p: *const params.fb_table_params, index: u32, _: [*]align(64) u8) i32 {
    if (index != 0) return 0;
    const table = items(i32, p.table);
    const updates = items([2]i32, p.updates)[0..@intCast(p.update_count)];
    for (updates) |update| table[@intCast(update[0])] = update[1];
    return 0;
}
