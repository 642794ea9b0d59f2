//! Functions of variants on vectors of one CPU level. How far each may be off is in
//! test/support/tolerance.ts.
const std = @import("std");
const simd = @import("../simd.zig");

const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const D = @Vector(lanes, f64);

fn Bits(comptime T: type) type {
    return @Vector(lanes, if (T == f32) i32 else i64);
}

inline fn splat(comptime T: type, x: T) @Vector(lanes, T) {
    return @splat(x);
}

/// c[0] + x * (c[1] + x * (...)).
inline fn polynomial(
    comptime T: type,
    x: @Vector(lanes, T),
    comptime c: []const T,
) @Vector(lanes, T) {
    var sum = splat(T, c[c.len - 1]);
    comptime var i = c.len - 1;
    inline while (i > 0) : (i -= 1) sum = simd.mul_add(sum, x, splat(T, c[i - 1]));
    return sum;
}

/// 1 / k! for k < n.
fn inverse_factorials(comptime T: type, comptime n: usize) [n]T {
    var c: [n]T = @splat(1);
    for (1..n) |k| c[k] = c[k - 1] / k;
    return c;
}

/// 2 ** k for k within the exponents of normal numbers.
inline fn power_of_two(comptime T: type, k: Bits(T)) @Vector(lanes, T) {
    const mantissa = std.math.floatMantissaBits(T);
    const bias = std.math.floatExponentMax(T);
    return @bitCast((k +% @as(Bits(T), @splat(bias))) << @splat(mantissa));
}

/// e ** x: 2 ** n times a Taylor series on |r| <= ln(2) / 2. Overflows to infinity, and to 0.
inline fn exp_of(comptime T: type, given: @Vector(lanes, T)) @Vector(lanes, T) {
    const limit: T = if (T == f32) 105 else 700;
    var x = @select(T, given > splat(T, limit), splat(T, limit), given);
    x = @select(T, x < splat(T, -limit), splat(T, -limit), x);
    const magic: T = if (T == f32) 0x1.8p23 else 0x1.8p52;
    const shifted = simd.mul_add(x, splat(T, std.math.log2e), splat(T, magic));
    const n = shifted - splat(T, magic);
    // ln(2) in two parts, of which the first has zeros enough to make n times it exact.
    const high: T = if (T == f32) 0x1.62e4p-1 else 0x1.62e42fee00000p-1;
    const low: T = if (T == f32) 1.4286068203094172e-6 else 1.9082149292705877e-10;
    const r = simd.mul_add(n, splat(T, -low), simd.mul_add(n, splat(T, -high), x));
    const terms = comptime inverse_factorials(T, if (T == f32) 8 else 12);
    const p = polynomial(T, r, &terms);
    const k = @as(Bits(T), @bitCast(shifted)) -% @as(Bits(T), @bitCast(splat(T, magic)));
    const half = k >> @splat(1);
    return p * power_of_two(T, half) * power_of_two(T, k -% half);
}

/// Natural logarithm: exponent times ln(2) plus 2 atanh(s) of a mantissa in [sqrt(1/2), sqrt(2)).
inline fn log_of(comptime T: type, given: @Vector(lanes, T)) @Vector(lanes, T) {
    const B = Bits(T);
    const mantissa = std.math.floatMantissaBits(T);
    const tiny = given < splat(T, std.math.floatMin(T));
    const x = @select(T, tiny, given * splat(T, 1 << mantissa), given);
    const root: B = @bitCast(splat(T, std.math.sqrt1_2));
    const moved = @as(B, @bitCast(x)) -% root;
    const exponent: @Vector(lanes, T) = @floatFromInt(moved >> @splat(mantissa));
    const e = exponent - @select(T, tiny, splat(T, mantissa), splat(T, 0));
    const m: @Vector(lanes, T) =
        @bitCast((moved & @as(B, @splat((1 << mantissa) - 1))) +% root);
    const s = (m - splat(T, 1)) / (m + splat(T, 1));
    const terms = comptime odd_reciprocals(T, if (T == f32) 5 else 9);
    const series = s * polynomial(T, s * s, &terms);
    const high: T = if (T == f32) 0x1.62e4p-1 else std.math.ln2;
    const low: T = if (T == f32) 1.4286068203094172e-6 else 0;
    const y = simd.mul_add(e, splat(T, high), simd.mul_add(e, splat(T, low), series));
    const infinite = given == splat(T, std.math.inf(T));
    const positive = @select(T, given > splat(T, 0), y, splat(T, std.math.nan(T)));
    const zero = @select(T, given == splat(T, 0), splat(T, -std.math.inf(T)), positive);
    return @select(T, infinite, given, zero);
}

/// 2 / (2 k + 1) for k < n.
fn odd_reciprocals(comptime T: type, comptime n: usize) [n]T {
    var c: [n]T = undefined;
    for (&c, 0..) |*x, k| x.* = 2.0 / @as(T, 2 * k + 1);
    return c;
}

pub inline fn exp(x: F) F {
    return exp_of(f32, x);
}

pub inline fn log(x: F) F {
    return log_of(f32, x);
}

pub inline fn sigmoid(x: F) F {
    return simd.splat(1) / (simd.splat(1) + exp(-x));
}

/// By logarithms in f64: in f32 their error would grow with the exponent.
pub inline fn pow(base: F, exponent: F) F {
    const power = log_of(f64, @as(D, @floatCast(base))) * @as(D, @floatCast(exponent));
    return @floatCast(exp_of(f64, power));
}

/// sin(x + quarters * pi / 2); the multiple of pi / 2 is taken off in f64.
inline fn sine(x: F, comptime quarters: i64) F {
    const wide: D = @floatCast(x);
    const magic: D = @splat(0x1.8p52);
    const shifted = simd.mul_add(wide, @as(D, @splat(2.0 / std.math.pi)), magic);
    const n = shifted - magic;
    var r = simd.mul_add(n, @as(D, @splat(-std.math.pi / 2.0)), wide);
    r = simd.mul_add(n, @as(D, @splat(-6.123233995736766e-17)), r);
    const turns: Bits(f64) = @bitCast(shifted);
    const quadrant: I = @truncate(turns +% @as(Bits(f64), @splat(quarters)));
    const y: F = @floatCast(r);
    const s = y * y;
    const c = comptime inverse_factorials(f32, 10);
    const odd = y * polynomial(f32, s, &.{ c[1], -c[3], c[5], -c[7], c[9] });
    const even = polynomial(f32, s, &.{ c[0], -c[2], c[4], -c[6], c[8] });
    const one: I = @splat(1);
    const value = @select(f32, quadrant & one == one, even, odd);
    const sign = (quadrant & @as(I, @splat(2))) << @splat(30);
    return @bitCast(@as(I, @bitCast(value)) ^ sign);
}

pub inline fn sin(x: F) F {
    return sine(x, 0);
}

pub inline fn cos(x: F) F {
    return sine(x, 1);
}

/// a - b * floor(a / b).
pub inline fn modulo(a: F, b: F) F {
    return a - b * @floor(a / b);
}

/// Towards zero; saturates, and takes NaN to 0.
pub inline fn to_i(x: F) I {
    const limit = simd.splat(0x1p31);
    const inside = @select(f32, @abs(x) < limit, x, simd.splat(0));
    const whole: I = @intFromFloat(inside);
    const high = @select(i32, x >= limit, @as(I, @splat(std.math.maxInt(i32))), whole);
    return @select(i32, x <= -limit, @as(I, @splat(std.math.minInt(i32))), high);
}

/// Rounded down; 0 for a divisor of 0. f64 holds quotients exactly enough to distinguish them from
/// integers.
pub inline fn div_i(a: I, b: I) I {
    const none = b == @as(I, @splat(0));
    const divisor: D = @floatFromInt(@select(i32, none, @as(I, @splat(1)), b));
    const quotient = @floor(@as(D, @floatFromInt(a)) / divisor);
    const whole: @Vector(lanes, i64) = @intFromFloat(quotient);
    return @select(i32, none, @as(I, @splat(0)), @as(I, @truncate(whole)));
}

/// The rest of div_i; 0 for a divisor of 0.
pub inline fn mod_i(a: I, b: I) I {
    const rest = a -% b *% div_i(a, b);
    return @select(i32, b == @as(I, @splat(0)), @as(I, @splat(0)), rest);
}

fn expect_close(comptime f: fn (F) callconv(.@"inline") F, want: f64, x: f32, unit: f64) !void {
    try std.testing.expectApproxEqAbs(want, f(simd.splat(x))[0], unit);
}

test "functions are close" {
    var x: f32 = -100;
    while (x < 100) : (x += 0.0173) {
        const wide: f64 = x;
        const e = @exp(wide);
        if (x < 88) try expect_close(exp, e, x, 3e-7 * e + 1e-44);
        try expect_close(sin, @sin(wide), x, 1e-7);
        try expect_close(cos, @cos(wide), x, 1e-7);
        try expect_close(sigmoid, 1 / (1 + @exp(-wide)), x, 2e-7);
        const l = @log(@abs(wide));
        try expect_close(log, l, @abs(x), 2e-7 * @abs(l));
        const p = std.math.pow(f64, @abs(wide), 7.5);
        try std.testing.expectApproxEqRel(p, pow(simd.splat(@abs(x)), simd.splat(7.5))[0], 1e-7);
    }
    try std.testing.expectEqual(simd.inf, exp(simd.splat(89))[0]);
    try std.testing.expectEqual(0, exp(simd.splat(-simd.inf))[0]);
    try std.testing.expectEqual(-simd.inf, log(simd.splat(0))[0]);
    try std.testing.expectEqual(simd.inf, log(simd.splat(simd.inf))[0]);
    try std.testing.expectApproxEqRel(-103.27893, log(simd.splat(0x1p-149))[0], 1e-6);
    for ([_]f32{ std.math.nan(f32), -1 }) |bad|
        try std.testing.expect(std.math.isNan(log(simd.splat(bad))[0]));
    try std.testing.expect(std.math.isNan(exp(simd.splat(std.math.nan(f32)))[0]));
}

test "integers" {
    const low = std.math.minInt(i32);
    const cases = .{ .{ 7, 2 }, .{ -7, 2 }, .{ 7, -2 }, .{ -7, -2 }, .{ low, 1 }, .{ 5, low } };
    for (@as([6][2]i32, cases)) |c| {
        const a: I = @splat(c[0]);
        const b: I = @splat(c[1]);
        try std.testing.expectEqual(@divFloor(c[0], c[1]), div_i(a, b)[0]);
        const rest = c[0] -% c[1] *% @divFloor(c[0], c[1]);
        try std.testing.expectEqual(rest, mod_i(a, b)[0]);
    }
    try std.testing.expectEqual(low, div_i(@splat(low), @splat(-1))[0]);
    try std.testing.expectEqual(0, div_i(@splat(5), @splat(0))[0]);
    try std.testing.expectEqual(0, mod_i(@splat(5), @splat(0))[0]);
    try std.testing.expectEqual(-2, to_i(simd.splat(-2.9))[0]);
    try std.testing.expectEqual(std.math.maxInt(i32), to_i(simd.splat(0x1p31))[0]);
    try std.testing.expectEqual(low, to_i(simd.splat(-simd.inf))[0]);
    try std.testing.expectEqual(0, to_i(simd.splat(std.math.nan(f32)))[0]);
}
