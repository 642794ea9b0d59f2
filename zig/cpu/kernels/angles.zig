//! Angles of rotary embedding at any position, as in kernels/common/angles.h: pairs turn by so many
//! 2^-64 of a whole turn per position, and products with positions wrap around by themselves.
const simd = @import("simd.zig");
const items = @import("pointers.zig").items;

const lanes = simd.lanes;
const F = simd.F;
const I = simd.I;

pub const Angles = struct { cos: F, sin: F };

/// Angles of pairs [first, first + lanes), each at its place; `rates`: int32 [pair, 2], turns per
/// position in 2^-32 and 2^-64, with whole vectors of pairs. Within 2e-7.
pub inline fn at(places: I, rates: u64, first: usize) Angles {
    const Wide = @Vector(lanes, i64);
    const both: @Vector(2 * lanes, i32) = items(i32, rates)[2 * first ..][0 .. 2 * lanes].*;
    const high: I, const low: I = .{ strided(both, 0), strided(both, 1) };
    const carried: Wide = (@as(Wide, low) * @as(Wide, places)) >> @splat(32);
    return of_turn(places *% high +% @as(I, @truncate(carried)));
}

fn strided(both: @Vector(2 * lanes, i32), comptime first: i32) I {
    comptime var mask: [lanes]i32 = undefined;
    inline for (&mask, 0..) |*m, i| m.* = 2 * i + first;
    return @shuffle(i32, both, undefined, mask);
}

/// Cosines and sines of turns in 2^-32: of the nearest quarter, and of the eighth at most that is
/// left, by the polynomials of Cephes (sinf, cosf).
inline fn of_turn(turn: I) Angles {
    const quarter = (turn +% @as(I, @splat(1 << 29))) >> @splat(30);
    const rest: F = @floatFromInt(turn -% (quarter << @splat(30)));
    const x = rest * simd.splat(1.4629180792671596e-9); // 2 pi / 2^32
    const xx = x * x;
    var s = simd.splat(-1.9515295891e-4);
    s = simd.mul_add(s, xx, simd.splat(8.3321608736e-3));
    s = simd.mul_add(s, xx, simd.splat(-1.6666654611e-1));
    s = simd.mul_add(s * xx, x, x);
    var c = simd.splat(2.443315711809948e-5);
    c = simd.mul_add(c, xx, simd.splat(-1.388731625493765e-3));
    c = simd.mul_add(c, xx, simd.splat(4.166664568298827e-2));
    c = simd.mul_add(c, xx * xx, simd.mul_add(xx, simd.splat(-0.5), simd.splat(1)));
    const odd = (quarter & @as(I, @splat(1))) != @as(I, @splat(0));
    return .{
        .cos = negated(@select(f32, odd, s, c), quarter +% @as(I, @splat(1))),
        .sin = negated(@select(f32, odd, c, s), quarter),
    };
}

/// Minus x in the second half of a turn of quarters.
inline fn negated(x: F, quarter: I) F {
    const sign = (quarter & @as(I, @splat(2))) << @splat(30);
    return @bitCast(@as(I, @bitCast(x)) ^ sign);
}
