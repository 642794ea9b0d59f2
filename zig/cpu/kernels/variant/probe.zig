//! A variant's bytecode by itself, for tests: one section over a few rows and keys.
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const scratch_bytes = @import("../../kernel.zig").scratch_bytes;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const common = @import("../attention/common.zig");
const format = @import("program.zig");
const variants = @import("variant.zig");

const items = pointers.items;

pub const kernels = [_]Kernel{.of("variant_probe", params.fb_variant_probe_params, 1, run)};

const Scratch = extern struct {
    variant: variants.State,
    rows: common.Rows,
    x: [common.max_rows * common.row_stride]f32 align(64),
};

comptime {
    if (@sizeOf(Scratch) > scratch_bytes) @compileError("scratch is too small");
}

fn run(p: *const params.fb_variant_probe_params, _: u32, scratch: [*]align(64) u8) i32 {
    const s: *Scratch = @ptrCast(scratch);
    const counts = [_]i32{ p.row_count, p.key_count, p.dim };
    for (counts, [_]i32{ common.max_rows, common.span, common.max_dim }) |count, most|
        if (count < 1 or count > most) return variants.bad_program;
    const v = (variants.Variant.open(&p.variant, &s.variant, p.dim, p.dim) catch
        return variants.bad_program) orelse return variants.bad_program;
    set(p, &v, s);
    switch (p.section) {
        @backingInt(format.Section.logits) => pairs(p, &v, s),
        inline @backingInt(format.Section.query)...@backingInt(format.Section.output) => |section| {
            const of: format.Section = @fromBackingInt(section);
            const of_rows = of == .query or of == .output;
            const count: usize = @intCast(if (of_rows) p.row_count else p.key_count);
            const dim: usize = @intCast(p.dim);
            if (v.query_dim != dim or v.out_dim != dim) return variants.bad_program;
            const x = items(f32, p.x);
            for (0..count) |i| {
                const row = s.x[i * common.row_stride ..].ptr;
                @memcpy(row[0..dim], x + i * dim);
                if (of == .query) v.multiply(.query, i, row, dim);
                if (of == .output) v.multiply(.output, i, row, dim);
            }
            v.transform(of, 0, count, &s.x, common.row_stride, dim, null);
            for (0..count) |i| @memcpy(x + i * dim, s.x[i * common.row_stride ..][0..dim]);
        },
        else => return variants.bad_program,
    }
    return 0;
}

/// Takes the inputs of rows and keys.
fn set(p: *const params.fb_variant_probe_params, v: *const variants.Variant, s: *Scratch) void {
    const rows: usize = @intCast(p.row_count);
    const keys: usize = @intCast(p.key_count);
    const facts = items(i32, p.rows);
    for (0..rows) |i| v.set_row(i, &.{
        .position = facts[i],
        .token = facts[rows + i],
        .index = facts[2 * rows + i],
        .request = facts[3 * rows + i],
        .head = facts[4 * rows + i],
        .kv_head = facts[5 * rows + i],
        .queries = facts[6 * rows + i],
        .keys = facts[7 * rows + i],
        .alive = true,
    });
    @memset(s.rows.low[0..rows], 0);
    @memset(s.rows.high[0..rows], 0x7fffffff);
    v.set_rows(&s.rows.low, &s.rows.high, rows);
    @memcpy(s.variant.rows[@backingInt(format.Row.lse)][0..rows], facts + 8 * rows);
    v.set_keys(items(i32, p.keys), items(i32, p.keys) + keys, keys);
}

/// All pairs, in blocks as the attention kernels make them: [row][key] or [key][row].
fn pairs(p: *const params.fb_variant_probe_params, v: *const variants.Variant, s: *Scratch) void {
    const rows: usize = @intCast(p.row_count);
    const keys: usize = @intCast(p.key_count);
    const inside = p.keys_inside != 0;
    const groups = if (inside) rows else keys;
    const width = if (inside) keys else rows;
    const stride = (width + simd.lanes - 1) / simd.lanes * simd.lanes;
    const x = items(f32, p.x);
    for (0..rows) |i| {
        for (0..keys) |j| {
            const at = if (inside) i * stride + j else j * stride + i;
            s.x[at] = x[i * keys + j] * v.score_factor();
        }
    }
    const most = variants.most_groups(stride / simd.lanes);
    var group: usize = 0;
    while (group < groups) : (group += most) {
        const count = @min(most, groups - group);
        const b: variants.Block = if (inside)
            .{ .keys_inside = true, .row = group, .rows = count, .key = 0, .keys = keys }
        else
            .{ .keys_inside = false, .row = 0, .rows = rows, .key = group, .keys = count };
        const masked = p.masked != 0;
        const hides: variants.Hides = .{ .bounds = masked, .mask = masked, .bits = null };
        v.change(undefined, b, s.x[group * stride ..].ptr, stride, hides);
    }
    for (0..rows) |i| {
        for (0..keys) |j| x[i * keys + j] = s.x[if (inside) i * stride + j else j * stride + i];
    }
}
