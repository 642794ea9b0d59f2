//! Matrices in few bits, with a scale for each block.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const rows = @import("rows.zig");
const simd = @import("simd.zig");

/// Rows that one grid index handles, narrow ones more.
const quantize_rows = 4;
/// Elements that are worked on at once, where each has a scale.
const segment = 2048;

pub const kernels = [_]Kernel{
    .of("quantize_long", params.fb_quantize_params, quantize_rows, run),
    .of("quantize_short", params.fb_quantize_params, quantize_rows, run),
};

/// The rows of an item, a block of each after the other.
fn run(p: *const params.fb_quantize_params, index: u32, scratch: [*]align(64) u8) i32 {
    const dim: usize = @intCast(p.span.dim);
    const wide: usize = @intCast(p.block_columns);
    const first, const end = rows.of_item(&p.span, index, quantize_rows);
    for (first..@max(first, end)) |row| {
        const block_row = row / @as(usize, @intCast(p.block_rows));
        const scales = pointers.items(f32, p.scales) +
            block_row * @as(usize, @intCast(p.column_blocks));
        const most = if (wide == 1) segment else if (p.mode == params.FB_QUANTIZE_GROUPS or
            p.mode == params.FB_BLOCK_SCALES) wide else @min(wide, segment);
        var at: usize = 0;
        while (at < dim) : (at += most) {
            const count = @min(most, dim - at);
            part(p, row, at, scales + at / wide, @ptrCast(scratch), count);
        }
    }
    return 0;
}

/// Elements [at, at + count) of a row: of one block, or each of its own.
fn part(
    p: *const params.fb_quantize_params,
    row: usize,
    at: usize,
    scales: [*]f32,
    x: [*]f32,
    count: usize,
) void {
    const kind = rows.dtype_of(p.x.dtype);
    const out = rows.dtype_of(p.out.dtype);
    const padded = rows.padded_of(count);
    rows.widen(kind, rows.address(&p.x, row) + at * kind.bytes(), x, count);
    switch (p.mode) {
        params.FB_BLOCK_SCALES => {
            if (p.block_columns > 1) {
                raise(&scales[0], rows.scale_of(rows.most_of(x, padded), out));
            } else {
                for (0..count) |i| raise(&scales[i], rows.scale_of(@abs(x[i]), out));
            }
            return;
        },
        params.FB_QUANTIZE_GROUPS => scales[0] = rows.scale_of(rows.most_of(x, padded), out),
        else => {},
    }
    const restores = p.mode == params.FB_DEQUANTIZE;
    if (p.block_columns == 1) {
        for (0..count) |i| x[i] *= if (restores) scales[i] else 1 / scales[i];
    } else {
        rows.multiply(x, padded, if (restores) scales[0] else 1 / scales[0]);
    }
    rows.narrow(out, x, rows.address(&p.out, row) + at * out.bytes(), count);
}

/// A scale is at least this one from here on; other threads may be raising it. Positive numbers
/// rise with their bits, and NaN is above all.
fn raise(scale: *f32, least: f32) void {
    const bits: u32 = @bitCast(@abs(least));
    const place: *u32 = @ptrCast(scale);
    if (@atomicLoad(u32, place, .monotonic) >= bits) return;
    _ = @atomicRmw(u32, place, .Max, bits, .monotonic);
}
