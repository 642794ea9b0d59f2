//! The k largest of each row in falling order, as they are or as log-probabilities.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const rows = @import("row.zig");

const Row = rows.Row;
const Weights = rows.Weights;
const items = pointers.items;
const lanes = simd.lanes;

pub const kernels = [_]Kernel{
    .of("top_k_rows", params.fb_top_k_params, 1, run),
    .of("top_k_rows_cluster", params.fb_top_k_params, 1, run),
};

/// Logarithms of probabilities to base e; of a row without mass -inf.
const LogProbabilities = struct {
    weights: Weights,
    /// To base 2, as weights are.
    log_mass: f32,

    fn one(self: LogProbabilities, x: f32) f32 {
        const largest = self.weights.largest;
        const weight = if (x == largest) 0 else (x - largest) * self.weights.scale;
        return (weight - self.log_mass) * simd.ln_2;
    }
};

/// Row `index`.
fn run(p: *const params.fb_top_k_params, index: u32, scratch: [*]align(64) u8) i32 {
    const kind: simd.Dtype = @fromBackingInt(@intCast(p.dtype));
    const source = pointers.offset(p.x, @as(i64, index) * p.x_stride, kind.bytes());
    const length: usize = @intCast(p.row_length);
    const row = Row.load(kind, items(u8, source), length, false, scratch);
    const weights = Weights.of(row, p.temperature);
    const is_log = p.is_log_probabilities != 0;
    const has_mass = row.has_mass();
    const mass = if (is_log and has_mass) row.mass(weights, .{}) else simd.inf;
    const log_of: LogProbabilities = .{ .weights = weights, .log_mass = @log2(mass) };
    if (p.status != 0) items(i32, p.status)[index] = row.status;
    if (p.tokens != 0) {
        const token = items(i32, p.tokens)[index];
        const is_there = token >= 0 and token < p.row_length and has_mass;
        const chosen = if (is_there) log_of.one(row.x[@intCast(token)]) else -simd.inf;
        items(f32, p.chosen)[index] = chosen;
    }
    const k: usize = @intCast(p.k);
    if (k == 0) return 0;
    const last = if (k < length) row.find_cut(weights, .{}, .{ .count = k }) else 0;
    const found = row.indices[0..row.list_kept(last)];
    std.sort.pdq(u32, found, row, Row.comes_before);
    const indices = items(i32, p.indices) + @as(usize, @intCast(index * p.indices_stride));
    const value_kind: simd.Dtype = if (is_log) .f32 else kind;
    const target = pointers.offset(p.values, index * p.values_stride, value_kind.bytes());
    const values = items(u8, target);
    for (found, 0..) |at, rank| {
        indices[rank] = @intCast(at);
        // -0 is 0, as where keys are sorted.
        const x = row.x[at] + 0;
        const value = if (!is_log) x else if (has_mass) log_of.one(x) else -simd.inf;
        simd.store_one(value_kind, values + rank * value_kind.bytes(), value);
    }
    return 0;
}
