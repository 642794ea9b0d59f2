//! Rotary embedding of new tokens: through f32, rounded once.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");
const turn = @import("turn.zig");

const Dtype = simd.Dtype;
const items = pointers.items;

/// Lanes that one item of the grid covers; a head has head_lanes of them.
const item_lanes = 1024;

pub const kernels = [_]Kernel{
    .of("apply_rope", params.fb_rope_params, item_lanes, run),
};

/// Turns lanes [1024 * index, ...) of queries and keys.
fn run(p: *const params.fb_rope_params, index: u32, scratch: [*]align(64) u8) i32 {
    const angles: *turn.Angles = @ptrCast(scratch);
    const x: [*]f32 = @ptrCast(@alignCast(scratch + @sizeOf(turn.Angles)));
    const queries: usize = @intCast(p.heads[0].count);
    const heads = queries + @as(usize, @intCast(p.heads[1].count));
    const tokens: usize = @intCast(p.token_count);
    const rows = item_lanes / @as(usize, @intCast(p.head_lanes));
    const first = index * rows;
    angles.begin();
    for (first..@min(first + rows, @max(first, tokens * heads))) |row| {
        const token = row / heads;
        const head = row % heads;
        angles.at(&p.turn, token);
        if (head < queries) turn_head(p, &p.heads[0], token, head, angles, x) //
        else turn_head(p, &p.heads[1], token, head - queries, angles, x);
    }
    return 0;
}

fn turn_head(
    p: *const params.fb_rope_params,
    heads: *const params.fb_heads,
    token: usize,
    head: usize,
    angles: *const turn.Angles,
    x: [*]f32,
) void {
    const kind: Dtype = @fromBackingInt(@intCast(heads.dtype));
    const dim: usize = @intCast(p.turn.dim);
    const element = @as(i64, @intCast(token)) * heads.stride_token +
        @as(i64, @intCast(head)) * heads.stride_head + p.turn.first;
    const row = items(u8, pointers.offset(heads.data, element, kind.bytes()));
    simd.widen_row(kind, row, x, dim, 1);
    angles.turn(x);
    simd.narrow_row(kind, x, row, dim, 1);
}
