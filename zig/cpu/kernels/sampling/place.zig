//! The candidates of ranks that share a vocabulary, in rows of all its tokens.
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");

const items = pointers.items;

/// A grid index has a row.
const place_elements = 1 << 30;

pub const kernels = [_]Kernel{
    .of("place_candidates", params.fb_place_params, place_elements, run),
};

/// Row `index`.
fn run(p: *const params.fb_place_params, index: u32, _: [*]align(64) u8) i32 {
    const kind: simd.Dtype = @fromBackingInt(@intCast(p.dtype));
    const row: usize = index;
    const out = pointers.offset(p.out, @as(i64, index) * p.out_stride, kind.bytes());
    const vocabulary: usize = @intCast(p.vocabulary);
    switch (kind.bytes()) {
        4 => place(u32, p, row, items(u32, out)[0..vocabulary]),
        else => place(u16, p, row, items(u16, out)[0..vocabulary]),
    }
    return 0;
}

fn place(comptime Word: type, p: *const params.fb_place_params, row: usize, out: []Word) void {
    var lowest: [4]u8 = undefined;
    simd.store_one(@fromBackingInt(@intCast(p.dtype)), &lowest, -simd.inf);
    @memset(out, @bitCast(lowest[0..@sizeOf(Word)].*));
    const k: usize = @intCast(p.k);
    for (0..@intCast(p.rank_count)) |rank| {
        const base: i64 = @intCast(rank);
        const indices = items(i32, pointers.offset(p.indices, base * p.rank_bytes, 1));
        const values = items(Word, pointers.offset(p.values, base * p.rank_bytes, 1));
        for (row * k..(row + 1) * k) |at| {
            const column = indices[at];
            if (column < 0 or column >= p.column_count) continue;
            const token = base * p.column_count + column;
            if (token < out.len) out[@intCast(token)] = values[at];
        }
    }
}
