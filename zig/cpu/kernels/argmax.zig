//! Where rows are largest.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const rows = @import("rows.zig");
const simd = @import("simd.zig");

const F = simd.F;
const lanes = simd.lanes;

/// Rows that one grid index handles, narrow ones more.
const argmax_rows = 1;
/// Elements that are looked at for one maximum.
const segment = 2048;

pub const kernels = [_]Kernel{
    .of("argmax_long", params.fb_argmax_params, argmax_rows, run),
    .of("argmax_short", params.fb_argmax_params, argmax_rows, run),
};

/// The rows of an item.
fn run(p: *const params.fb_argmax_params, index: u32, scratch: [*]align(64) u8) i32 {
    const dim: usize = @intCast(p.span.dim);
    const kind = rows.dtype_of(p.x.dtype);
    const first, const end = rows.of_item(&p.span, index, argmax_rows);
    for (first..@max(first, end)) |row| {
        const source = rows.address(&p.x, row);
        var best = -simd.inf;
        var place: ?usize = null;
        var at: usize = 0;
        while (at < dim) : (at += segment) {
            const count = @min(segment, dim - at);
            const x: [*]f32 = @ptrCast(scratch);
            rows.widen(kind, source + at * kind.bytes(), x, count);
            // Padding is 0, which may be larger than the row's numbers.
            @memset(x[count..rows.padded_of(count)], -simd.inf);
            const top = largest(x, rows.padded_of(count));
            if (top < best or (top == best and place != null)) continue;
            for (x[0..count], at..) |value, i| {
                if (value != top) continue;
                best = top;
                place = i;
                break;
            }
        }
        pointers.items(i32, p.out)[row] = @intCast(place orelse 0);
    }
    return 0;
}

/// Of a padded row; -inf if all are NaN.
fn largest(x: [*]const f32, padded: usize) f32 {
    var top = simd.splat(-simd.inf);
    var at: usize = 0;
    while (at < padded) : (at += lanes) {
        const part: F = x[at..][0..lanes].*;
        top = @select(f32, part > top, part, top);
    }
    var result = -simd.inf;
    inline for (0..lanes) |lane| result = @max(result, top[lane]);
    return result;
}
