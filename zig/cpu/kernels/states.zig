//! Merges of attention states by log-sum-exp, in a fixed order.
const params = @import("params");
const simd = @import("simd.zig");
const common = @import("attention/common.zig");
const variants = @import("variant/variant.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const lanes = simd.lanes;
const items = common.items;

/// Rows of merge_states that one grid index handles.
pub const state_rows = 64;

/// Running sum of weighted states.
const Sum = struct {
    values: [*]f32,
    dim: usize,
    /// False: states are plain sums, which add.
    weighs: bool = true,
    maximum: f32 = -simd.inf,
    total: f32 = 0,

    /// Adds a state whose LSE is in base 2; an empty state is never read.
    fn add(s: *Sum, kind: Dtype, state: [*]const u8, lse: f32) void {
        var keep: f32 = 1;
        var weight: f32 = 1;
        if (s.weighs) {
            if (lse == -simd.inf) return;
            const maximum = @max(s.maximum, lse);
            keep = simd.exp2_scalar(s.maximum - maximum);
            weight = simd.exp2_scalar(lse - maximum);
            s.total = s.total * keep + weight;
            s.maximum = maximum;
        }
        switch (kind) {
            inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |k| add_row(
                k,
                s.values,
                state,
                s.dim,
                keep,
                weight,
            ),
            else => unreachable,
        }
    }

    fn reset(s: *Sum) void {
        @memset(s.values[0..s.dim], 0);
        s.maximum = -simd.inf;
        s.total = if (s.weighs) 0 else 1;
    }

    /// What the values are multiplied by in the end.
    fn factor(s: *const Sum) f32 {
        return if (s.total == 0) 0 else 1 / s.total;
    }

    /// Natural logarithm of the merged sum.
    fn log_sum(s: *const Sum) f32 {
        return if (s.total == 0) -simd.inf else (s.maximum + @log2(s.total)) * simd.ln_2;
    }
};

fn add_row(
    comptime kind: Dtype,
    values: [*]f32,
    state: [*]const u8,
    dim: usize,
    keep: f32,
    weight: f32,
) void {
    const size = comptime kind.bytes();
    var d: usize = 0;
    while (d + lanes <= dim) : (d += lanes) {
        const x = simd.load(kind, lanes, state + d * size);
        const old: F = values[d..][0..lanes].*;
        values[d..][0..lanes].* = simd.mul_add(x, simd.splat(weight), old * simd.splat(keep));
    }
    while (d < dim) : (d += 1) {
        const x = simd.load(kind, 1, state + d * size)[0];
        values[d] = values[d] * keep + x * weight;
    }
}

const Scratch = extern struct {
    values: [common.max_dim]f32 align(64),
    variant: variants.State,
};

/// Merges the partial states of merge record `index` into the output.
pub fn run_attention(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.merge_count) return 0;
    const m = &items(params.fb_merge_record, p.merges)[index];
    const dim: usize = @intCast(p.value_dim);
    const s: *Scratch = @ptrCast(scratch);
    const longest: usize = @intCast(@max(p.key_dim, p.value_dim));
    const variant = variants.Variant.open(&p.variant, &s.variant, longest) catch
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
        const target = items(u8, common.offset(p.out, at, kind.bytes()));
        if (p.finalize != 0 and variant != null and variant.?.has(.output)) {
            const v = &variant.?;
            v.set_row(0, &common.facts_of(p, token, head, 0, true));
            var bounds: [2]i32 = .{ 0, 0 };
            v.set_rows(bounds[0..1], bounds[1..2], 1);
            const line = v.output(0, sum.log_sum(), sum.values, sum.factor(), dim);
            simd.narrow_row(kind, line, target, dim, 1);
        } else {
            simd.narrow_row(kind, sum.values, target, dim, sum.factor());
        }
        if (p.lse != 0)
            items(
                f32,
                p.lse,
            )[@intCast(@as(i64, token) * p.query_heads + head)] = sum.log_sum() * p.lse_factor;
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

/// Merges rows [64 * index, ...) of user-given states.
pub fn run_states(p: *const params.fb_merge_params, index: u32, scratch: [*]align(64) u8) i32 {
    const dim: usize = @intCast(p.dim);
    const in: Dtype = @fromBackingInt(@intCast(p.in_dtype));
    const out: Dtype = @fromBackingInt(@intCast(p.out_dtype));
    const to_base_2 = p.log_base * simd.log2_e;
    var sum: Sum = .{ .values = @ptrCast(scratch), .dim = dim };
    const count: usize = @intCast(p.row_count);
    const first = @as(usize, index) * state_rows;
    for (first..@max(first, @min(count, first + state_rows))) |row| {
        sum.reset();
        for (0..@intCast(p.state_count)) |state| {
            const s: i64 = @intCast(state);
            const r: i64 = @intCast(row);
            const lse = items(f32, common.offset(p.lses, s * p.lse_stride + r, 4))[0];
            const at = common.offset(p.states, s * p.state_stride + r * p.dim, in.bytes());
            sum.add(in, items(u8, at), lse * to_base_2);
        }
        const target = items(u8, p.out) + row * dim * out.bytes();
        simd.narrow_row(out, sum.values, target, dim, sum.factor());
        if (p.lse != 0) items(f32, p.lse)[row] = sum.log_sum() / p.log_base;
    }
    return 0;
}
