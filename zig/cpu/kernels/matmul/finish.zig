//! The end of a product: sums become numbers, bias, activation, gate and residual are applied.
const params = @import("params");
const pointers = @import("../pointers.zig");
const activate = @import("../activate.zig").activate;
const simd = @import("../simd.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const Params = params.fb_matmul_params;

/// A block of out.
pub const Item = struct {
    row: usize,
    rows: usize,
    output: usize,
    outputs: usize,
    /// 2 where a weight has a gate and an up row for each output.
    parts: usize,
    expert: usize,

    /// The first row of the weight and its bias, of gates or of what goes through them.
    pub fn weight_row(item: Item, p: *const Params, part: usize) usize {
        const outputs: usize = @intCast(p.outputs);
        return (item.expert * item.parts + part) * outputs + item.output;
    }
};

/// Writes an item's outputs. Sums have those of the up rows from column most / 2 on, and `totals`,
/// which adds up those of a row and 16 columns.
pub fn finish(
    comptime most: usize,
    p: *const Params,
    item: Item,
    sums: anytype,
) void {
    var line: [most]f32 align(64) = undefined;
    var bias: [most]f32 align(64) = @splat(0);
    var other: [most]f32 align(64) = @splat(0);
    if (p.bias != 0) for (0..item.parts) |part| {
        const at: i64 = @intCast(item.weight_row(p, part));
        widen(p.bias, at, p.bias_dtype, bias[part * most / 2 ..].ptr, item.outputs);
    };
    for (0..item.rows) |r| {
        var c: usize = 0;
        while (c < most) : (c += 16)
            line[c..][0..16].* = sums.totals(r, c);
        const at: i64 = @intCast(item.output);
        const row: i64 = @intCast(item.row + r);
        if (p.residual != 0)
            widen(p.residual, row * p.residual_stride + at, p.residual_dtype, &other, item.outputs);
        var i: usize = 0;
        while (i < item.outputs) : (i += simd.lanes) {
            var y = activate(p.activation, vector(&line, i) + vector(&bias, i));
            if (item.parts == 2) y *= vector(&line, most / 2 + i) + vector(&bias, most / 2 + i);
            line[i..][0..simd.lanes].* = y + vector(&other, i);
        }
        const kind: Dtype = @fromBackingInt(@intCast(p.out_dtype));
        const target = pointers.offset(p.out, row * p.out_stride + at, kind.bytes());
        simd.narrow_row(kind, &line, pointers.items(u8, target), item.outputs, 1);
    }
}

inline fn vector(line: [*]const f32, at: usize) F {
    return line[at..][0..simd.lanes].*;
}

fn widen(base: u64, at: i64, dtype: i32, target: [*]f32, count: usize) void {
    const kind: Dtype = @fromBackingInt(@intCast(dtype));
    const source = pointers.offset(base, at, kind.bytes());
    simd.widen_row(kind, pointers.items(u8, source), target, count, 1);
}
