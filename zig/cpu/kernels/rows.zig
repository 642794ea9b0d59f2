//! What operators over rows share: where rows lie, which an item has, and rows as f32. The other
//! half is kernels/common/rows.h.
const std = @import("std");
const params = @import("params");
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

pub const Dtype = simd.Dtype;
const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const items = pointers.items;

pub const Rows = params.fb_rows_params;
pub const Span = params.fb_span_params;
pub const Scaling = params.fb_scaling_params;

/// Sums that a row goes to in turn.
const chains = 4;

/// The smallest scale, so that a row of zeros has one that can be divided by.
pub const scale_least: f32 = std.math.floatMin(f32);

pub fn dtype_of(code: i32) Dtype {
    return @fromBackingInt(@intCast(code));
}

/// Address of row `row`, of a tensor that is there.
pub fn address(t: *const Rows, row: usize) usize {
    const inner: usize = @intCast(t.inner);
    const outer: i64 = @intCast(row / inner);
    const within: i64 = @intCast(row % inner);
    const at = outer * t.outer_stride + within * t.stride;
    return pointers.offset(t.address, at, dtype_of(t.dtype).bytes());
}

/// The rows [first, end) of item `index`, of which a row of 32 lanes has `item_rows`.
pub fn of_item(s: *const Span, index: u32, item_rows: usize) [2]usize {
    var outer = s.outer;
    if (s.live != 0) outer = @max(0, @min(outer, items(i32, s.live)[0]));
    const count = @as(usize, @intCast(outer)) * @as(usize, @intCast(s.inner));
    const rows = item_rows * 32 / @as(usize, @intCast(s.lanes));
    const first = @min(count, index * rows);
    return .{ first, @min(count, first + rows) };
}

/// Room for `dim` numbers in whole vectors of all chains.
pub fn padded_of(dim: usize) usize {
    return std.mem.alignForward(usize, dim, chains * lanes);
}

/// A row as f32, and zeros up to the next whole vectors.
pub fn widen(kind: Dtype, source: usize, x: [*]f32, dim: usize) void {
    const from: [*]const u8 = items(u8, source);
    if (kind == .i8) {
        for (0..dim) |i| x[i] = @floatFromInt(@as(i8, @bitCast(from[i])));
    } else {
        simd.widen_row(kind, from, x, dim, 1);
    }
    // A row before may have left NaN there.
    @memset(x[dim..padded_of(dim)], 0);
}

/// A row rounded and written; i8 is rounded to nearest even, saturates, and has 0 for NaN.
pub fn narrow(kind: Dtype, x: [*]const f32, target: usize, dim: usize) void {
    const to = items(u8, target);
    if (kind != .i8) return simd.narrow_row(kind, x, to, dim, 1);
    var i: usize = 0;
    while (i < dim) : (i += lanes) {
        const codes: [lanes]i8 = round_i8(x[i..][0..lanes].*);
        const count = @min(lanes, dim - i);
        @memcpy(to[i..][0..count], @as([]const u8, @ptrCast(codes[0..count])));
    }
}

fn round_i8(x: F) @Vector(lanes, i8) {
    const numbers = @select(f32, x != x, simd.splat(0), x);
    const held = @max(@min(numbers, simd.splat(127)), simd.splat(-128));
    // Adding 1.5 * 2 ** 23 rounds to whole numbers.
    const magic = simd.splat(0x1.8p23);
    const rounded: I = @intFromFloat(held + magic - magic);
    return @intCast(rounded);
}

/// Sum over a padded row of its numbers, or of their squares.
pub inline fn sum(x: [*]const f32, padded: usize, comptime square: bool) f32 {
    var sums: [chains]F = @splat(@splat(0));
    var at: usize = 0;
    while (at < padded) : (at += chains * lanes) {
        inline for (0..chains) |chain| {
            const part: F = x[at + chain * lanes ..][0..lanes].*;
            const so_far = sums[chain];
            sums[chain] = if (square) simd.mul_add(part, part, so_far) else so_far + part;
        }
    }
    inline for (1..chains) |chain| sums[0] += sums[chain];
    return simd.sum(sums[0]);
}

/// Largest magnitude of a padded row; NaN if there is one.
pub fn most_of(x: [*]const f32, padded: usize) f32 {
    var most: F = @splat(0);
    var at: usize = 0;
    while (at < padded) : (at += lanes) {
        const part: F = x[at..][0..lanes].*;
        most = simd.maximum(most, @abs(part));
    }
    var result: f32 = 0;
    inline for (0..lanes) |lane| {
        if (most[lane] != most[lane]) return most[lane];
        result = @max(result, most[lane]);
    }
    return result;
}

/// x *= factor, of a padded row.
pub fn multiply(x: [*]f32, padded: usize, factor: f32) void {
    var at: usize = 0;
    while (at < padded) : (at += lanes) {
        const part: F = x[at..][0..lanes].*;
        x[at..][0..lanes].* = part * simd.splat(factor);
    }
}

/// x += more, of a padded row.
pub fn add(x: [*]f32, padded: usize, more: f32) void {
    var at: usize = 0;
    while (at < padded) : (at += lanes) {
        const part: F = x[at..][0..lanes].*;
        x[at..][0..lanes].* = part + simd.splat(more);
    }
}

/// The scale by which a largest magnitude becomes the largest number of the dtype.
pub fn scale_of(most: f32, kind: Dtype) f32 {
    const largest: f32 = switch (kind) {
        .f8e4m3 => 448,
        .f8e5m2 => 57344,
        else => 127,
    };
    const scale = most / largest;
    return if (scale < scale_least) scale_least else scale;
}

/// Where results go: those of row `row`, from element `at` of row `target` on.
pub const Place = struct { row: usize, target: usize, at: usize = 0 };

/// Scales results, a padded row or a part of one, and writes them.
pub fn finish(s: *const Scaling, out: *const Rows, place: Place, x: [*]f32, dim: usize) void {
    const kind = dtype_of(out.dtype);
    if (s.token_scales != 0) {
        const scale = scale_of(most_of(x, padded_of(dim)), kind);
        items(f32, s.token_scales)[place.row] = scale;
        multiply(x, padded_of(dim), 1 / scale);
    } else if (s.scale != 0) {
        multiply(x, padded_of(dim), 1 / items(f32, s.scale)[0]);
    }
    narrow(kind, x, address(out, place.target) + place.at * kind.bytes(), dim);
}
