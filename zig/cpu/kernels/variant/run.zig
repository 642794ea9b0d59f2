//! Runs bytecode of variants: an instruction takes whole registers, blocks of vectors, so that
//! finding the next one costs little.
const std = @import("std");
const simd = @import("../simd.zig");
const common = @import("../attention/common.zig");
const math = @import("math.zig");
const memory = @import("memory.zig");
const format = @import("program.zig");

const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const Op = format.Op;
const Instruction = format.Instruction;

/// Vectors of a register: one of the longest rows.
pub const register_vectors = common.max_dim / lanes;

/// A block of values, vector by vector: f32, or i32 and bool by their bits.
pub const Register = [register_vectors][lanes]f32;

/// What a variant holds while its programs run, in a thread's scratch.
pub const State = extern struct {
    rows: [format.row_words_max][common.max_rows]i32 align(64),
    keys: [format.key_words_max][common.span]i32 align(64),
    elements: [format.element_words_max][common.max_dim]i32 align(64),
    registers: [format.registers_max]Register align(64),
    line: [common.row_stride]f32 align(64),
    product: [common.row_stride]f32 align(64),
    /// Rows that are neither padding nor past an end known only here: their output stays 0.
    alive: [common.max_rows]bool,
};

/// Where the words of rows, keys or elements are in a block: from `first` on, one per group, one
/// per lane of each group, or the first for all.
pub const Place = struct { axis: enum { fixed, group, lane } = .fixed, first: usize = 0 };

/// The shape of a block: groups of vectors.
pub const Frame = struct {
    groups: usize = 1,
    vectors: usize,
    /// Lanes of a group that hold elements of a vector.
    elements: usize = 0,
    rows: Place = .{},
    keys: Place = .{},
    words: Place = .{}, // of elements
};

/// Runs a section over one block.
pub fn run(p: *const format.Program, s: *State, section: format.Section, f: *const Frame) void {
    const n = f.groups * f.vectors;
    for (p.section(section)) |*i| {
        const to = &s.registers[i.to];
        switch (i.op) {
            .constant => fill(to, n, @bitCast(i.a)),
            .scalar => fill(to, n, p.given.scalars[i.a]),
            .row => spread(f, f.rows, &s.rows[i.a], to),
            .key => spread(f, f.keys, &s.keys[i.a], to),
            .element => spread(f, f.words, &s.elements[i.a], to),
            .keep => keep(s, section, i, n),
            .load => memory.load(p.tensor(i.a), s, .{ i.b, i.c, i.d, i.e }, to[0..n]),
            .store => {
                const indices = .{ i.c, i.d, i.e, i.f };
                memory.store(p.tensor(i.b), s, indices, s.registers[i.a][0..n]);
            },
            .reduce_sum => reduce(.sum, f, &s.registers[i.a], to),
            .reduce_max => reduce(.max, f, &s.registers[i.a], to),
            .partner => partner(f, &s.registers[i.a], to, @bitCast(i.b)),
            inline .exp, .log, .tanh, .sigmoid, .sqrt, .rsqrt, .sin, .cos => |op| {
                if (f.elements == 0) lanewise(op, s, i, to, n);
                if (f.elements > 0) sparingly(op, &s.registers[i.a], to, n);
            },
            inline else => |op| lanewise(op, s, i, to, n),
        }
    }
}

inline fn lanewise(
    comptime op: Op,
    s: *State,
    i: *const Instruction,
    to: *Register,
    n: usize,
) void {
    const a = &s.registers[i.a];
    const b = if (comptime op.arity() > 1) &s.registers[i.b] else a;
    const c = if (comptime op.arity() > 2) &s.registers[i.c] else a;
    for (0..n) |v| to[v] = compute(op, a[v], b[v], c[v]);
}

/// For vectors: what was made of a sum over one is the same in all of its lanes, and slow functions
/// of that are computed once.
fn sparingly(comptime op: Op, a: *const Register, to: *Register, n: usize) void {
    var last: F = a[0];
    var y = compute(op, last, last, last);
    for (0..n) |v| {
        const x: F = a[v];
        if (@reduce(.Or, int(x) != int(last))) {
            last = x;
            y = compute(op, x, x, x);
        }
        to[v] = y;
    }
}

inline fn int(x: F) I {
    return @bitCast(x);
}

inline fn truth(x: @Vector(lanes, bool)) F {
    return @bitCast(@select(i32, x, @as(I, @splat(-1)), @as(I, @splat(0))));
}

inline fn compute(comptime op: Op, a: F, b: F, c: F) F {
    return switch (op) {
        .copy => a,
        .mul_add => simd.mul_add(a, b, c),
        .add_f => a + b,
        .sub_f => a - b,
        .mul_f => a * b,
        .div_f => a / b,
        .mod_f => math.modulo(a, b),
        .min_f => simd.minimum(a, b),
        .max_f => simd.maximum(a, b),
        .pow => math.pow(a, b),
        .neg_f => -a,
        .abs_f => @abs(a),
        .floor => @floor(a),
        .exp => math.exp(a),
        .log => math.log(a),
        .tanh => simd.tanh(a),
        .sigmoid => math.sigmoid(a),
        .sqrt => @sqrt(a),
        .rsqrt => simd.splat(1) / @sqrt(a),
        .sin => math.sin(a),
        .cos => math.cos(a),
        .to_f => @floatFromInt(int(a)),
        .to_i => @bitCast(math.to_i(a)),
        .lt_f => truth(a < b),
        .le_f => truth(a <= b),
        .eq_f => truth(a == b),
        .ne_f => truth(a != b),
        .select => @select(f32, int(a) != @as(I, @splat(0)), b, c),
        else => @bitCast(compute_i(op, int(a), int(b))),
    };
}

inline fn compute_i(comptime op: Op, a: I, b: I) I {
    const Count = @Vector(lanes, u5);
    const count: Count = @intCast(b & @as(I, @splat(31)));
    return switch (op) {
        .add_i => a +% b,
        .sub_i => a -% b,
        .mul_i => a *% b,
        .div_i => math.div_i(a, b),
        .mod_i => math.mod_i(a, b),
        .min_i => @min(a, b),
        .max_i => @max(a, b),
        .neg_i => -%a,
        .abs_i => @select(i32, a < @as(I, @splat(0)), -%a, a),
        .lt_i => int(truth(a < b)),
        .le_i => int(truth(a <= b)),
        .eq_i => int(truth(a == b)),
        .ne_i => int(truth(a != b)),
        .@"and" => a & b,
        .@"or" => a | b,
        .xor => a ^ b,
        .not => ~a,
        .shl => a << count,
        .shr => a >> count,
        else => comptime unreachable,
    };
}

fn fill(to: *Register, n: usize, bits: i32) void {
    const x: F = @bitCast(@as(I, @splat(bits)));
    for (to[0..n]) |*v| v.* = x;
}

/// Brings words to where a block wants them.
fn spread(f: *const Frame, place: Place, words: [*]const i32, to: *Register) void {
    const from = words + place.first;
    switch (place.axis) {
        .fixed => fill(to, f.groups * f.vectors, from[0]),
        .group => for (0..f.groups) |g| {
            const x: F = @bitCast(@as(I, @splat(from[g])));
            for (to[g * f.vectors ..][0..f.vectors]) |*v| v.* = x;
        },
        .lane => for (0..f.groups) |g| {
            for (to[g * f.vectors ..][0..f.vectors], 0..) |*v, c|
                v.* = @bitCast(@as(I, from[c * lanes ..][0..lanes].*));
        },
    }
}

fn keep(s: *State, section: format.Section, i: *const Instruction, n: usize) void {
    const words: [*]i32 = switch (section) {
        .rows => &s.rows[i.to],
        .keys => &s.keys[i.to],
        else => &s.elements[i.to],
    };
    for (0..n) |v| words[v * lanes ..][0..lanes].* = int(s.registers[i.a][v]);
}

/// Every lane of a group becomes the sum or maximum of its elements.
fn reduce(
    comptime kind: enum { sum, max },
    f: *const Frame,
    a: *const Register,
    to: *Register,
) void {
    const neutral: F = @splat(if (kind == .sum) 0 else -simd.inf);
    const whole = f.elements / lanes;
    const rest: I = @splat(@intCast(f.elements % lanes));
    const lane = std.simd.iota(i32, lanes);
    for (0..f.groups) |g| {
        const from = a[g * f.vectors ..];
        var total = neutral;
        for (0..f.vectors) |c| {
            const given: F = from[c];
            const x = if (c < whole) given else @select(f32, lane < rest, given, neutral);
            if (c > whole) break;
            total = if (kind == .sum) total + x else simd.maximum(total, x);
        }
        const value = if (kind == .sum) simd.sum(total) else greatest(total);
        for (to[g * f.vectors ..][0..f.vectors]) |*v| v.* = simd.splat(value);
    }
}

/// The greatest lane; NaN if one is.
fn greatest(x: F) f32 {
    return if (@reduce(.Or, x != x)) std.math.nan(f32) else @reduce(.Max, x);
}

/// Elements change places with the other half of those that take part, or with their neighbours.
fn partner(f: *const Frame, a: *const Register, to: *Register, pairing: i32) void {
    const width = f.vectors * lanes;
    const count = @min(@abs(pairing), f.elements) & ~@as(usize, 1);
    const half = if (pairing < 0) 1 else count / 2;
    const source: [*]const f32 = @ptrCast(a);
    const target: [*]f32 = @ptrCast(to);
    for (0..f.groups) |g| {
        const from = source[g * width ..][0..width];
        const out = target[g * width ..][0..width];
        @memcpy(out[count..], from[count..]);
        if (pairing < 0) {
            for (0..half * count) |e| out[e] = from[e ^ 1];
        } else {
            @memcpy(out[0..half], from[half..count]);
            @memcpy(out[half..count], from[0..half]);
        }
    }
}
