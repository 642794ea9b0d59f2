//! Products of rows with a weight in codes as whole numbers (AVX512_VNNI): four times as many at
//! once as in f32. Each 32 inputs of a row become whole numbers of 16 bits with a scale of their
//! own, in two bytes, as the instruction takes bytes; their sums with codes are exact.
//!
//! A step is 128 inputs of four outputs. Its vectors have four lanes for each of four groups of 32
//! inputs: first parts of a sum, then one lane for each output.
const std = @import("std");
const params = @import("params");
const experts = @import("experts.zig");
const features = @import("../../features.zig");
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const widen_x = @import("widen.zig").widen_x;

const Dtype = simd.Dtype;
const F = simd.F;
const I = simd.I;
const Params = params.fb_matmul_params;
const Bytes = @Vector(64, u8);

const group = 32;
const step = 4 * group;
/// Outputs of a step.
pub const columns = 4;
/// Rows of the weight between those that are multiplied and those that are fetched.
const ahead = 24;
/// Most inputs of a weight.
pub const inputs_most = 1 << 14;
/// Largest whole number: its high byte must fit.
const largest = 127 * 256 + 127;

/// 128 inputs of a row: bytes of its whole numbers, the first half of each group before the second,
/// and scales and sums of the groups, each in four lanes.
pub const Staged = extern struct {
    high: [2][64]u8 align(64),
    low: [2][64]u8,
    scale: Sum,
    sum: Sum,
};

/// Numbers of a row and four outputs.
pub const Sum = [simd.lanes]f32;

/// Steps of a row.
pub fn steps_of(p: *const Params) usize {
    return (size(p.inputs) + step - 1) / step;
}

/// Whether the product can be one of whole numbers here. It says nothing of how many rows there
/// are, on which the bits of one must not depend.
pub fn takes(p: *const Params, kind: Dtype) bool {
    if (simd.lanes != 16 or (kind != .u8 and kind != .i8)) return false;
    const groups = size(p.scale_inputs);
    return groups % group == 0 and p.inputs <= inputs_most and features.has_byte_products();
}

/// Stages a row of x, or zeros where there is none: steps lie `stride` apart.
pub fn stage(p: *const Params, row: ?usize, target: [*]Staged, stride: usize) void {
    const kind: Dtype = @fromBackingInt(@intCast(p.x_dtype));
    var k: usize = 0;
    var at: usize = 0;
    while (k < size(p.inputs)) : (k += step) {
        var numbers: [step]f32 align(64) = @splat(0);
        const count = @min(step, size(p.inputs) - k);
        if (row) |r| {
            const distance = (r * size(p.x_stride) + k) * kind.bytes();
            widen_x(p, r, k, pointers.items(u8, p.x) + distance, &numbers, count);
        }
        stage_step(&numbers, &target[at]);
        at += stride;
    }
}

fn stage_step(numbers: *const [step]f32, target: *Staged) void {
    for (0..4) |g| {
        const halves = [2]F{
            numbers[g * group ..][0..16].*,
            numbers[g * group + 16 ..][0..16].*,
        };
        const most = @reduce(.Max, @max(@abs(halves[0]), @abs(halves[1])));
        // What is not finite makes the sums of its row NaN, what is tiny counts as 0.
        const scale = @max(most, 0x1p-100) / largest;
        const is_finite = all_finite(halves[0]) and all_finite(halves[1]);
        const inverse = simd.splat(largest / @max(most, 0x1p-100));
        var sum: I = @splat(0);
        for (halves, 0..) |half, i| {
            const whole: I = if (is_finite) rounded(half * inverse) else @splat(0);
            sum += whole;
            const high = (whole + @as(I, @splat(128))) >> @splat(8);
            store(&target.high[i], g, high);
            store(&target.low[i], g, whole - (high << @splat(8)));
        }
        const worth: f32 = if (is_finite) scale else std.math.nan(f32);
        const numbers_sum: f32 = @floatFromInt(@reduce(.Add, sum));
        target.scale[g * columns ..][0..columns].* = @splat(worth);
        target.sum[g * columns ..][0..columns].* = @splat(numbers_sum * worth);
    }
}

inline fn all_finite(x: F) bool {
    return @reduce(.And, @abs(x) < simd.splat(simd.inf));
}

inline fn rounded(x: F) I {
    const magic = simd.splat(0x1.8p23);
    return @as(I, @bitCast(x + magic)) -% @as(I, @bitCast(magic));
}

inline fn store(target: *[64]u8, g: usize, numbers: I) void {
    const bytes: @Vector(16, i8) = @truncate(numbers);
    target[g * 16 ..][0..16].* = @as(@Vector(16, u8), @bitCast(bytes));
}

/// The sums of `rows` staged rows with four outputs of the weight from `row` on, of which `outputs`
/// are there, in `sums`, a vector for each row.
pub fn multiply(
    comptime kind: Dtype,
    p: *const Params,
    row: usize,
    outputs: usize,
    x: [*]const Staged,
    rows: usize,
    stride: usize,
    sums: [*]align(64) Sum,
) void {
    var at: [columns]usize = undefined;
    inline for (0..columns) |c| at[c] = row + @min(c, outputs - 1);
    @memset(sums[0..rows], @splat(0));
    var k: usize = 0;
    var from = x;
    while (k + step <= size(p.inputs)) : (k += step) {
        multiply_step(kind, 4, p, at, k, from, rows, sums);
        from += stride;
    }
    // Groups are whole.
    inline for (1..4) |groups| if (size(p.inputs) - k == groups * group)
        multiply_step(kind, groups, p, at, k, from, rows, sums);
}

/// Sums of an item: of each row a vector for every four outputs, those of one output set together.
pub const Sums = struct {
    first: [*]align(64) Sum,
    /// Rows of a set.
    rows: usize,

    /// The sums of 16 outputs from one on.
    pub inline fn totals(sums: Sums, row: usize, output: usize) [16]f32 {
        var all: [16]f32 = undefined;
        inline for (0..16 / columns) |i|
            all[i * columns ..][0..columns].* = total(sums.of(output + i * columns)[row]);
        return all;
    }

    pub inline fn of(sums: Sums, output: usize) [*]align(64) Sum {
        return sums.first + output / columns * sums.rows;
    }
};

/// Sums of four outputs: of their groups, the first and third before the others.
inline fn total(sum: Sum) [columns]f32 {
    const vector: F = sum;
    const half = @shuffle(f32, vector, undefined, [8]i32{ 0, 1, 2, 3, 4, 5, 6, 7 }) +
        @shuffle(f32, vector, undefined, [8]i32{ 8, 9, 10, 11, 12, 13, 14, 15 });
    return @shuffle(f32, half, undefined, [4]i32{ 0, 1, 2, 3 }) +
        @shuffle(f32, half, undefined, [4]i32{ 4, 5, 6, 7 });
}

fn multiply_step(
    comptime kind: Dtype,
    comptime groups: usize,
    p: *const Params,
    at: [columns]usize,
    k: usize,
    x: [*]const Staged,
    rows: usize,
    sums: [*]align(64) Sum,
) void {
    var codes: [columns][2]Bytes = undefined;
    const first = pointers.items(u8, p.weight) + if (kind == .u8) k / 2 else k;
    inline for (0..columns) |c| {
        const codes_at = first + at[c] * size(p.weight_stride);
        codes[c] = unpack(kind, groups, codes_at);
        // Rows are too short for the processor to see that more follow. The second cache can wait
        // for more lines at once than the first.
        const later = @intFromPtr(codes_at) +% ahead * size(p.weight_stride);
        const lines = (if (kind == .u8) 16 * groups else 32 * groups) / 64;
        inline for (0..@max(1, lines)) |line|
            @prefetch(@as([*]const u8, @ptrFromInt(later +% 64 * line)), .{ .locality = 2 });
    }
    const scale = factors(groups, p, p.scales, at, k);
    // What the codes 0 as bytes are worth.
    const minimum = if (p.minimums == 0)
        scale * simd.splat(if (kind == .u8) -8 else -128)
    else if (kind == .u8)
        factors(groups, p, p.minimums, at, k)
    else
        simd.mul_add(scale, simd.splat(-128), factors(groups, p, p.minimums, at, k));
    for (x[0..rows], sums[0..rows]) |*staged, *sum| {
        var parts: [columns]I = undefined;
        inline for (0..columns) |c| {
            var part: I = @splat(0);
            inline for (0..2) |i| part = add_products(part, codes[c][i], staged.high[i]);
            part <<= @splat(8);
            inline for (0..2) |i| part = add_products(part, codes[c][i], staged.low[i]);
            parts[c] = part;
        }
        const numbers: F = @floatFromInt(add_parts(parts));
        const rest = simd.mul_add(minimum, staged.sum, sum.*);
        sum.* = simd.mul_add(numbers * staged.scale, scale, rest);
    }
}

/// Codes of groups as bytes from 0 on: the first half of each group, then the second.
inline fn unpack(comptime kind: Dtype, comptime groups: usize, p: [*]const u8) [2]Bytes {
    const count = if (kind == .u8) 16 * groups else 32 * groups;
    const loaded: @Vector(count, u8) = p[0..count].*;
    if (kind == .u8) {
        const bytes = spread(groups, 16, 0, loaded);
        return .{ bytes & @as(Bytes, @splat(15)), bytes >> @splat(4) };
    }
    const middle: Bytes = @splat(128);
    return .{ spread(groups, 32, 0, loaded) ^ middle, spread(groups, 32, 16, loaded) ^ middle };
}

/// 16 bytes of each group, which are `distance` apart; 0 for groups that are not there.
inline fn spread(
    comptime groups: usize,
    comptime distance: usize,
    comptime first: usize,
    loaded: anytype,
) Bytes {
    comptime var mask: [64]i32 = undefined;
    inline for (0..64) |i| {
        const g = i / 16;
        mask[i] = if (g < groups) g * distance + first + i % 16 else -1;
    }
    return @shuffle(u8, loaded, @as(@Vector(1, u8), .{0}), mask);
}

/// Scales or minimums of the groups, of each in the lanes of its outputs.
inline fn factors(
    comptime groups: usize,
    p: *const Params,
    base: u64,
    at: [columns]usize,
    k: usize,
) F {
    var words: @Vector(columns, u64) = @splat(0);
    const is_apart = size(p.scale_inputs) == group;
    inline for (0..columns) |c| {
        const row = pointers.items(u16, base) + at[c] * size(p.scale_stride);
        if (is_apart) {
            words[c] = halves_of(groups, row + k / group);
        } else inline for (0..groups) |g| {
            const one: u64 = row[(k + g * group) / size(p.scale_inputs)];
            words[c] |= one << (16 * g);
        }
    }
    const halves: @Vector(16, f16) = @bitCast(words);
    const wide: F = @floatCast(halves);
    comptime var mask: [16]i32 = undefined;
    inline for (0..16) |i| mask[i] = i % columns * 4 + i / columns;
    return @shuffle(f32, wide, undefined, mask);
}

inline fn halves_of(comptime groups: usize, p: [*]const u16) u64 {
    if (groups == 4) return @as(*align(2) const u64, @ptrCast(p)).*;
    var word: u64 = 0;
    inline for (0..groups) |g| word |= @as(u64, p[g]) << (16 * g);
    return word;
}

/// Adds to each lane the products of four codes with four signed bytes.
inline fn add_products(sum: I, codes: Bytes, bytes: Bytes) I {
    return asm ("vpdpbusd %[bytes], %[codes], %[sum]"
        : [sum] "=v" (-> I),
        : [_] "0" (sum),
          [codes] "v" (codes),
          [bytes] "v" (bytes),
    );
}

/// Of four vectors, each with four lanes of a group, the groups' sums: one lane for each vector.
inline fn add_parts(x: [4]I) I {
    const low = pairs(x[0], x[1]);
    const high = pairs(x[2], x[3]);
    return merge(low, high, .{ 0, 1, 16, 17 }) + merge(low, high, .{ 2, 3, 18, 19 });
}

inline fn pairs(a: I, b: I) I {
    return merge(a, b, .{ 0, 16, 1, 17 }) + merge(a, b, .{ 2, 18, 3, 19 });
}

/// Lanes of two vectors, of each 128 bits the same ones; those of b are numbered from 16 on.
inline fn merge(a: I, b: I, comptime lanes: [4]i32) I {
    comptime var mask: [16]i32 = undefined;
    inline for (0..16) |i| {
        const lane = lanes[i % 4];
        const start: i32 = i / 4 * 4;
        mask[i] = if (lane < 16) lane + start else ~(lane - 16 + start);
    }
    return @shuffle(i32, a, b, mask);
}

inline fn size(n: anytype) usize {
    return @intCast(n);
}
