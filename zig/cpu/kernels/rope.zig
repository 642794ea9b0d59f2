//! Rotary embedding of new tokens, by itself and on the way into pages, where queries and keys are
//! normalised before: through f32, rounded once.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const page = @import("page.zig");
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");
const turn = @import("turn.zig");

const Dtype = simd.Dtype;
const items = pointers.items;

/// Lanes that one item of the grid covers; a head has head_lanes of them.
const item_lanes = 1024;
/// Longest head that turns, in whole vectors.
const dim_most = 576;

pub const kernels = [_]Kernel{
    .of("apply_rope", params.fb_rope_params, item_lanes, run),
    .of("norm_rope_append", params.fb_rope_append_params, item_lanes, run_append),
};

/// Turns lanes [1024 * index, ...) of queries and keys.
fn run(p: *const params.fb_rope_params, index: u32, scratch: [*]align(64) u8) i32 {
    const angles: *turn.Angles = @ptrCast(scratch);
    const x: [*]f32 = @ptrCast(@alignCast(scratch + @sizeOf(turn.Angles)));
    const queries: usize = @intCast(p.heads[0].count);
    const heads = queries + @as(usize, @intCast(p.heads[1].count));
    const live = if (p.live == 0) p.token_count else items(i32, p.live)[0];
    const tokens: usize = @intCast(@max(0, @min(p.token_count, live)));
    const rows = item_lanes / @as(usize, @intCast(p.head_lanes));
    const first = index * rows;
    angles.begin();
    for (first..@min(first + rows, @max(first, tokens * heads))) |row| {
        const token = row / heads;
        const head = row % heads;
        angles.at(&p.turn, token);
        if (head < queries) turn_head(p, &p.heads[0], token, head, angles, x) //
        else turn_head(p, &p.heads[1], token, head - queries, angles, x);
    }
    return 0;
}

fn turn_head(
    p: *const params.fb_rope_params,
    heads: *const params.fb_heads,
    token: usize,
    head: usize,
    angles: *const turn.Angles,
    x: [*]f32,
) void {
    const kind: Dtype = @fromBackingInt(@intCast(heads.dtype));
    const dim: usize = @intCast(p.turn.dim);
    const first: usize = @intCast(p.turn.first);
    const row = items(u8, address_of(heads, token, head) + first * kind.bytes());
    simd.widen_row(kind, row, x, dim, 1);
    angles.turn(x);
    simd.narrow_row(kind, x, row, dim, 1);
}

fn address_of(heads: *const params.fb_heads, token: usize, head: usize) usize {
    const kind: Dtype = @fromBackingInt(@intCast(heads.dtype));
    const element = @as(i64, @intCast(token)) * heads.stride_token +
        @as(i64, @intCast(head)) * heads.stride_head;
    return pointers.offset(heads.data, element, kind.bytes());
}

/// What a thread of norm_rope_append works in.
const Room = struct {
    angles: turn.Angles,
    /// With their offset, of queries and of keys.
    weights: [2][dim_most]f32 align(64),
    sides: [2]?[*]const f32,

    fn begin(self: *Room, p: *const params.fb_rope_append_params) void {
        self.angles.begin();
        const dim: usize = @intCast(p.append.dims[0]);
        for (&self.weights, &self.sides, p.weights, p.weight_dtypes) |*row, *side, data, code| {
            side.* = if (data == 0) null else row;
            if (data == 0) continue;
            simd.widen_row(@fromBackingInt(@intCast(code)), items(u8, data), row, dim, 1);
            for (row[0..dim]) |*weight| weight.* += p.weight_offset;
            @memset(row[dim..], 0);
        }
    }
};

/// Normalises and turns lanes [1024 * index, ...), and writes keys and values into their slots.
fn run_append(
    p: *const params.fb_rope_append_params,
    index: u32,
    scratch: [*]align(64) u8,
) i32 {
    const room: *Room = @ptrCast(scratch);
    const x: [*]f32 = @ptrCast(@alignCast(scratch + @sizeOf(Room)));
    const queries: usize = @intCast(p.queries.count);
    const keys: usize = @intCast(p.append.heads[0]);
    const heads = queries + keys + @as(usize, @intCast(p.append.heads[1]));
    const tokens: usize = @intCast(p.append.token_count);
    const rows = item_lanes / @as(usize, @intCast(p.head_lanes));
    const first = index * rows;
    room.begin(p);
    for (first..@min(first + rows, @max(first, tokens * heads))) |row| {
        const token = row / heads;
        const head = row % heads;
        if (items(i32, p.append.token_requests)[token] < 0) continue;
        room.angles.at(&p.turn, token);
        if (head < queries) {
            finish(p, room, 0, query_row(p, token, head), x);
            if (head > 0 or p.append.key_positions == 0) continue;
            if (page.place_of(&p.append, token)) |at| page.append_position(&p.append, token, at);
        } else if (page.place_of(&p.append, token)) |at| {
            const key = head - queries;
            const plane: usize = if (key < keys) 0 else 1;
            const within: i64 = @intCast(if (key < keys) key else key - keys);
            const side: ?usize = if (key < keys) 1 else null;
            finish(p, room, side, page.row_of(&p.append, plane, token, within, at), x);
        }
    }
    return 0;
}

fn query_row(p: *const params.fb_rope_append_params, token: usize, head: usize) page.Row {
    return .{
        .source = address_of(&p.queries, token, head),
        .target = address_of(&p.query_out, token, head),
        .from = @fromBackingInt(@intCast(p.queries.dtype)),
        .to = @fromBackingInt(@intCast(p.query_out.dtype)),
        .scale = null,
    };
}

/// A row of queries (side 0), of keys (1), or of values, which keep what they are.
fn finish(
    p: *const params.fb_rope_append_params,
    room: *const Room,
    side: ?usize,
    row: page.Row,
    x: [*]f32,
) void {
    const dim: usize = @intCast(p.append.dims[if (side == null) 1 else 0]);
    simd.widen_row(row.from, items(u8, row.source), x, dim, 1);
    if (side) |s| {
        if (room.sides[s]) |weight| normalise(x, weight, dim, p.eps);
        room.angles.turn(x + @as(usize, @intCast(p.turn.first)));
    }
    if (row.scale) |scale| page.divide(x[0..dim], scale);
    simd.narrow_row(row.to, x, items(u8, row.target), dim, 1);
}

/// x / sqrt(mean(x^2) + eps) * weight.
fn normalise(x: [*]f32, weight: [*]const f32, dim: usize, eps: f32) void {
    const padded = std.mem.alignForward(usize, dim, simd.lanes);
    // A row before may have left NaN there.
    @memset(x[dim..padded], 0);
    var squares = simd.splat(0);
    var at: usize = 0;
    while (at < padded) : (at += simd.lanes) {
        const part: simd.F = x[at..][0..simd.lanes].*;
        squares = simd.mul_add(part, part, squares);
    }
    const mean = simd.sum(squares) / @as(f32, @floatFromInt(dim));
    const factor = simd.splat(1 / @sqrt(mean + eps));
    at = 0;
    while (at < padded) : (at += simd.lanes) {
        const part: simd.F = x[at..][0..simd.lanes].*;
        const by: simd.F = weight[at..][0..simd.lanes].*;
        x[at..][0..simd.lanes].* = part * factor * by;
    }
}
