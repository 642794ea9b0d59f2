//! Loads from and stores to the tensors of a variant.
const std = @import("std");
const simd = @import("../simd.zig");
const pointers = @import("../pointers.zig");
const format = @import("program.zig");
const State = @import("run.zig").State;

const Dtype = simd.Dtype;
const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
/// Elements past the first of a tensor, which all lie within 2 ** 31 of it.
const Offsets = I;

/// out = the elements at the indices, each brought within the tensor.
pub fn load(t: format.Tensor, s: *const State, indices: [4]u32, out: [][lanes]f32) void {
    switch (t.kind) {
        .i8, .i64 => unreachable,
        inline else => |kind| for (out, 0..) |*x, v| {
            var at: Offsets = @splat(0);
            for (0..t.axes) |axis| at +%= offsets(t, axis, index(s, indices[axis], v));
            x.* = gather(kind, t.data, at);
        },
    }
}

/// Writes values where the row sees the key and all indices lie within the tensor.
pub fn store(t: format.Tensor, s: *const State, indices: [4]u32, values: []const [lanes]f32) void {
    for (values, 0..) |x, v| {
        var at: Offsets = @splat(0);
        var writes = index(s, format.visible_register, v);
        for (0..t.axes) |axis| {
            const i = index(s, indices[axis], v);
            const last: I = @splat(t.sizes[axis] - 1);
            const none: I = @splat(0);
            writes = @select(i32, i < none, none, @select(i32, i > last, none, writes));
            at +%= offsets(t, axis, i);
        }
        scatter(t, at, x, writes);
    }
}

inline fn index(s: *const State, register: u32, v: usize) I {
    return @bitCast(@as(F, s.registers[register][v]));
}

inline fn offsets(t: format.Tensor, axis: usize, given: I) Offsets {
    const last: I = @splat(t.sizes[axis] - 1);
    const within = @max(@as(I, @splat(0)), @min(last, given));
    return within *% @as(Offsets, @splat(t.strides[axis]));
}

/// Neighbours come as one vector, and an element for all lanes is read once.
inline fn gather(comptime kind: Dtype, data: u64, at: Offsets) F {
    const first: [*]const u8 = element(data, at[0], kind);
    const steps = at -% @as(Offsets, @splat(at[0]));
    if (@reduce(.And, steps == std.simd.iota(i32, lanes))) return read(kind, lanes, first);
    if (@reduce(.And, steps == @as(Offsets, @splat(0))))
        return @splat(read(kind, 1, first)[0]);
    var out: [lanes]f32 = undefined;
    const places: [lanes]i32 = at;
    for (&out, places) |*x, place| x.* = read(kind, 1, element(data, place, kind))[0];
    return out;
}

inline fn element(data: u64, at: i32, kind: Dtype) [*]u8 {
    return pointers.items(u8, pointers.offset(data, at, kind.bytes()));
}

/// n elements: floating-point ones as f32, others as the bits of i32.
inline fn read(comptime kind: Dtype, comptime n: usize, from: [*]const u8) @Vector(n, f32) {
    switch (kind) {
        .f32, .i32 => return simd.load(.f32, n, from),
        .u8, .bool => {
            const bytes: @Vector(n, u8) = @as(*align(1) const @Vector(n, u8), @ptrCast(from)).*;
            return @bitCast(@as(@Vector(n, u32), bytes));
        },
        else => return simd.load(kind, n, from),
    }
}

fn scatter(t: format.Tensor, at: Offsets, values: F, writes: I) void {
    const places: [lanes]i32 = at;
    const xs: [lanes]f32 = values;
    const masks: [lanes]i32 = writes;
    for (xs, places, masks) |x, place, mask| {
        if (mask == 0) continue;
        const target = element(t.data, place, t.kind);
        const bits: u32 = @bitCast(x);
        switch (t.kind) {
            .i32 => @as(*align(1) u32, @ptrCast(target)).* = bits,
            .u8 => target[0] = @truncate(bits),
            .bool => target[0] = @intFromBool(bits != 0),
            else => simd.store_one(t.kind, target, x),
        }
    }
}
