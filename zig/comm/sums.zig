//! Sums of 16-bit floats for MPI, which has no such types: each addition rounds once.
const std = @import("std");

/// What MPI calls: target[i] += source[i].
pub const Function = *const fn (
    source: *const anyopaque,
    target: *anyopaque,
    count: *const c_int,
    dtype: *const anyopaque,
) callconv(.c) void;

pub const add_f16: Function = adder(widen_f16, round_f16);
pub const add_bf16: Function = adder(widen_bf16, round_bf16);

fn adder(comptime widen: fn (u16) f32, comptime round: fn (f32) u16) Function {
    return struct {
        fn add(
            source: *const anyopaque,
            target: *anyopaque,
            count: *const c_int,
            _: *const anyopaque,
        ) callconv(.c) void {
            const length: usize = @intCast(count.*);
            const from: [*]const u16 = @ptrCast(@alignCast(source));
            const to: [*]u16 = @ptrCast(@alignCast(target));
            for (from[0..length], to[0..length]) |x, *y| y.* = round(widen(x) + widen(y.*));
        }
    }.add;
}

fn widen_f16(bits: u16) f32 {
    return @as(f16, @bitCast(bits));
}

fn round_f16(value: f32) u16 {
    return @bitCast(@as(f16, @floatCast(value)));
}

fn widen_bf16(bits: u16) f32 {
    return @bitCast(@as(u32, bits) << 16);
}

/// To nearest, ties to even; NaN stays NaN.
fn round_bf16(value: f32) u16 {
    const bits: u32 = @bitCast(value);
    if (value != value) return @intCast((bits >> 16) | 0x40);
    return @intCast((bits +% 0x7fff +% ((bits >> 16) & 1)) >> 16);
}

test "sums of 16-bit floats round to nearest even" {
    const ones = [_]u16{ 0x3f80, 0x3f80, 0x7fc0 };
    var sum = [_]u16{ 0x3f80, 0x3b80, 0x3f80 };
    const count: c_int = 3;
    add_bf16(&ones, &sum, &count, &count);
    // 1 + 2^-8 lies between 1 and 1 + 2^-7: even wins.
    try std.testing.expectEqual([_]u16{ 0x4000, 0x3f80, 0x7fc0 }, sum);
    const halves = [_]u16{ 0x3c00, 0x3800, 0x0001 };
    var other = [_]u16{ 0x3c00, 0x3800, 0x0001 };
    add_f16(&halves, &other, &count, &count);
    try std.testing.expectEqual([_]u16{ 0x4000, 0x3c00, 0x0002 }, other);
}
