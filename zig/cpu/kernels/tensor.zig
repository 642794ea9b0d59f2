//! Tensors: seeded normal numbers, conversion between any two types and strides, fills.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const U = simd.U;
const lanes = simd.lanes;
const items = pointers.items;

/// Elements that one grid index handles.
const block = 65536;

pub const kernels = [_]Kernel{
    .of("random_normal", params.fb_random_params, block, run_normal),
    .of("fill", params.fb_random_params, block, run_fill),
    .of("convert", params.fb_convert_params, block, run_convert),
};

/// Elements [block * index, ...) of a tensor of N(mean, deviation).
fn run_normal(p: *const params.fb_random_params, index: u32, _: [*]align(64) u8) i32 {
    switch (@as(Dtype, @fromBackingInt(@intCast(p.dtype)))) {
        inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |kind| normal(kind, p, index),
        else => return 1,
    }
    return 0;
}

fn normal(comptime kind: Dtype, p: *const params.fb_random_params, index: u32) void {
    const size = comptime kind.bytes();
    const out = items(u8, p.out);
    var i = @as(u64, index) * block;
    const end = @min(p.count, i + block);
    while (i < end) : (i += lanes) {
        const x = simd.mul_add(gauss(p.seed, i), simd.splat(p.deviation), simd.splat(p.mean));
        if (i + lanes <= end) {
            simd.store(kind, lanes, out + i * size, x);
        } else {
            const tail: [lanes]f32 = x;
            for (tail[0..@intCast(end - i)], i..) |value, at| {
                simd.store(kind, 1, out + at * size, .{value});
            }
        }
    }
}

/// Standard normal numbers of elements from first on: Box-Muller on a hash of (seed, element).
fn gauss(seed: u64, first: u64) F {
    const W = @Vector(lanes, u64);
    const elements = @as(W, @splat(first)) +% std.simd.iota(u64, lanes);
    const offset: W = @splat(seed *% 0xd1342543de82ef95 +% 0x2545f4914f6cdd1d);
    var z = elements *% @as(W, @splat(0x9e3779b97f4a7c15)) +% offset;
    z = (z ^ (z >> @splat(30))) *% @as(W, @splat(0xbf58476d1ce4e5b9));
    z = (z ^ (z >> @splat(27))) *% @as(W, @splat(0x94d049bb133111eb));
    z ^= z >> @splat(31);
    const a: U = @truncate(z >> @splat(40)); // 24 bits
    const b: U = @truncate(z & @as(W, @splat(0xffffff)));
    const unit = simd.splat(0x1p-24);
    const u = (@as(F, @floatFromInt(a)) + simd.splat(0.5)) * unit; // (0, 1)
    const turn = @as(F, @floatFromInt(b)) * unit - simd.splat(0.5); // [-1/2, 1/2)
    return @sqrt(simd.splat(-2) * log(u)) * cos_turns(turn);
}

/// Natural logarithm of positive normal numbers.
fn log(x: F) F {
    const bits: U = @bitCast(x);
    // Mantissa in [sqrt(1/2), sqrt(2)).
    const shifted = bits -% @as(U, @splat(0x3f3504f3));
    const exponent: F = @floatFromInt(@as(simd.I, @bitCast(shifted)) >> @splat(23));
    const m: F = @bitCast((shifted & @as(U, @splat(0x007fffff))) +% @as(U, @splat(0x3f3504f3)));
    const r = (m - simd.splat(1)) / (m + simd.splat(1));
    const s = r * r;
    var q = simd.splat(2.0 / 9.0);
    inline for (.{ 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0, 2.0 }) |c|
        q = simd.mul_add(q, s, simd.splat(c));
    return simd.mul_add(exponent, simd.splat(simd.ln_2), r * q);
}

/// cos(2 pi t) for t in [-1/2, 1/2], as -sin(2 pi (|t| - 1/4)).
fn cos_turns(t: F) F {
    const x = (@abs(t) - simd.splat(0.25)) * simd.splat(-2 * std.math.pi);
    const s = x * x;
    var q = simd.splat(-1.0 / 39916800.0);
    inline for (.{ 1.0 / 362880.0, -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0, 1.0 }) |c|
        q = simd.mul_add(q, s, simd.splat(c));
    return x * q;
}

/// Elements [block * index, ...) of a contiguous tensor become `mean`.
fn run_fill(p: *const params.fb_random_params, index: u32, _: [*]align(64) u8) i32 {
    const kind: Dtype = @fromBackingInt(@intCast(p.dtype));
    const first = @as(u64, index) * block;
    const size = kind.bytes();
    var one: [8]u8 = undefined;
    write(kind, &one, .{ .real = p.mean });
    const out = items(u8, p.out);
    const zero = std.mem.allEqual(u8, one[0..size], 0);
    const end = @min(p.count, first + block);
    if (end <= first) return 0;
    if (zero or size == 1) {
        @memset(out[first * size .. end * size], one[0]);
    } else {
        for (first..end) |i| @memcpy(out[i * size ..][0..size], one[0..size]);
    }
    return 0;
}

/// Elements [block * index, ...), in row-major order, from source to target.
fn run_convert(p: *const params.fb_convert_params, index: u32, scratch: [*]align(64) u8) i32 {
    var sizes: [6]i64 = undefined;
    var total: i64 = 1;
    for (&sizes, p.sizes) |*size, given| {
        size.* = @max(1, given);
        total *= size.*;
    }
    // The innermost axis that is longer than one is the row.
    var inner: usize = 5;
    while (inner > 0 and sizes[inner] == 1) inner -= 1;
    const first = @as(i64, index) * block;
    const end = @min(total, first + block);
    var at = first;
    while (at < end) {
        var rest = at;
        const column = @rem(rest, sizes[inner]);
        rest = @divFloor(rest, sizes[inner]);
        var source: i64 = column * p.source_strides[inner];
        var target: i64 = column * p.target_strides[inner];
        var axis = inner;
        while (axis > 0) {
            axis -= 1;
            const i = @rem(rest, sizes[axis]);
            rest = @divFloor(rest, sizes[axis]);
            source += i * p.source_strides[axis];
            target += i * p.target_strides[axis];
        }
        const count = @min(end - at, sizes[inner] - column);
        convert_row(
            p,
            source,
            target,
            p.source_strides[inner],
            p.target_strides[inner],
            @intCast(count),
            scratch,
        );
        at += count;
    }
    return 0;
}

fn convert_row(
    p: *const params.fb_convert_params,
    source: i64,
    target: i64,
    source_step: i64,
    target_step: i64,
    count: usize,
    scratch: [*]align(64) u8,
) void {
    const from: Dtype = @fromBackingInt(@intCast(p.source_dtype));
    const to: Dtype = @fromBackingInt(@intCast(p.target_dtype));
    const in = pointers.offset(p.source, source, from.bytes());
    const out = pointers.offset(p.target, target, to.bytes());
    if (source_step == 1 and target_step == 1) {
        if (from == to) {
            const bytes = count * to.bytes();
            @memmove(items(u8, out)[0..bytes], items(u8, in)[0..bytes]);
            return;
        }
        if (is_float(from) and is_float(to)) {
            const wide: [*]f32 = @ptrCast(scratch);
            simd.widen_row(from, items(u8, in), wide, count, 1);
            simd.narrow_row(to, wide, items(u8, out), count, 1);
            return;
        }
    }
    for (0..count) |i| {
        const at: i64 = @intCast(i);
        const value = read(from, items(u8, pointers.offset(in, at * source_step, from.bytes())));
        write(to, items(u8, pointers.offset(out, at * target_step, to.bytes())), value);
    }
}

fn is_float(kind: Dtype) bool {
    return @backingInt(kind) < simd.float_count;
}

const Value = union(enum) { real: f32, whole: i64 };

inline fn read(kind: Dtype, p: [*]const u8) Value {
    return switch (kind) {
        .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => .{ .real = simd.load_one(kind, p) },
        .i8 => .{ .whole = @as(i8, @bitCast(p[0])) },
        .i32 => .{ .whole = @as(*align(1) const i32, @ptrCast(p)).* },
        .i64 => .{ .whole = @as(*align(1) const i64, @ptrCast(p)).* },
        .u8, .bool => .{ .whole = p[0] },
    };
}

/// Whole numbers wrap, real ones are cut towards zero and saturate, and NaN becomes 0.
inline fn write(kind: Dtype, p: [*]u8, value: Value) void {
    switch (kind) {
        .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => simd.store_one(kind, p, switch (value) {
            .real => |x| x,
            .whole => |x| @floatFromInt(x),
        }),
        .i8 => p[0] = @bitCast(to_int(i8, value)),
        .i32 => @as(*align(1) i32, @ptrCast(p)).* = to_int(i32, value),
        .i64 => @as(*align(1) i64, @ptrCast(p)).* = to_int(i64, value),
        .u8 => p[0] = to_int(u8, value),
        .bool => p[0] = @intFromBool(switch (value) {
            .real => |x| x != 0,
            .whole => |x| x != 0,
        }),
    }
}

fn to_int(comptime T: type, value: Value) T {
    switch (value) {
        .whole => |x| return @truncate(@as(if (T == u8) u64 else i64, @bitCast(x))),
        .real => |x| return std.math.lossyCast(T, x),
    }
}
