//! Rows of operands as f32, with their scales.
const params = @import("params");
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");

const Dtype = simd.Dtype;
const Params = params.fb_matmul_params;

/// The inputs [k, k + count) of a row of the weight at `source`: whole groups, or up to the end.
pub fn widen_weight(
    comptime kind: Dtype,
    p: *const Params,
    row: usize,
    k: usize,
    source: [*]const u8,
    target: [*]f32,
    count: usize,
) void {
    const scales_at = row / size(p.scale_rows) * size(p.scale_stride);
    switch (kind) {
        .u8, .i8 => {
            const scales = pointers.items(f16, p.scales) + scales_at;
            const minimums: ?[*]const f16 =
                if (p.minimums == 0) null else pointers.items(f16, p.minimums) + scales_at;
            const widen = if (kind == .u8) widen_nibbles else widen_bytes;
            widen(scales, minimums, size(p.scale_inputs), k, source, target, count);
        },
        .f8e4m3, .f8e5m2 => {
            const scales = pointers.items(f32, p.scales) + scales_at;
            widen_scaled(kind, scales, size(p.scale_inputs), k, source, target, count);
        },
        else => simd.widen_row(kind, source, target, count, 1),
    }
}

/// The inputs [k, k + count) of a row of x at `source`.
pub fn widen_x(
    p: *const Params,
    row: usize,
    k: usize,
    source: [*]const u8,
    target: [*]f32,
    count: usize,
) void {
    const kind: Dtype = @fromBackingInt(@intCast(p.x_dtype));
    if (p.x_scales == 0) return simd.widen_row(kind, source, target, count, 1);
    const scales = pointers.items(f32, p.x_scales) + row * size(p.x_scale_stride);
    widen_scaled(kind, scales, size(p.x_scale_inputs), k, source, target, count);
}

fn widen_scaled(
    kind: Dtype,
    scales: [*]const f32,
    scale_inputs: usize,
    k: usize,
    source: [*]const u8,
    target: [*]f32,
    count: usize,
) void {
    var at: usize = 0;
    while (at < count) {
        const group = (k + at) / scale_inputs;
        const part = @min(count - at, (group + 1) * scale_inputs - (k + at));
        simd.widen_row(kind, source + at * kind.bytes(), target + at, part, scales[group]);
        at += part;
    }
}

/// Codes of a vector.
const half = 16;

fn widen_nibbles(
    scales: [*]const f16,
    minimums: ?[*]const f16,
    group: usize,
    k: usize,
    source: [*]const u8,
    target: [*]f32,
    count: usize,
) void {
    var at: usize = 0;
    while (at < count) : (at += 2 * half) {
        const bytes: @Vector(half, u8) = source[at / 2 ..][0..half].*;
        const low = bytes & @as(@Vector(half, u8), @splat(15));
        const high = bytes >> @splat(4);
        inline for (.{ low, high }, 0..) |codes, i| {
            const index = (k + at + half * i) / group;
            const scale: f32 = scales[index];
            const minimum: f32 = if (minimums) |all| all[index] else -8 * scale;
            target[at + half * i ..][0..half].* = scaled(codes, scale, minimum);
        }
    }
}

fn widen_bytes(
    scales: [*]const f16,
    minimums: ?[*]const f16,
    group: usize,
    k: usize,
    source: [*]const u8,
    target: [*]f32,
    count: usize,
) void {
    var at: usize = 0;
    while (at < count) : (at += half) {
        const codes: @Vector(half, i8) = @bitCast(@as(@Vector(half, u8), source[at..][0..half].*));
        const index = (k + at) / group;
        const minimum: f32 = if (minimums) |all| all[index] else 0;
        target[at..][0..half].* = scaled(codes, scales[index], minimum);
    }
}

inline fn scaled(codes: anytype, scale: f32, minimum: f32) @Vector(half, f32) {
    const wide: @Vector(half, i32) = codes;
    const numbers: @Vector(half, f32) = @floatFromInt(wide);
    return simd.mul_add(numbers, @as(@Vector(half, f32), @splat(scale)), @splat(minimum));
}

inline fn size(n: anytype) usize {
    return @intCast(n);
}
