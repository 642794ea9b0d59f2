//! Merge of the partial states of rows that a plan split.
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const Sum = @import("../states.zig").Sum;
const variants = @import("../variant/variant.zig");
const common = @import("common.zig");

const Dtype = simd.Dtype;
const items = pointers.items;

pub const kernels = [_]Kernel{.of("attention_merge", common.Params, 1, run)};

const Scratch = extern struct {
    values: [common.max_dim]f32 align(64),
    variant: variants.State,
};

/// Merges the partial states of merge record `index` into the output.
fn run(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.merge_count) return 0;
    const m = &items(params.fb_merge_record, p.merges)[index];
    const dim: usize = @intCast(p.value_dim);
    const s: *Scratch = @ptrCast(scratch);
    const variant = variants.Variant.open(&p.variant, &s.variant, p.key_dim, p.value_dim) catch
        return variants.bad_program;
    const weighs = if (variant) |*v| v.weighs() else true;
    var sum: Sum = .{ .values = &s.values, .dim = dim, .weighs = weighs };
    const parts = items(i32, p.parts)[@intCast(m.part_start)..][0..@intCast(m.part_count)];
    for (0..@intCast(m.row_count)) |i| {
        const row = m.row_start + @as(i32, @intCast(i));
        const token = @divFloor(row, m.query_head_count);
        const head = m.query_head_start + row - token * m.query_head_count;
        sum.reset();
        for (parts) |part| {
            const at = @as(usize, @intCast(part)) + i;
            const lse = items(f32, p.partial_lse)[at] * simd.log2_e;
            sum.add(.f32, items(u8, p.partial_out) + at * dim * 4, lse);
        }
        if (p.finalize != 0 and p.sinks != 0) add_sink(&sum, items(f32, p.sinks)[@intCast(head)]);
        const kind: Dtype = @fromBackingInt(@intCast(p.out_dtype));
        const at = token * p.out_stride_token + head * p.out_stride_head;
        const target = items(u8, pointers.offset(p.out, at, kind.bytes()));
        if (p.finalize != 0 and variant != null and variant.?.alters(.output)) {
            const v = &variant.?;
            v.set_row(0, &common.facts_of(p, token, head, 0, true));
            var bounds: [2]i32 = .{ 0, 0 };
            v.set_rows(bounds[0..1], bounds[1..2], 1);
            const line = v.output(0, sum.log_sum(), sum.values, sum.factor(), dim);
            simd.narrow_row(kind, line, target, v.out_dim, common.out_unit(p));
        } else {
            simd.narrow_row(kind, sum.values, target, dim, sum.factor() * common.out_unit(p));
        }
        if (p.lse == 0) continue;
        const place: usize = @intCast(@as(i64, token) * p.query_heads + head);
        items(f32, p.lse)[place] = sum.log_sum() * p.lse_factor;
    }
    return 0;
}

/// A sink is a state of value 0.
fn add_sink(sum: *Sum, sink: f32) void {
    const lse = sink * simd.log2_e;
    if (lse == -simd.inf) return;
    const maximum = @max(sum.maximum, lse);
    const keep = simd.exp2_scalar(sum.maximum - maximum);
    for (sum.values[0..sum.dim]) |*x| x.* *= keep;
    sum.total = sum.total * keep + simd.exp2_scalar(lse - maximum);
    sum.maximum = maximum;
}
