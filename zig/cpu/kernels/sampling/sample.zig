//! A token of each row by its probability, or the row's probabilities, after the filters.
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const philox = @import("philox.zig");
const race = @import("race.zig");
const rows = @import("row.zig");

const F = simd.F;
const Kept = rows.Kept;
const Row = rows.Row;
const Weights = rows.Weights;
const items = pointers.items;
const lanes = simd.lanes;

pub const kernels = [_]Kernel{
    .of("sample_rows", params.fb_sample_params, 1, run),
    .of("sample_rows_cluster", params.fb_sample_params, 1, run),
};

/// The numbers of one row; those that are not allowed are as if they were not given.
const Numbers = struct {
    temperature: f32,
    top_k: i32,
    top_p: f32,
    min_p: f32,

    fn of(p: *const params.fb_sample_params, row: u32, status: *i32) Numbers {
        const all_k = if (p.top_k == 0) p.vocabulary else p.top_k;
        var n: Numbers = .{
            .temperature = number(f32, p.temperatures, p.temperature, row),
            .top_k = number(i32, p.top_ks, all_k, row),
            .top_p = number(f32, p.top_ps, p.top_p, row),
            .min_p = number(f32, p.min_ps, p.min_p, row),
        };
        var is_odd = false;
        if (!(n.temperature >= 0 and n.temperature < simd.inf)) {
            n.temperature = 1;
            is_odd = true;
        }
        if (n.top_k < 1 or n.top_k > p.vocabulary) {
            n.top_k = p.vocabulary;
            is_odd = true;
        }
        if (!(n.top_p > 0 and n.top_p <= 1)) {
            n.top_p = 1;
            is_odd = true;
        }
        if (!(n.min_p >= 0 and n.min_p <= 1)) {
            n.min_p = 0;
            is_odd = true;
        }
        if (is_odd) status.* |= params.FB_SAMPLE_PARAMETER;
        return n;
    }
};

fn number(comptime T: type, of_rows: u64, of_all: T, row: u32) T {
    return if (of_rows == 0) of_all else items(T, of_rows)[row];
}

/// Row `index`.
fn run(p: *const params.fb_sample_params, index: u32, scratch: [*]align(64) u8) i32 {
    const kind: simd.Dtype = @fromBackingInt(@intCast(p.dtype));
    const source = pointers.offset(p.x, @as(i64, index) * p.x_stride, kind.bytes());
    const length: usize = @intCast(p.vocabulary);
    var row = Row.load(kind, items(u8, source), length, p.is_probabilities != 0, scratch);
    const n = Numbers.of(p, index, &row.status);
    const is_greedy = n.temperature == 0 or n.top_k == 1;
    const weights = Weights.of(row, n.temperature);
    var kept: Kept = .{ .last = rows.place_of(row.largest, row.first), .min_weight = n.min_p };
    if (!is_greedy and row.has_mass()) kept = filter(row, weights, n, p.is_joint != 0);
    if (p.tokens != 0) {
        var token: u32 = if (row.has_mass()) row.first else 0;
        if (!is_greedy and row.has_mass()) {
            const of_kept: KeptWeights = .{ .row = row, .weights = weights, .kept = kept };
            token = race.run(noise(p, index), row.padded, of_kept) orelse row.first;
        }
        items(i32, p.tokens)[index] = @intCast(token);
    }
    if (p.out != 0) write_row(p, index, row, weights, kept);
    if (p.status != 0) items(i32, p.status)[index] = row.status;
    return 0;
}

fn filter(row: Row, weights: Weights, n: Numbers, is_joint: bool) Kept {
    var last: u64 = 0;
    if (n.top_k < row.length)
        last = row.find_cut(weights, .{}, .{ .count = @intCast(n.top_k) });
    if (n.top_p < 1) {
        const from: Kept = if (is_joint) .{} else .{ .last = last, .min_weight = n.min_p };
        last = @max(last, row.find_cut(weights, from, .{ .part = n.top_p }));
    }
    return .{ .last = last, .min_weight = n.min_p };
}

fn noise(p: *const params.fb_sample_params, index: u32) philox.Philox {
    const of_all = if (p.is_position_row != 0) index else p.position;
    const position = if (p.positions == 0) of_all else items(i32, p.positions)[index];
    const seed = number(i64, p.seeds, p.seed, index);
    return .{ .key = @bitCast(seed), .position = @bitCast(position), .purpose = .draw_token };
}

/// The weights of what is kept, for a draw.
const KeptWeights = struct {
    row: Row,
    weights: Weights,
    kept: Kept,

    pub inline fn some(self: KeptWeights, at: usize) bool {
        var any = false;
        inline for (0..4) |part| {
            const x: F = self.row.x[at + part * lanes ..][0..lanes].*;
            any = any or self.kept.some(x);
        }
        return any;
    }

    pub inline fn of(self: KeptWeights, start: usize) F {
        return self.weights.each(lanes, self.row.x[start..][0..lanes].*);
    }

    pub inline fn one(self: KeptWeights, token: usize, weight: f32) f32 {
        const place = rows.place_of(self.row.x[token], token);
        return if (self.kept.has(place, weight)) weight else 0;
    }
};

fn write_row(
    p: *const params.fb_sample_params,
    index: u32,
    row: Row,
    weights: Weights,
    kept: Kept,
) void {
    const kind: simd.Dtype = @fromBackingInt(@intCast(p.out_dtype));
    const target = pointers.offset(p.out, @as(i64, index) * p.out_stride, kind.bytes());
    const is_masked = p.out_kind == params.FB_SAMPLE_MASKED;
    const dropped: f32 = if (is_masked and !row.is_probability) -simd.inf else 0;
    if (!row.has_mass()) {
        @memset(row.x[0..row.length], dropped);
    } else {
        const factor = if (is_masked) 1 else 1 / row.mass(weights, kept);
        var at: usize = 0;
        while (at < row.length) : (at += lanes) {
            const x: F = row.x[at..][0..lanes].*;
            const w = weights.each(lanes, x);
            var values: [lanes]f32 = if (is_masked) x else w * simd.splat(factor);
            if (kept.last != 0 or kept.min_weight > 0) {
                const weight: [lanes]f32 = w;
                for (0..lanes) |lane| {
                    const place = rows.place_of(row.x[at + lane], at + lane);
                    if (!kept.has(place, weight[lane])) values[lane] = dropped;
                }
            }
            row.x[at..][0..lanes].* = values;
        }
    }
    simd.narrow_row(kind, row.x, items(u8, target), row.length, 1);
}
