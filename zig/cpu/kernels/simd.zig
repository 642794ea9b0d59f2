//! Vectors of one CPU level: widths, element types, fast functions, loads and rounding stores.
const std = @import("std");
const builtin = @import("builtin");

const cpu = builtin.cpu;
const is_x86 = cpu.arch == .x86_64;
const is_arm = cpu.arch == .aarch64;

/// f32 lanes of one register.
pub const lanes = if (is_x86 and cpu.has(.x86, .avx512f))
    16
else if (is_x86 and cpu.has(.x86, .avx2))
    8
else
    4;

/// Vector registers that a micro-kernel may fill.
pub const registers = if (is_x86 and lanes != 16) 16 else 32;

const has_fma = is_arm or (is_x86 and cpu.has(.x86, .fma));
const has_half = is_arm or (is_x86 and cpu.has(.x86, .f16c));

pub const F = @Vector(lanes, f32);
pub const I = @Vector(lanes, i32);
pub const U = @Vector(lanes, u32);

pub const inf = std.math.inf(f32);
pub const log2_e: f32 = std.math.log2e;
pub const ln_2: f32 = std.math.ln2;

/// Element types, numbered as in kernels/params/types.h.
pub const Dtype = enum(i32) {
    f32 = 0,
    f16 = 1,
    bf16 = 2,
    f8e4m3 = 3,
    f8e5m2 = 4,
    i8 = 5,
    i32 = 6,
    i64 = 7,
    u8 = 8,
    bool = 9,

    pub fn bytes(self: Dtype) usize {
        return switch (self) {
            .f32, .i32 => 4,
            .f16, .bf16 => 2,
            .f8e4m3, .f8e5m2, .i8, .u8, .bool => 1,
            .i64 => 8,
        };
    }
};

/// Floating-point types a key-value cache may have: the first five of Dtype.
pub const float_count = 5;

pub inline fn splat(x: f32) F {
    return @splat(x);
}

/// a * b + c, fused where the level can (a baseline @mulAdd would be a library call).
pub inline fn mul_add(a: anytype, b: @TypeOf(a), c: @TypeOf(a)) @TypeOf(a) {
    return if (has_fma) @mulAdd(@TypeOf(a), a, b, c) else a * b + c;
}

/// Larger of two numbers each, as one instruction; a NaN in b stays.
pub inline fn max(a: anytype, b: @TypeOf(a)) @TypeOf(a) {
    return @select(f32, a > b, a, b);
}

/// Larger of two numbers each; NaN if either is (IEEE 754-2019, unlike @max).
pub inline fn maximum(a: F, b: F) F {
    return @select(f32, a != a, a, max(a, b));
}

/// Smaller of two numbers each; NaN if either is.
pub inline fn minimum(a: F, b: F) F {
    return -maximum(-a, -b);
}

/// 2 ** x for x <= 0 with a relative error of 1.6e-7, exactly 1 at 0, so that the LSE of one key is
/// its logit; exactly 0 below 2 ** -126, so for -inf; NaN for NaN. A minimax polynomial
/// of which p(0) = 1.
pub inline fn exp2(x: anytype) @TypeOf(x) {
    const V = @TypeOf(x);
    const n = @typeInfo(V).vector.len;
    // Its last bits are the exponent of 1: those of the sum become that of 2 ** round(x).
    const magic: V = @splat(0x1.8p23 + 127);
    const shifted = x + magic;
    const f = x - (shifted - magic);
    var p: V = @splat(1.3264738954603672e-3);
    inline for (.{
        9.671516716480255e-3, 5.550733581185341e-2, 2.4022242426872253e-1,
        6.931470036506653e-1, 1.0,
    }) |c| p = mul_add(p, f, @as(V, @splat(c)));
    const Bits = @Vector(n, u32);
    const power: V = @bitCast(@as(Bits, @bitCast(shifted)) << @splat(23));
    return @select(f32, x < @as(V, @splat(-126)), @as(V, @splat(0)), p * power);
}

/// 2 ** x of one number, as exp2.
pub inline fn exp2_scalar(x: f32) f32 {
    return exp2(@as(@Vector(4, f32), @splat(x)))[0];
}

/// tanh by a rational approximation (Eigen's), within a few units in the last place.
pub inline fn tanh(x: F) F {
    const limit = splat(7.90531110763549805);
    const c = @max(@min(x, limit), -limit);
    const s = c * c;
    var p = splat(-2.76076847742355e-16);
    inline for (.{
        2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04,  4.89352455891786e-03,
    }) |k| p = mul_add(p, s, splat(k));
    var q = splat(1.19825839466702e-06);
    inline for (.{ 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03 }) |k|
        q = mul_add(q, s, splat(k));
    const value = c * p / q;
    return @select(f32, x != x, x, value);
}

fn Vec(comptime n: usize, comptime T: type) type {
    return @Vector(n, T);
}

inline fn read(comptime T: type, p: [*]const u8) T {
    return @as(*align(1) const T, @ptrCast(p)).*;
}

inline fn write(comptime T: type, p: [*]u8, value: T) void {
    @as(*align(1) T, @ptrCast(p)).* = value;
}

/// What a raw load of this type must be multiplied by (a power of two that callers fold elsewhere).
pub fn raw_factor(kind: Dtype) f32 {
    return if (has_half and kind == .f8e4m3) 256 else 1;
}

/// n elements at p as f32, up to raw_factor.
pub inline fn load_raw(comptime kind: Dtype, comptime n: usize, p: [*]const u8) Vec(n, f32) {
    switch (kind) {
        .f32 => return read(Vec(n, f32), p),
        .bf16 => {
            const wide: Vec(n, u32) = read(Vec(n, u16), p);
            return @bitCast(wide << @splat(16));
        },
        .f16 => {
            if (has_half) return @floatCast(read(Vec(n, f16), p));
            return widen_half(n, read(Vec(n, u16), p));
        },
        .f8e5m2 => {
            const half = @as(Vec(n, u16), read(Vec(n, u8), p)) << @splat(8);
            if (has_half) return @floatCast(@as(Vec(n, f16), @bitCast(half)));
            return widen_half(n, half);
        },
        .f8e4m3 => {
            if (has_half) return widen_e4m3_by_half(n, read(Vec(n, u8), p));
            return widen_e4m3(n, read(Vec(n, u8), p));
        },
        else => @compileError("not a floating-point type"),
    }
}

/// n elements at p as f32.
pub inline fn load(comptime kind: Dtype, comptime n: usize, p: [*]const u8) Vec(n, f32) {
    const raw = load_raw(kind, n, p);
    return if (comptime raw_factor(kind) == 1) raw else raw * @as(
        Vec(n, f32),
        @splat(raw_factor(kind)),
    );
}

/// e4m3 bits placed in an f16, 2 ** 8 too small: the conversion takes subnormals in its stride.
inline fn widen_e4m3_by_half(comptime n: usize, x: Vec(n, u8)) Vec(n, f32) {
    const W = Vec(n, u16);
    const signed: Vec(n, i16) = @as(Vec(n, i8), @bitCast(x));
    const moved = (@as(W, @bitCast(signed)) << @splat(7)) & @as(W, @splat(0xbfff));
    const is_nan = (x & @as(Vec(n, u8), @splat(0x7f))) == @as(Vec(n, u8), @splat(0x7f));
    const half = @select(u16, is_nan, @as(W, @splat(0x7e00)), moved);
    return @floatCast(@as(Vec(n, f16), @bitCast(half)));
}

/// The same without f16 instructions and without subnormal f32 inputs.
inline fn widen_e4m3(comptime n: usize, x: Vec(n, u8)) Vec(n, f32) {
    const W = Vec(n, u32);
    const wide: W = x;
    const magnitude = wide & @as(W, @splat(0x7f));
    const normal: Vec(n, f32) = @bitCast((magnitude << @splat(20)) +% @as(W, @splat(120 << 23)));
    const small: Vec(n, f32) = @as(
        Vec(n, f32),
        @bitCast((magnitude << @splat(20)) | @as(W, @splat(121 << 23))),
    ) -
        @as(Vec(n, f32), @splat(0x1p-6));
    var bits: W = @bitCast(@select(f32, magnitude < @as(W, @splat(8)), small, normal));
    bits = @select(u32, magnitude == @as(W, @splat(0x7f)), @as(W, @splat(0x7fc00000)), bits);
    return @bitCast(bits | ((wide & @as(W, @splat(0x80))) << @splat(24)));
}

inline fn widen_half(comptime n: usize, x: Vec(n, u16)) Vec(n, f32) {
    const W = Vec(n, u32);
    const wide: W = x;
    const magnitude = wide & @as(W, @splat(0x7fff));
    const normal = (magnitude << @splat(13)) +% @as(W, @splat(112 << 23));
    const small: Vec(n, f32) = @as(
        Vec(n, f32),
        @bitCast((magnitude << @splat(13)) | @as(W, @splat(113 << 23))),
    ) -
        @as(Vec(n, f32), @splat(0x1p-14));
    var bits = @select(u32, magnitude < @as(W, @splat(0x400)), @as(W, @bitCast(small)), normal);
    bits = @select(
        u32,
        magnitude >= @as(W, @splat(0x7c00)),
        (magnitude << @splat(13)) | @as(W, @splat(0x7f800000)),
        bits,
    );
    return @bitCast(bits | ((wide & @as(W, @splat(0x8000))) << @splat(16)));
}

/// Rounds to nearest even and writes n elements; fp8 saturates, f16 overflows to infinity.
pub inline fn store(comptime kind: Dtype, comptime n: usize, p: [*]u8, x: Vec(n, f32)) void {
    switch (kind) {
        .f32 => write(Vec(n, f32), p, x),
        .bf16 => {
            const W = Vec(n, u32);
            const bits: W = @bitCast(x);
            const one: W = (bits >> @splat(16)) & @as(W, @splat(1));
            const rounded = (bits +% @as(W, @splat(0x7fff)) +% one) >> @splat(16);
            const quiet = (bits >> @splat(16)) | @as(W, @splat(0x40));
            write(Vec(n, u16), p, @truncate(@select(u32, x != x, quiet, rounded)));
        },
        .f16 => {
            if (has_half) return write(Vec(n, f16), p, @floatCast(x));
            write(Vec(n, u16), p, @truncate(narrow(n, x, 5, 10, 65536, 0x7e00)));
        },
        .f8e4m3 => write(Vec(n, u8), p, @truncate(narrow(n, x, 4, 3, 448, 0x7f))),
        .f8e5m2 => write(Vec(n, u8), p, @truncate(narrow(n, x, 5, 2, 57344, 0x7f))),
        else => @compileError("not a floating-point type"),
    }
}

/// Bits of a small float type; magnitudes above `largest` become it.
inline fn narrow(
    comptime n: usize,
    x: Vec(n, f32),
    comptime exponent_bits: u32,
    comptime mantissa_bits: u32,
    comptime largest: f32,
    comptime nan: u32,
) Vec(n, u32) {
    const W = Vec(n, u32);
    const V = Vec(n, f32);
    const bias = (1 << (exponent_bits - 1)) - 1;
    const shift = 23 - mantissa_bits;
    const smallest_normal: f32 = std.math.ldexp(@as(f32, 1), 1 - bias);
    // Adding 2 ** (23 + exponent of the last subnormal bit) rounds to that bit.
    const magic: f32 = std.math.ldexp(@as(f32, 1), 23 + 1 - bias - @as(i32, mantissa_bits));
    const magnitude = @min(@abs(x), @as(V, @splat(largest)));
    const bits: W = @bitCast(magnitude);
    const one = (bits >> @splat(shift)) & @as(W, @splat(1));
    const rounded = (bits +% @as(W, @splat((1 << (shift - 1)) - 1)) +% one) >> @splat(shift);
    const normal = rounded -% @as(W, @splat((127 - bias) << mantissa_bits));
    const small = @as(
        W,
        @bitCast(magnitude + @as(V, @splat(magic))),
    ) -% @as(W, @splat(@as(u32, @bitCast(magic))));
    var code = @select(u32, magnitude < @as(V, @splat(smallest_normal)), small, normal);
    code = @select(u32, x != x, @as(W, @splat(nan)), code);
    const sign = (@as(W, @bitCast(x)) >> @splat(31)) << @splat(exponent_bits + mantissa_bits);
    return code | sign;
}

/// One element as f32.
pub inline fn load_one(kind: Dtype, p: [*]const u8) f32 {
    return switch (kind) {
        inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |k| load(k, 1, p)[0],
        else => unreachable,
    };
}

/// Rounds and writes one element.
pub inline fn store_one(kind: Dtype, p: [*]u8, x: f32) void {
    switch (kind) {
        inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |k| store(k, 1, p, .{x}),
        else => unreachable,
    }
}

/// count elements of `kind`, times factor, as f32 (element-wise past the last whole vector).
pub fn widen_row(kind: Dtype, source: [*]const u8, target: [*]f32, count: usize, factor: f32) void {
    switch (kind) {
        inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |k| {
            const size = comptime k.bytes();
            var i: usize = 0;
            while (i + lanes <= count) : (i += lanes)
                target[i..][0..lanes].* = load(k, lanes, source + i * size) * splat(factor);
            while (i < count) : (i += 1) target[i] = load(k, 1, source + i * size)[0] * factor;
        },
        else => unreachable,
    }
}

/// count f32 values times factor, rounded to `kind`.
pub fn narrow_row(
    kind: Dtype,
    source: [*]const f32,
    target: [*]u8,
    count: usize,
    factor: f32,
) void {
    switch (kind) {
        inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |k| {
            const size = comptime k.bytes();
            var i: usize = 0;
            while (i + lanes <= count) : (i += lanes) {
                const x: F = source[i..][0..lanes].*;
                store(k, lanes, target + i * size, x * splat(factor));
            }
            while (i < count) : (i += 1) store(k, 1, target + i * size, .{source[i] * factor});
        },
        else => unreachable,
    }
}

/// Sum of the lanes, as a tree (a float @reduce adds one lane after another).
pub fn sum(x: anytype) f32 {
    const n = @typeInfo(@TypeOf(x)).vector.len;
    if (n == 1) return x[0];
    return sum(fold(x, 1));
}

/// Sums of n vectors, one per lane, for n = 1, 2, 4, 8 or 16.
pub fn sum_each(comptime n: usize, x: [n]F) [n]f32 {
    if (n <= lanes) return gather_sums(n, x, 1);
    return sum_each(n / 2, x[0 .. n / 2].*) ++ sum_each(n / 2, x[n / 2 ..].*);
}

/// Pairs of vectors, each made of `parts` unfinished sums, become vectors of twice as many.
fn gather_sums(comptime n: usize, x: anytype, comptime parts: usize) [n]f32 {
    const V = @TypeOf(x[0]);
    const width = @typeInfo(V).vector.len;
    if (x.len == 1) return if (width == n) x[0] else gather_sums(
        n,
        [1]@Vector(width / 2, f32){fold(x[0], parts)},
        parts,
    );
    var y: [x.len / 2]V = undefined;
    inline for (0..y.len) |i| {
        const a = x[2 * i];
        const b = x[2 * i + 1];
        y[i] = @shuffle(
            f32,
            a,
            b,
            halves(width, parts, 0),
        ) + @shuffle(f32, a, b, halves(width, parts, 1));
    }
    return gather_sums(n, y, parts * 2);
}

/// Adds the upper half of each of `parts` parts to its lower half.
inline fn fold(x: anytype, comptime parts: usize) @Vector(
    @typeInfo(@TypeOf(x)).vector.len / 2,
    f32,
) {
    const width = @typeInfo(@TypeOf(x)).vector.len;
    const size = width / parts;
    comptime var low: [width / 2]i32 = undefined;
    comptime var high: [width / 2]i32 = undefined;
    inline for (0..width / 2) |i| {
        low[i] = i / (size / 2) * size + i % (size / 2);
        high[i] = low[i] + size / 2;
    }
    return @shuffle(f32, x, undefined, low) + @shuffle(f32, x, undefined, high);
}

/// Lanes of the lower (0) or upper (1) half of every part of two vectors.
fn halves(comptime width: usize, comptime parts: usize, comptime upper: usize) [width]i32 {
    const size = width / parts;
    var out: [width]i32 = undefined;
    for (0..width) |i| {
        const part = i / (size / 2);
        const lane: i32 = @intCast(part % parts * size + upper * (size / 2) + i % (size / 2));
        out[i] = if (part < parts) lane else ~lane;
    }
    return out;
}

test "sums of vectors" {
    inline for (.{ 1, 2, 4, 8, 16 }) |n| {
        var x: [n]F = undefined;
        var want: [n]f32 = @splat(0);
        for (0..n) |i| {
            for (0..lanes) |j| {
                const value: f32 = @floatFromInt(i * i + 3 * j + 1);
                const v: *[lanes]f32 = @ptrCast(&x[i]);
                v[j] = value;
                want[i] += value;
            }
            try std.testing.expectEqual(want[i], sum(x[i]));
        }
        try std.testing.expectEqual(want, sum_each(n, x));
    }
}

test "small floats go there and back" {
    inline for (.{ Dtype.f8e4m3, Dtype.f8e5m2 }) |kind| {
        for (0..256) |code| {
            const byte = [1]u8{@intCast(code)};
            const value = load(kind, 1, &byte)[0];
            var back: [1]u8 = undefined;
            store(kind, 1, &back, .{value});
            if (std.math.isNan(value)) continue;
            if (std.math.isInf(value)) continue;
            try std.testing.expectEqual(byte[0], back[0]);
        }
    }
    for (0..65536) |code| {
        const half: u16 = @intCast(code);
        const exact: f32 = @floatCast(@as(f16, @bitCast(half)));
        const value = widen_half(1, .{half})[0];
        if (std.math.isNan(exact)) continue;
        try std.testing.expectEqual(exact, value);
        try std.testing.expectEqual(@as(u32, half), narrow(1, .{value}, 5, 10, 65536, 0x7e00)[0]);
    }
}

test "exp2 and tanh are close" {
    var x: f32 = 0;
    while (x > -125) : (x -= 0.0137) {
        try std.testing.expectApproxEqRel(@exp2(x), exp2_scalar(x), 3e-7);
        try std.testing.expectApproxEqAbs(std.math.tanh(x), tanh(splat(x))[0], 3e-7);
    }
    try std.testing.expectEqual(@as(f32, 0), exp2_scalar(-inf));
    try std.testing.expect(std.math.isNan(exp2_scalar(std.math.nan(f32))));
}
