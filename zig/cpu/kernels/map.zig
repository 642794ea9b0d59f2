//! Rows made from others, element by element: activations, sums, caps, rows by index.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const activate = @import("activate.zig").activate;
const pointers = @import("pointers.zig");
const rows = @import("rows.zig");
const simd = @import("simd.zig");

const F = simd.F;
const lanes = simd.lanes;
const splat = simd.splat;

/// Rows that one grid index handles, narrow ones more.
const map_rows = 4;
/// Elements that are worked on at once: they stay in the nearest cache.
const segment = 2048;

pub const kernels = [_]Kernel{
    .of("map_long", params.fb_map_params, map_rows, run),
    .of("map_short", params.fb_map_params, map_rows, run),
};

/// The rows of an item. Where rows have scales of their own a whole one is made before it is
/// written, else a segment after the other.
fn run(p: *const params.fb_map_params, index: u32, scratch: [*]align(64) u8) i32 {
    const dim: usize = @intCast(p.span.dim);
    const most = if (p.scaling.token_scales == 0) @min(dim, segment) else dim;
    const x: [*]f32 = @ptrCast(scratch);
    const y = x + rows.padded_of(most);
    const first, const end = rows.of_item(&p.span, index, map_rows);
    for (first..@max(first, end)) |row| {
        const source = row_by(p.sources, row, p.source_rows);
        const target = row_by(p.targets, row, p.target_rows) orelse continue;
        var at: usize = 0;
        while (at < dim) : (at += most) {
            const count = @min(most, dim - at);
            take(&p.a, source, at, x, count);
            if (p.b.address != 0) take(&p.b, source, at, y, count);
            apply(p, x, y, rows.padded_of(count));
            rows.finish(&p.scaling, &p.out, .{ .row = row, .target = target, .at = at }, x, count);
        }
    }
    return 0;
}

/// The row that an index names, or the same without indices.
fn row_by(indices: u64, row: usize, count: i32) ?usize {
    if (indices == 0) return row;
    const index = pointers.items(i32, indices)[row];
    return if (index >= 0 and index < count) @intCast(index) else null;
}

fn take(t: *const rows.Rows, row: ?usize, at: usize, x: [*]f32, count: usize) void {
    const place = row orelse return @memset(x[0..rows.padded_of(count)], 0);
    const kind = rows.dtype_of(t.dtype);
    rows.widen(kind, rows.address(t, place) + at * kind.bytes(), x, count);
}

fn apply(p: *const params.fb_map_params, x: [*]f32, y: [*]const f32, padded: usize) void {
    switch (p.operation) {
        inline 0...5 => |operation| {
            if (operation == params.FB_MAP_SCALE and p.factor == 1) return;
            var at: usize = 0;
            while (at < padded) : (at += lanes) {
                const a: F = x[at..][0..lanes].*;
                // Without b nothing is there, and none of the operations looks.
                const b: F = if (takes_two(operation)) y[at..][0..lanes].* else splat(0);
                x[at..][0..lanes].* = element(operation, p.factor, a, b);
            }
        },
        else => unreachable,
    }
}

fn takes_two(comptime operation: i32) bool {
    return operation != params.FB_MAP_SCALE and operation != params.FB_MAP_CAP;
}

inline fn element(comptime operation: i32, factor: f32, x: F, y: F) F {
    return switch (operation) {
        params.FB_MAP_SCALE => x * splat(factor),
        params.FB_MAP_ADD => x + y,
        params.FB_MAP_SILU => activate(params.FB_ACTIVATION_SILU, x) * y,
        params.FB_MAP_GELU => activate(params.FB_ACTIVATION_GELU, x) * y,
        params.FB_MAP_GELU_TANH => activate(params.FB_ACTIVATION_GELU_TANH, x) * y,
        params.FB_MAP_CAP => splat(factor) * simd.tanh(x / splat(factor)),
        else => comptime unreachable,
    };
}
