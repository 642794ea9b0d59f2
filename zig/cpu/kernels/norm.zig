//! Norms of rows: sums in f32, in an order that follows from the row's length alone.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const items = pointers.items;

/// Rows that one grid index handles.
const norm_rows = 16;
/// Sums that a row's squares go to in turn.
const chains = 4;

pub const kernels = [_]Kernel{
    .of("rms_norm", params.fb_rms_norm_params, norm_rows, run),
    .of("rms_norm_short", params.fb_rms_norm_params, norm_rows, run),
};

/// Writes rows [16 * index, ...) of x / sqrt(mean(x^2) + eps) * weight.
fn run(p: *const params.fb_rms_norm_params, index: u32, scratch: [*]align(64) u8) i32 {
    const kind: Dtype = @fromBackingInt(@intCast(p.dtype));
    const dim: usize = @intCast(p.dim);
    const padded = std.mem.alignForward(usize, dim, chains * simd.lanes);
    const x: [*]f32 = @ptrCast(scratch);
    const weight = x + padded;
    const weight_kind: Dtype = @fromBackingInt(@intCast(p.weight_dtype));
    simd.widen_row(weight_kind, items(u8, p.weight), weight, dim, 1);
    @memset(weight[dim..padded], 0);
    const count: usize = @intCast(p.row_count);
    const first = @as(usize, index) * norm_rows;
    for (first..@max(first, @min(count, first + norm_rows))) |i| {
        const row: i64 = @intCast(i);
        const source = pointers.offset(p.x, row * p.x_stride, kind.bytes());
        const target = pointers.offset(p.out, row * p.out_stride, kind.bytes());
        simd.widen_row(kind, items(u8, source), x, dim, 1);
        // The row before may have left NaN there.
        @memset(x[dim..padded], 0);
        const mean = square_sum(x, padded) / @as(f32, @floatFromInt(dim));
        multiply(x, weight, padded, 1 / @sqrt(mean + p.eps));
        simd.narrow_row(kind, x, items(u8, target), dim, 1);
    }
    return 0;
}

fn square_sum(x: [*]const f32, padded: usize) f32 {
    var sums: [chains]F = @splat(@splat(0));
    var at: usize = 0;
    while (at < padded) : (at += chains * simd.lanes) {
        inline for (0..chains) |chain| {
            const part: F = x[at + chain * simd.lanes ..][0..simd.lanes].*;
            sums[chain] = simd.mul_add(part, part, sums[chain]);
        }
    }
    inline for (1..chains) |chain| sums[0] += sums[chain];
    return simd.sum(sums[0]);
}

fn multiply(x: [*]f32, weight: [*]const f32, padded: usize, factor: f32) void {
    var at: usize = 0;
    while (at < padded) : (at += simd.lanes) {
        const part: F = x[at..][0..simd.lanes].*;
        const by: F = weight[at..][0..simd.lanes].*;
        x[at..][0..simd.lanes].* = part * simd.splat(factor) * by;
    }
}
