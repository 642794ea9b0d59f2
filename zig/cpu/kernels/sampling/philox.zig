//! Random numbers by place, as kernels/common/philox.h: Philox 4x32 of ten rounds.
const std = @import("std");
const simd = @import("../simd.zig");

/// Numbers that one call makes: four for each lane's place.
pub const block = 4 * simd.lanes;

/// What a number is for: different ones never meet.
pub const Purpose = enum(u32) { draw_token = 0, accept_draft = 1, draw_rest = 2 };

pub const Philox = struct {
    key: u64,
    position: u64,
    purpose: Purpose,

    /// Numbers [4 * first, 4 * first + block).
    pub fn at(self: Philox, first: u32) @Vector(block, u32) {
        const places = @as(simd.U, @splat(first)) +% std.simd.iota(u32, simd.lanes);
        return std.simd.interlace(self.rounds(simd.lanes, places));
    }

    /// Number `index`.
    pub fn one(self: Philox, index: u32) u32 {
        const words = self.rounds(1, .{index / 4});
        return switch (index % 4) {
            inline 0...3 => |word| words[word][0],
            else => unreachable,
        };
    }

    fn rounds(self: Philox, comptime n: usize, places: @Vector(n, u32)) [4]@Vector(n, u32) {
        const W = @Vector(n, u64);
        const V = @Vector(n, u32);
        var x = places;
        var y: V = @splat(@backingInt(self.purpose));
        var z: V = @splat(@truncate(self.position));
        var w: V = @splat(@truncate(self.position >> 32));
        var low: u32 = @truncate(self.key);
        var high: u32 = @truncate(self.key >> 32);
        for (0..10) |_| {
            const a = @as(W, x) * @as(W, @splat(0xd2511f53));
            const b = @as(W, z) * @as(W, @splat(0xcd9e8d57));
            x = @as(V, @truncate(b >> @splat(32))) ^ y ^ @as(V, @splat(low));
            z = @as(V, @truncate(a >> @splat(32))) ^ w ^ @as(V, @splat(high));
            y = @truncate(b);
            w = @truncate(a);
            low +%= 0x9e3779b9;
            high +%= 0xbb67ae85;
        }
        return .{ x, y, z, w };
    }
};

/// In (0, 1), in steps of 2^-31 near 0 and never 1.
pub inline fn uniform(bits: anytype) @Vector(@typeInfo(@TypeOf(bits)).vector.len, f32) {
    const n = @typeInfo(@TypeOf(bits)).vector.len;
    const V = @Vector(n, f32);
    const half: @Vector(n, i32) = @bitCast(bits >> @splat(1));
    const wide: V = @floatFromInt(half);
    const v = simd.mul_add(wide, @as(V, @splat(0x1p-31)), @as(V, @splat(0x1p-32)));
    return @min(v, @as(V, @splat(0x1.fffffep-1)));
}

/// -log(1 - v) of v in (0, 1), relatively exact near 0. The logarithm is Cephes's logf.
pub fn exponential(v: f32) f32 {
    const rest: i32 = @bitCast(1 - v);
    const e = (rest - 0x3f3504f3) >> 23;
    const m: f32 = @bitCast(rest - e * (1 << 23));
    const f = if (e == 0) -v else m - 1;
    const square = f * f;
    var p: f32 = 7.0376836292e-2;
    inline for (.{
        -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    }) |c| p = fused(p, f, c);
    const tail = fused(p * f, square, -0.5 * square);
    return -fused(@floatFromInt(e), 0x1.62e43p-1, f + tail);
}

inline fn fused(a: f32, b: f32, c: f32) f32 {
    return simd.mul_add(@as(@Vector(1, f32), .{a}), .{b}, .{c})[0];
}

test "as the paper's known answers" {
    const philox: Philox = .{ .key = 0, .position = 0, .purpose = .draw_token };
    const words = philox.rounds(1, .{0});
    try std.testing.expectEqual(@as(u32, 0x6627e8d5), words[0][0]);
    try std.testing.expectEqual(@as(u32, 0xe169c58d), words[1][0]);
    try std.testing.expectEqual(@as(u32, 0xbc57ac4c), words[2][0]);
    try std.testing.expectEqual(@as(u32, 0x9b00dbd8), words[3][0]);
    const many: [block]u32 = philox.at(3);
    for (many, 12..) |word, index| try std.testing.expectEqual(philox.one(@intCast(index)), word);
}

test "exponential is close" {
    for ([_]f32{ 0x1p-32, 1e-6, 0.1, 0.25, 0.29, 0.3, 0.5, 0.75, 0.99, 0x1.fffffep-1 }) |v| {
        const exact = -std.math.log1p(-@as(f64, v));
        try std.testing.expectApproxEqRel(exact, @as(f64, exponential(v)), 3e-7);
    }
}
