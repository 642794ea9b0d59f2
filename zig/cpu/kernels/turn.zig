//! Rotation of the pairs of a row.
const params = @import("params");
const angles = @import("angles.zig");
const items = @import("pointers.zig").items;
const simd = @import("simd.zig");

const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;

/// Most pairs of a head.
pub const pairs_most = 512;

/// Turns `count` pairs from `first` on, at most a vector, of a row of so many pairs.
pub inline fn vector(
    x: [*]f32,
    pairs: usize,
    first: usize,
    interleaved: bool,
    cos: F,
    sin: F,
) void {
    if (!interleaved and first + lanes <= pairs) {
        const u: F = x[first..][0..lanes].*;
        const v: F = x[first + pairs ..][0..lanes].*;
        x[first..][0..lanes].* = u * cos - v * sin;
        x[first + pairs ..][0..lanes].* = u * sin + v * cos;
        return;
    }
    const c: [lanes]f32 = cos;
    const s: [lanes]f32 = sin;
    for (0..@min(lanes, pairs - first)) |i| {
        const a = if (interleaved) 2 * (first + i) else first + i;
        const b = if (interleaved) a + 1 else a + pairs;
        const u = x[a];
        const v = x[b];
        x[a] = u * c[i] - v * s[i];
        x[b] = u * s[i] + v * c[i];
    }
}

/// Cosines and sines of a token's pairs, for all its heads.
pub const Angles = struct {
    cos: [pairs_most]f32 align(64),
    sin: [pairs_most]f32 align(64),
    pairs: usize,
    interleaved: bool,
    token: usize,

    pub fn begin(self: *Angles) void {
        self.token = @import("std").math.maxInt(usize);
    }

    /// Finds those of a token, unless it was the last one asked for.
    pub fn at(self: *Angles, p: *const params.fb_turn_params, token: usize) void {
        if (self.token == token) return;
        self.token = token;
        self.pairs = @intCast(@divFloor(p.dim, 2));
        self.interleaved = p.interleaved != 0;
        const factor = simd.splat(p.factor);
        var first: usize = 0;
        while (first < self.pairs) : (first += lanes) {
            const angle = angles.at(positions_of(p, token, first), p.rates, first);
            self.cos[first..][0..lanes].* = angle.cos * factor;
            self.sin[first..][0..lanes].* = angle.sin * factor;
        }
    }

    /// Turns a row that begins with its first turning element.
    pub fn turn(self: *const Angles, x: [*]f32) void {
        var first: usize = 0;
        while (first < self.pairs) : (first += lanes) {
            const cos: F = self.cos[first..][0..lanes].*;
            const sin: F = self.sin[first..][0..lanes].*;
            vector(x, self.pairs, first, self.interleaved, cos, sin);
        }
    }
};

/// Positions of pairs [first, first + lanes) of a token.
fn positions_of(p: *const params.fb_turn_params, token: usize, first: usize) I {
    const positions = items(i32, p.positions) + token;
    if (p.axes == 0) return @splat(positions[0]);
    var each: [lanes]i32 = undefined;
    const axes: [lanes]i32 = items(i32, p.axes)[first..][0..lanes].*;
    for (&each, axes) |*position, axis|
        position.* = positions[@intCast(@as(i64, axis) * p.axis_stride)];
    return each;
}
