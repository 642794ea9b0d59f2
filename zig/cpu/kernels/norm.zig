//! Norms of rows: sums in f32, in an order that follows from the row's length alone.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const rows = @import("rows.zig");
const simd = @import("simd.zig");

const F = simd.F;

/// Rows that one grid index handles, narrow ones more.
const norm_rows = 16;

pub const kernels = [_]Kernel{
    .of("norm_long", params.fb_norm_params, norm_rows, run),
    .of("norm_short", params.fb_norm_params, norm_rows, run),
};

/// The rows of an item; x, the weight, the bias and the residual fill the scratch memory.
fn run(p: *const params.fb_norm_params, index: u32, scratch: [*]align(64) u8) i32 {
    const dim: usize = @intCast(p.span.dim);
    const padded = rows.padded_of(dim);
    const x: [*]f32 = @ptrCast(scratch);
    const weight = x + padded;
    const bias = weight + padded;
    const residual = bias + padded;
    const weight_kind = rows.dtype_of(p.weight_dtype);
    rows.widen(weight_kind, @intCast(p.weight), weight, dim);
    if (p.weight_offset != 0) rows.add(weight, padded, p.weight_offset);
    if (p.bias != 0) rows.widen(weight_kind, @intCast(p.bias), bias, dim);
    const first, const end = rows.of_item(&p.span, index, norm_rows);
    for (first..@max(first, end)) |row| {
        rows.widen(rows.dtype_of(p.x.dtype), rows.address(&p.x, row), x, dim);
        if (p.residual.address != 0) add_residual(&p.residual, row, x, residual, dim);
        normalize(p, x, weight, bias, dim);
        rows.finish(&p.scaling, &p.out, .{ .row = row, .target = row }, x, dim);
    }
    return 0;
}

/// x becomes the sum, as the residual keeps it.
fn add_residual(t: *const rows.Rows, row: usize, x: [*]f32, residual: [*]f32, dim: usize) void {
    const kind = rows.dtype_of(t.dtype);
    const place = rows.address(t, row);
    rows.widen(kind, place, residual, dim);
    var at: usize = 0;
    while (at < rows.padded_of(dim)) : (at += simd.lanes) {
        const a: F = x[at..][0..simd.lanes].*;
        const b: F = residual[at..][0..simd.lanes].*;
        x[at..][0..simd.lanes].* = a + b;
    }
    rows.narrow(kind, x, place, dim);
    if (kind != .f32) rows.widen(kind, place, x, dim);
}

fn normalize(
    p: *const params.fb_norm_params,
    x: [*]f32,
    weight: [*]const f32,
    bias: [*]const f32,
    dim: usize,
) void {
    const padded = rows.padded_of(dim);
    const count: f32 = @floatFromInt(dim);
    if (p.centered != 0) {
        const mean = rows.sum(x, padded, false) / count;
        rows.add(x, padded, -mean);
        // Padding is no part of the sum of squares.
        @memset(x[dim..padded], 0);
    }
    const factor = 1 / @sqrt(rows.sum(x, padded, true) / count + p.eps);
    switch (p.bias != 0) {
        inline else => |biased| weigh(biased, x, weight, bias, padded, factor),
    }
}

/// x * factor * weight, with the bias where there is one.
fn weigh(
    comptime biased: bool,
    x: [*]f32,
    weight: [*]const f32,
    bias: [*]const f32,
    padded: usize,
    factor: f32,
) void {
    var at: usize = 0;
    while (at < padded) : (at += simd.lanes) {
        const part: F = x[at..][0..simd.lanes].*;
        const by: F = weight[at..][0..simd.lanes].*;
        var y = part * simd.splat(factor) * by;
        if (biased) y += @as(F, bias[at..][0..simd.lanes].*);
        x[at..][0..simd.lanes].* = y;
    }
}
