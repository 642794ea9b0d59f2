//! A row of logits or probabilities: its weights, and where it is cut, as kernels/sampling/row.h
//! and select.h: elements stand in one order, by value and of equal ones the first first.
const std = @import("std");
const params = @import("params");
const scratch_bytes = @import("../../kernel.zig").scratch_bytes;
const simd = @import("../simd.zig");

const F = simd.F;
const U = simd.U;
const lanes = simd.lanes;

/// Longest row (src/ops/token-rows.ts): its numbers and as many indices lie in scratch memory.
const row_most = 500_000;
const index_bits = 24;
const index_mask = (1 << index_bits) - 1;
const digit_bits = 8;
const bin_count = 1 << digit_bits;
/// A weight of 1 as an integer: sums are the same in any order.
pub const weight_one: f32 = 0x1p45;

comptime {
    std.debug.assert(8 * (row_most + 4 * lanes) <= scratch_bytes);
}

/// Larger for larger numbers; -0 is 0.
pub inline fn keys_of(comptime n: usize, x: @Vector(n, f32)) @Vector(n, u32) {
    const V = @Vector(n, u32);
    const bits: V = @bitCast(x + @as(@Vector(n, f32), @splat(0)));
    const sign: @Vector(n, i32) = @bitCast(bits);
    const is_negative: V = @bitCast(sign >> @splat(31));
    return bits ^ (is_negative | @as(V, @splat(0x80000000)));
}

/// Larger for what comes first.
pub inline fn place_of(x: f32, index: usize) u64 {
    return @as(u64, keys_of(1, .{x})[0]) << index_bits | (index_mask - index);
}

pub inline fn index_of(place: u64) u32 {
    return @intCast(index_mask - (place & index_mask));
}

/// Weights of a row relative to its largest, which has 1.
pub const Weights = struct {
    largest: f32,
    scale: f32,
    /// So that the reciprocal of the largest is a number.
    lift: f32,
    is_probability: bool,

    pub fn of(row: Row, temperature: f32) Weights {
        const is_probability = row.is_probability;
        const lift: f32 = if (row.largest < 0x1p-100) 0x1p100 else 1;
        return .{
            .largest = row.largest,
            .scale = if (is_probability) 1 / (row.largest * lift) else simd.log2_e / temperature,
            .lift = lift,
            .is_probability = is_probability,
        };
    }

    pub inline fn each(self: Weights, comptime n: usize, x: @Vector(n, f32)) @Vector(n, f32) {
        const V = @Vector(n, f32);
        const scale: V = @splat(self.scale);
        const largest: V = @splat(self.largest);
        const less = if (self.is_probability)
            x * @as(V, @splat(self.lift)) * scale
        else
            simd.exp2((x - largest) * scale);
        return @select(f32, x == largest, @as(V, @splat(1)), less);
    }

    pub inline fn one(self: Weights, x: f32) f32 {
        return self.each(1, .{x})[0];
    }
};

pub inline fn integer(weight: f32) u64 {
    return @trunc(weight * weight_one + 0.5);
}

/// What a search reaches: so many elements, or this part of the sum of their weights.
pub const Goal = union(enum) { count: u64, part: f32 };

/// What is kept: from a place on, and what weighs enough.
pub const Kept = struct {
    last: u64 = 0,
    min_weight: f32 = 0,

    pub inline fn has(self: Kept, place: u64, weight: f32) bool {
        return place >= self.last and weight >= self.min_weight;
    }

    /// False if none of these vectors' elements is kept.
    pub inline fn some(self: Kept, x: F) bool {
        const last: U = @splat(@intCast(self.last >> index_bits));
        return self.last == 0 or @reduce(.Or, keys_of(lanes, x) >= last);
    }
};

const Bin = struct { count: u64 = 0, sum: u64 = 0 };

pub const Row = struct {
    /// Without NaN, and of probabilities nothing below 0; a whole number of vectors.
    x: [*]f32,
    indices: [*]u32,
    length: usize,
    padded: usize,
    is_probability: bool,
    largest: f32 = 0,
    /// The first of the largest.
    first: u32 = 0,
    status: i32 = 0,

    pub fn load(
        kind: simd.Dtype,
        source: [*]const u8,
        length: usize,
        is_probability: bool,
        scratch: [*]align(64) u8,
    ) Row {
        const padded = std.mem.alignForward(usize, length, 4 * lanes);
        const x: [*]f32 = @ptrCast(scratch);
        const indices: [*]u32 = @ptrCast(x + padded);
        var row: Row = .{
            .x = x,
            .indices = indices,
            .length = length,
            .padded = padded,
            .is_probability = is_probability,
        };
        simd.widen_row(kind, source, x, length, 1);
        @memset(x[length..padded], if (is_probability) 0 else -simd.inf);
        row.clean();
        return row;
    }

    /// Takes out NaN, and finds the largest.
    fn clean(row: *Row) void {
        const nothing: f32 = if (row.is_probability) 0 else -simd.inf;
        var largest = simd.splat(nothing);
        var odd: @Vector(lanes, bool) = @splat(false);
        var at: usize = 0;
        while (at < row.padded) : (at += lanes) {
            const x: F = row.x[at..][0..lanes].*;
            const is_good = if (row.is_probability) x >= simd.splat(0) else x == x;
            odd = odd | !is_good;
            const good = @select(f32, is_good, x, simd.splat(nothing));
            row.x[at..][0..lanes].* = good;
            largest = simd.max(largest, good);
        }
        row.largest = @reduce(.Max, largest);
        if (@reduce(.Or, odd)) row.status |= params.FB_SAMPLE_NAN;
        if (row.largest == nothing) row.status |= params.FB_SAMPLE_NO_MASS;
        row.first = row.first_of(row.largest);
    }

    fn first_of(row: Row, value: f32) u32 {
        var at: usize = 0;
        while (at < row.padded) : (at += lanes) {
            const x: F = row.x[at..][0..lanes].*;
            if (std.simd.firstTrue(x == simd.splat(value))) |lane| return @intCast(at + lane);
        }
        unreachable;
    }

    pub fn has_mass(row: Row) bool {
        return row.status & params.FB_SAMPLE_NO_MASS == 0;
    }

    /// The sum of the weights of what is kept.
    pub fn mass(row: Row, weights: Weights, kept: Kept) f32 {
        var sum: u64 = 0;
        var at: usize = 0;
        while (at < row.length) : (at += lanes) {
            const x: F = row.x[at..][0..lanes].*;
            if (!kept.some(x)) continue;
            const w: [lanes]f32 = weights.each(lanes, x);
            for (0..@min(lanes, row.length - at)) |lane|
                if (kept.has(place_of(row.x[at + lane], at + lane), w[lane])) {
                    sum += integer(w[lane]);
                };
        }
        return @as(f32, @floatFromInt(sum)) / weight_one;
    }

    /// The place at which the sum over what is kept reaches the goal; 0 if it does not. Leaves in
    /// `indices` nothing of use.
    pub fn find_cut(row: Row, weights: Weights, kept: Kept, goal: Goal) u64 {
        return switch (goal) {
            .count => |count| row.cut_by(false, weights, kept, .{ .count = count }),
            .part => |part| row.cut_by(true, weights, kept, .{ .part = part }),
        };
    }

    fn cut_by(row: Row, comptime weighted: bool, weights: Weights, kept: Kept, goal: Goal) u64 {
        var bins = row.first_bins(weighted, weights, kept);
        var total: u64 = 0;
        for (bins) |bin| total += if (weighted) bin.sum else bin.count;
        var target = switch (goal) {
            .count => |count| count,
            .part => |part| target_of(part, total),
        };
        if (target > total or total == 0) return 0;
        var shift: u6 = 32 + index_bits - digit_bits;
        var prefix: u64 = 0;
        var listed: usize = 0;
        while (true) : (shift -= digit_bits) {
            const found = find_bin(weighted, &bins, &target);
            const bin = bins[found];
            prefix = prefix << digit_bits | found;
            const sum = if (weighted) bin.sum else bin.count;
            // Alone in its bin, or the bin is wanted as a whole (a sum of weights may be reached
            // before its end, where weights are 0).
            if (bin.count == 1 or (!weighted and target == sum)) return prefix << shift;
            listed = if (shift == 32 + index_bits - digit_bits)
                row.list_digit(weighted, weights, kept, found)
            else
                row.keep_listed(listed, prefix, shift);
            bins = row.listed_bins(weighted, weights, listed, shift - digit_bits);
        }
    }

    /// By the highest digit, of all that is kept.
    fn first_bins(
        row: Row,
        comptime weighted: bool,
        weights: Weights,
        kept: Kept,
    ) [bin_count]Bin {
        if (!weighted and kept.last == 0 and kept.min_weight == 0) return row.count_all();
        var bins: [bin_count]Bin = @splat(.{});
        var at: usize = 0;
        while (at < row.length) : (at += lanes) {
            const x: F = row.x[at..][0..lanes].*;
            if (!kept.some(x)) continue;
            const w: [lanes]f32 = weights.each(lanes, x);
            const keys: [lanes]u32 = keys_of(lanes, x);
            for (0..@min(lanes, row.length - at)) |lane| {
                const place = @as(u64, keys[lane]) << index_bits | (index_mask - (at + lane));
                if (!kept.has(place, w[lane])) continue;
                const bin = &bins[keys[lane] >> 24];
                bin.count += 1;
                if (weighted) bin.sum += integer(w[lane]);
            }
        }
        return bins;
    }

    /// Counts by the highest digit; neighbours have bins of their own, so as not to wait.
    fn count_all(row: Row) [bin_count]Bin {
        var counts: [4][bin_count]u32 = @splat(@splat(0));
        var at: usize = 0;
        while (at + lanes <= row.length) : (at += lanes) {
            const digits: [lanes]u32 = keys_of(lanes, row.x[at..][0..lanes].*) >> @splat(24);
            inline for (0..lanes) |lane| counts[lane % 4][digits[lane]] += 1;
        }
        while (at < row.length) : (at += 1) counts[0][keys_of(1, .{row.x[at]})[0] >> 24] += 1;
        var bins: [bin_count]Bin = @splat(.{});
        for (&bins, 0..) |*bin, digit| {
            for (counts) |some| bin.count += some[digit];
        }
        return bins;
    }

    /// The indices of what is kept and has this highest digit, in order; how many there are.
    fn list_digit(
        row: Row,
        comptime weighted: bool,
        weights: Weights,
        kept: Kept,
        digit: u64,
    ) usize {
        var count: usize = 0;
        var at: usize = 0;
        while (at < row.length) : (at += lanes) {
            const x: F = row.x[at..][0..lanes].*;
            const is_of = keys_of(lanes, x) >> @splat(24) == @as(U, @splat(@intCast(digit)));
            if (!@reduce(.Or, is_of)) continue;
            const matches: [lanes]bool = is_of;
            const is_plain = !weighted and kept.min_weight == 0;
            const w: [lanes]f32 = if (is_plain) @splat(1) else weights.each(lanes, x);
            for (0..@min(lanes, row.length - at)) |lane| {
                const place = place_of(row.x[at + lane], at + lane);
                row.indices[count] = @intCast(at + lane);
                count += @intFromBool(matches[lane] and kept.has(place, w[lane]));
            }
        }
        return count;
    }

    /// Lists what stands at `last` or before it; how many these are.
    pub fn list_kept(row: Row, last: u64) usize {
        const kept: Kept = .{ .last = last };
        var count: usize = 0;
        var at: usize = 0;
        while (at < row.length) : (at += lanes) {
            if (!kept.some(row.x[at..][0..lanes].*)) continue;
            for (at..@min(at + lanes, row.length)) |index| {
                row.indices[count] = @intCast(index);
                count += @intFromBool(place_of(row.x[index], index) >= last);
            }
        }
        return count;
    }

    pub fn comes_before(row: Row, a: u32, b: u32) bool {
        return place_of(row.x[a], a) > place_of(row.x[b], b);
    }

    /// Of the listed indices those whose place begins with the prefix.
    fn keep_listed(row: Row, listed: usize, prefix: u64, shift: u6) usize {
        var count: usize = 0;
        for (row.indices[0..listed]) |index| {
            row.indices[count] = index;
            count += @intFromBool(place_of(row.x[index], index) >> shift == prefix);
        }
        return count;
    }

    fn listed_bins(
        row: Row,
        comptime weighted: bool,
        weights: Weights,
        listed: usize,
        shift: u6,
    ) [bin_count]Bin {
        var bins: [bin_count]Bin = @splat(.{});
        for (row.indices[0..listed]) |index| {
            const place = place_of(row.x[index], index);
            const bin = &bins[@intCast(place >> shift & (bin_count - 1))];
            bin.count += 1;
            if (weighted) bin.sum += integer(weights.one(row.x[index]));
        }
        return bins;
    }
};

/// The bin in which the sum from the highest on reaches the target, which becomes what is left.
fn find_bin(comptime weighted: bool, bins: *const [bin_count]Bin, target: *u64) u64 {
    var digit: usize = bin_count;
    while (digit > 0) {
        digit -= 1;
        const sum = if (weighted) bins[digit].sum else bins[digit].count;
        if (sum >= target.*) return digit;
        target.* -= sum;
    }
    unreachable;
}

/// At least 1, so that something is kept.
fn target_of(part: f32, total: u64) u64 {
    const wanted: u64 = @trunc(@as(f64, part) * @as(f64, @floatFromInt(total)));
    return @max(1, wanted);
}
