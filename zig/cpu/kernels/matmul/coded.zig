//! Tiles of products with a weight in codes, which become numbers in registers: for few rows the
//! widened weight would cost more to write and read again than its codes do.
const std = @import("std");
const params = @import("params");
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const tile = @import("tile.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const lanes = simd.lanes;
const Params = params.fb_matmul_params;

/// Inputs that 16 bytes of codes hold, and vectors of them.
fn inputs_of(comptime kind: Dtype) usize {
    return if (kind == .u8) 32 else 16;
}

/// Most groups that a tile has: those of 16 in a span of inputs.
pub const groups_most = 64;

/// Where a tile begins: the weight's row and its input, and the operands from there on.
pub const Place = struct {
    row: usize,
    k: usize,
    x: tile.Rows,
    weight: tile.Rows,
};

/// Adds to sums [rows][sums_stride] the products of `rows` x `columns` rows over `count` inputs, in
/// the order and with the bits of a tile over the widened weight.
pub fn add(
    comptime kind: Dtype,
    p: *const Params,
    rows: usize,
    columns: usize,
    place: Place,
    count: usize,
    sums: [*]tile.Sum,
    sums_stride: usize,
    fresh: bool,
) void {
    inline for (1..tile.tile_rows + 1) |r| if (rows == r) {
        const most = tile.tile_columns;
        if (columns == most)
            return multiply(kind, r, most, p, place, count, sums, sums_stride, fresh);
        for (0..columns) |c| {
            const one: Place = .{
                .row = place.row + c,
                .k = place.k,
                .x = place.x,
                .weight = place.weight.from(c),
            };
            multiply(kind, r, 1, p, one, count, sums + c, sums_stride, fresh);
        }
        return;
    };
    unreachable;
}

fn multiply(
    comptime kind: Dtype,
    comptime rows: usize,
    comptime columns: usize,
    p: *const Params,
    place: Place,
    count: usize,
    sums: [*]tile.Sum,
    sums_stride: usize,
    fresh: bool,
) void {
    const step = comptime inputs_of(kind);
    // Groups are of 16, 32 or 128.
    const shift: u6 = @intCast(@ctz(size(p.scale_inputs)));
    // Of each column so many.
    const groups = count >> shift;
    var scales: [columns * groups_most]f32 = undefined;
    var minimums: [columns * groups_most]f32 = undefined;
    const is_dense = p.scale_rows == 1 and size(p.scale_stride) == groups;
    const runs: usize = if (is_dense) 1 else columns;
    for (0..runs) |c| {
        const at = (place.row + c) / size(p.scale_rows) * size(p.scale_stride);
        const run = columns / runs * groups;
        const first = at + (place.k >> shift);
        widen_groups(kind, p, first, run, scales[c * groups ..].ptr, minimums[c * groups ..].ptr);
    }
    fetch(place.weight.from(columns * tiles_ahead), columns, count * 16 / step);
    var acc: [rows][columns]F = @splat(@splat(@splat(0)));
    if (!fresh) inline for (0..rows) |r| {
        inline for (0..columns) |c| acc[r][c] = sums[r * sums_stride + c];
    };
    // Where a tile is wider, more sums than registers would be left.
    const is_looked_up = comptime kind == .u8 and can_look_up and rows <= 2;
    var k: usize = 0;
    if (comptime is_looked_up) if (shift >= 5) while (k < count) : (k += step) {
        const group = k >> shift;
        var y: [columns][2]F = undefined;
        inline for (0..columns) |c| {
            const codes = place.weight.first + c * place.weight.stride + k / 2;
            const at = c * groups + group;
            y[c] = look_up(codes[0..16], scales[at], minimums[at]);
        }
        inline for (0..2) |v| inline for (0..rows) |r| {
            const from = place.x.first + r * place.x.stride + 4 * (k + v * lanes);
            const row = simd.load(.f32, lanes, from);
            inline for (0..columns) |c| acc[r][c] = simd.mul_add(row, y[c][v], acc[r][c]);
        };
    };
    while (k < count) : (k += step) {
        inline for (0..step / lanes) |v| {
            const group = (k + v * lanes) >> shift;
            var y: [columns]F = undefined;
            inline for (0..columns) |c| {
                const codes = place.weight.first + c * place.weight.stride + k * 16 / step;
                const numbers: F = @floatFromInt(vector_of(kind, codes, v));
                const scale: F = @splat(scales[c * groups + group]);
                const minimum: F = @splat(minimums[c * groups + group]);
                y[c] = simd.mul_add(numbers, scale, minimum);
            }
            inline for (0..rows) |r| {
                const from = place.x.first + r * place.x.stride + 4 * (k + v * lanes);
                const row = simd.load(.f32, lanes, from);
                inline for (0..columns) |c| acc[r][c] = simd.mul_add(row, y[c], acc[r][c]);
            }
        }
    }
    inline for (0..rows) |r| {
        inline for (0..columns) |c| sums[r * sums_stride + c] = acc[r][c];
    }
}

/// Whether a vector has a lane for each code of four bits.
const can_look_up = lanes == 16;

/// 32 numbers of one group from their 16 bytes of codes: there are but 16 of them, so the codes
/// choose among the lanes of a table. The same numbers as one by one.
inline fn look_up(codes: *const [16]u8, scale: f32, minimum: f32) [2]F {
    const all: F = @floatFromInt(std.simd.iota(i32, lanes));
    const table = simd.mul_add(all, @as(F, @splat(scale)), @as(F, @splat(minimum)));
    const bytes: @Vector(lanes, u8) = codes.*;
    const both: Codes = bytes;
    return .{ chosen(table, both), chosen(table, both >> @splat(4)) };
}

/// The lanes of a table that the low four bits of the indices say.
inline fn chosen(table: F, indices: Codes) F {
    return asm ("vpermps %[table], %[indices], %[out]"
        : [out] "=v" (-> F),
        : [indices] "v" (indices),
          [table] "v" (table),
    );
}

/// Tiles between the one that is multiplied and the one whose codes are fetched.
const tiles_ahead = 2;

/// Asks for the codes of a tile that comes soon: its rows are too short for the processor to see
/// that more follow.
inline fn fetch(weight: tile.Rows, comptime columns: usize, bytes: usize) void {
    inline for (0..columns) |c| {
        const row = @intFromPtr(weight.first) +% c * weight.stride;
        var at: usize = 0;
        while (at < bytes) : (at += 64)
            @prefetch(@as([*]const u8, @ptrFromInt(row +% at)), .{ .locality = 2 });
    }
}

/// The scales and minimums of `count` groups from `first` on, all at once: one by one their
/// conversions would take longer than the products.
fn widen_groups(
    comptime kind: Dtype,
    p: *const Params,
    first: usize,
    count: usize,
    scales: [*]f32,
    minimums: [*]f32,
) void {
    simd.widen_row(.f16, pointers.items(u8, p.scales) + 2 * first, scales, count, 1);
    if (p.minimums != 0) {
        const source = pointers.items(u8, p.minimums) + 2 * first;
        return simd.widen_row(.f16, source, minimums, count, 1);
    }
    for (scales[0..count], minimums[0..count]) |scale, *minimum|
        minimum.* = if (kind == .u8) -8 * scale else 0;
}

const Codes = @Vector(lanes, i32);

/// The codes of vector `v` in 16 bytes: of four bits, the low halves come before the high ones.
inline fn vector_of(comptime kind: Dtype, codes: [*]const u8, comptime v: usize) Codes {
    if (kind == .i8) {
        const bytes: @Vector(lanes, u8) = codes[v * lanes ..][0..lanes].*;
        return @as(@Vector(lanes, i8), @bitCast(bytes));
    }
    const bytes: @Vector(lanes, u8) = codes[v * lanes % 16 ..][0..lanes].*;
    const high = v * lanes >= 16;
    return if (high) bytes >> @splat(4) else bytes & @as(@Vector(lanes, u8), @splat(15));
}

inline fn size(n: anytype) usize {
    return @intCast(n);
}
