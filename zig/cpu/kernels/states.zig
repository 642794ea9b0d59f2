//! Merges of attention states by log-sum-exp, in a fixed order.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const lanes = simd.lanes;
const items = pointers.items;

/// Rows that one grid index handles.
const state_rows = 64;

pub const kernels = [_]Kernel{.of("merge_states", params.fb_merge_params, state_rows, run)};

/// Running sum of weighted states.
pub const Sum = struct {
    values: [*]f32,
    dim: usize,
    /// False: states are plain sums, which add.
    weighs: bool = true,
    maximum: f32 = -simd.inf,
    total: f32 = 0,

    /// Adds a state whose LSE is in base 2; an empty state is never read.
    pub fn add(s: *Sum, kind: Dtype, state: [*]const u8, lse: f32) void {
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
            inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2 => |known| {
                add_row(known, s.values, state, s.dim, keep, weight);
            },
            else => unreachable,
        }
    }

    pub fn reset(s: *Sum) void {
        @memset(s.values[0..s.dim], 0);
        s.maximum = -simd.inf;
        s.total = if (s.weighs) 0 else 1;
    }

    /// What the values are multiplied by in the end.
    pub fn factor(s: *const Sum) f32 {
        return if (s.total == 0) 0 else 1 / s.total;
    }

    /// Natural logarithm of the merged sum.
    pub fn log_sum(s: *const Sum) f32 {
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

/// Merges rows [64 * index, ...) of user-given states.
fn run(p: *const params.fb_merge_params, index: u32, scratch: [*]align(64) u8) i32 {
    const dim: usize = @intCast(p.dim);
    var sum: Sum = .{ .values = @ptrCast(scratch), .dim = dim };
    const count: usize = @intCast(p.row_count);
    const first = @as(usize, index) * state_rows;
    for (first..@max(first, @min(count, first + state_rows))) |row| {
        const token = @divFloor(row, @as(usize, @intCast(p.heads)));
        if (p.mask != 0 and items(u8, p.mask)[token] == 0) continue;
        const head = row - token * @as(usize, @intCast(p.heads));
        merge_row(p, @intCast(token), @intCast(head), &sum);
    }
    return 0;
}

fn merge_row(p: *const params.fb_merge_params, token: i64, head: i64, sum: *Sum) void {
    const in: Dtype = @fromBackingInt(@intCast(p.in_dtype));
    const out: Dtype = @fromBackingInt(@intCast(p.out_dtype));
    const to_base_2 = p.log_base * simd.log2_e;
    var state: i64 = 0;
    var end: i64 = p.state_count;
    if (p.indptr != 0) {
        const indptr = items(i32, p.indptr);
        state = @max(0, indptr[@intCast(token)]);
        end = @min(end, indptr[@intCast(token + 1)]);
    }
    sum.reset();
    while (state < end) : (state += 1) {
        const s = &p.states[if (p.state_stride == 0) @intCast(state) else 0];
        const lse_at = state * p.lse_state_stride + token * s.lse_stride_token +
            head * s.lse_stride_head;
        const lse = items(f32, pointers.offset(s.lse, lse_at, 4))[0];
        const at = state * p.state_stride + token * s.stride_token + head * s.stride_head;
        sum.add(in, items(u8, pointers.offset(s.out, at, in.bytes())), lse * to_base_2);
    }
    const to = &p.merged;
    const at = token * to.stride_token + head * to.stride_head;
    const target = items(u8, pointers.offset(to.out, at, out.bytes()));
    simd.narrow_row(out, sum.values, target, sum.dim, sum.factor());
    if (to.lse == 0) return;
    const lse_at = token * to.lse_stride_token + head * to.lse_stride_head;
    items(f32, pointers.offset(to.lse, lse_at, 4))[0] = sum.log_sum() / p.log_base;
}
