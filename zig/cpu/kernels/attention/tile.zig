//! Prefill: many query rows against spans of tokens, by register-blocked products.
//!
//! Queries lie transposed in panels of two vectors, so scores come as [token][query]: a maximum, a
//! mask or an exponential is one vector operation for many queries. Keys and values are widened
//! once a span to f32 rows; both products then broadcast one operand and stream the other.
const Kernel = @import("../../kernel.zig").Kernel;
const scratch_bytes = @import("../../kernel.zig").scratch_bytes;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const common = @import("common.zig");
const hidden = @import("hidden.zig");
const leads_out = @import("indices.zig").leads_out;
const variants = @import("../variant/variant.zig");

const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const span = common.span;
const row_stride = common.row_stride;
const max_rows = common.max_rows;
const Work = common.Work;

pub const kernels = [_]Kernel{.of("attention_tile", common.Params, 1, run)};

/// Queries of one panel.
const panel = 2 * lanes;
/// Rows of one micro-kernel: height x 2 accumulators.
const height = if (simd.registers == 32) 8 else 4;

const Scratch = extern struct {
    rows: common.Rows,
    tokens: [2]common.Tokens,
    maxima: [max_rows]f32 align(64),
    sums: [max_rows]f32 align(64),
    alphas: [panel]f32 align(64),
    line: [row_stride]f32 align(64),
    scores: [span * panel]f32 align(64),
    q: [max_rows * common.max_dim]f32 align(64), // [panel][dim][query]
    out: [max_rows * row_stride]f32 align(64), // [query][dim]
    keys: [span * row_stride]f32 align(64),
    values: [span * row_stride]f32 align(64),
    variant: variants.State,
};

comptime {
    if (@sizeOf(Scratch) > scratch_bytes) @compileError("scratch is too small");
}

/// Runs record `index` of the grid.
fn run(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.record_count) return 0;
    const record = &pointers.items(common.Record, p.records)[index];
    const s: *Scratch = @ptrCast(scratch);
    const variant = variants.Variant.open(&p.variant, &s.variant, p.key_dim, p.value_dim) catch
        return variants.bad_program;
    var first: i32 = 0;
    while (first < record.row_count) : (first += max_rows) {
        const count: usize = @intCast(@min(max_rows, record.row_count - first));
        const v = if (variant) |*v| v else null;
        const w = common.prepare(p, record, &s.rows, first, count, true, v);
        if (w.leads_out) return leads_out;
        run_pass(&w, s);
    }
    return 0;
}

inline fn round_up(n: usize, unit: usize) usize {
    return (n + unit - 1) / unit * unit;
}

fn run_pass(w: *const Work, s: *Scratch) void {
    const key_dim: usize = @intCast(w.p.key_dim);
    const value_dim = round_up(@intCast(w.p.value_dim), lanes);
    load_queries(w, s, key_dim);
    for (0..round_up(w.count, height)) |i| @memset(s.out[i * row_stride ..][0..value_dim], 0);
    @memset(s.maxima[0..round_up(w.count, panel)], if (w.weighs) -simd.inf else 0);
    @memset(s.sums[0..round_up(w.count, panel)], if (w.weighs) 0 else 1);
    @memset(&s.alphas, 1);
    var t = w.start;
    var turn: usize = 0;
    if (t < w.end) common.locate(w, t, span_count(w, t), &s.tokens[0]);
    while (t < w.end) {
        const count = span_count(w, t);
        const next = t + @as(i32, @intCast(count));
        const ahead = &s.tokens[1 - turn];
        const ahead_count = if (next < w.end) span_count(w, next) else 0;
        if (ahead_count > 0) common.locate(w, next, ahead_count, ahead);
        const tokens = &s.tokens[turn];
        if (w.variant) |v| v.set_keys(&tokens.position, &tokens.slot, count);
        const masked = w.masked(t, next);
        const finite = common.stage(w, tokens, count, &s.keys, &s.values, true, masked);
        for (count..round_up(count, height)) |i| @memset(s.keys[i * row_stride ..][0..key_dim], 0);
        var first: usize = 0;
        while (first < w.count) : (first += panel) {
            const from = ahead_count * first / w.count;
            const to = ahead_count * @min(w.count, first + panel) / w.count;
            fetch(w, ahead, from, to);
            attend(w, s, tokens, count, first, masked, !finite, key_dim, value_dim);
        }
        turn = 1 - turn;
        t = next;
    }
    for (0..w.count) |i| common.finish(w, i, s.out[i * row_stride ..].ptr, s.maxima[i], s.sums[i]);
}

fn span_count(w: *const Work, t: i32) usize {
    return @intCast(@min(span, w.end - t));
}

/// Transposes the queries into panels, padded with zero queries.
fn load_queries(w: *const Work, s: *Scratch, dim: usize) void {
    const total = round_up(w.count, panel);
    for (0..total) |i| {
        if (i < w.count) common.load_query(w, i, &s.line, dim) else @memset(s.line[0..dim], 0);
        const target = s.q[i / panel * panel * dim + i % panel ..].ptr;
        for (0..dim) |d| target[d * panel] = s.line[d];
    }
}

/// Prefetches tokens [from, to) of the next span.
fn fetch(w: *const Work, tokens: *const common.Tokens, from: usize, to: usize) void {
    const bytes = w.kind.bytes();
    const k_bytes = @as(usize, @intCast(w.p.key_dim)) * bytes;
    const v_bytes = @as(usize, @intCast(w.p.value_dim)) * bytes;
    for (from..to) |i| {
        fetch_row(tokens.k[i], k_bytes);
        fetch_row(tokens.v[i], v_bytes);
    }
}

inline fn fetch_row(address: usize, bytes: usize) void {
    const row: [*]const u8 = @ptrFromInt(address);
    var at: usize = 0;
    while (at < bytes) : (at += 64) @prefetch(row + at, .{ .locality = 2 });
}

/// Positions that the queries of a panel see at most and at least.
const Bounds = struct { any_low: i32, all_low: i32, all_high: i32, any_high: i32 };

fn bounds_of(w: *const Work, first: usize) Bounds {
    const last = @min(first + panel, w.count);
    var b: Bounds = .{
        .any_low = w.rows.low[first],
        .all_low = w.rows.low[first],
        .all_high = w.rows.high[first],
        .any_high = w.rows.high[first],
    };
    for (first + 1..last) |i| {
        b.any_low = @min(b.any_low, w.rows.low[i]);
        b.all_low = @max(b.all_low, w.rows.low[i]);
        b.all_high = @min(b.all_high, w.rows.high[i]);
        b.any_high = @max(b.any_high, w.rows.high[i]);
    }
    return b;
}

/// One panel of queries against the staged span. `apart`: a row is only to meet values it sees.
fn attend(
    w: *const Work,
    s: *Scratch,
    tokens: *const common.Tokens,
    count: usize,
    first: usize,
    masked: bool,
    apart: bool,
    key_dim: usize,
    value_dim: usize,
) void {
    const bounds = bounds_of(w, first);
    var begin: usize = 0;
    var end = count;
    while (end > 0 and tokens.position[end - 1] > bounds.any_high) end -= 1;
    while (begin < end and tokens.position[begin] < bounds.any_low) begin += 1;
    if (begin == end) return;
    const q = s.q[first * key_dim ..].ptr;
    const rows = @min(panel, w.count - first);
    var t = begin / height * height;
    while (t < end) : (t += height) {
        const k = s.keys[t * row_stride ..].ptr;
        const out = s.scores[t * panel ..].ptr;
        if (rows > lanes) multiply(2, k, q, key_dim, out) else multiply(1, k, q, key_dim, out);
    }
    const vectors: usize = if (rows > lanes) 2 else 1;
    change(w, s, tokens, begin, end, first, vectors, bounds);
    if (w.variant) |v| {
        vary(w, v, s, tokens, begin, end, first, rows, masked, bounds);
    } else if (masked and w.has_bits) {
        hide(w, s, tokens, begin, end, first, rows);
    }
    if (w.weighs) for (0..vectors) |c| softmax(s, begin, end, first, c);
    if (apart) {
        for (0..rows) |i| add_seen(w, s, tokens, begin, end, first, i, value_dim);
        return;
    }
    var row: usize = 0;
    while (row < rows) : (row += height) {
        const p = s.scores[row..].ptr;
        const out = s.out[(first + row) * row_stride ..].ptr;
        var c: usize = 0;
        while (c + panel <= value_dim) : (c += panel) add(
            2,
            p,
            s.values[c..].ptr,
            begin,
            end,
            s.alphas[row..].ptr,
            out + c,
        );
        if (c < value_dim) add(1, p, s.values[c..].ptr, begin, end, s.alphas[row..].ptr, out + c);
    }
}

/// Adds to row i of a panel the values of the tokens that it sees.
fn add_seen(
    w: *const Work,
    s: *Scratch,
    tokens: *const common.Tokens,
    begin: usize,
    end: usize,
    first: usize,
    i: usize,
    value_dim: usize,
) void {
    const out = s.out[(first + i) * row_stride ..][0..value_dim];
    for (out) |*sum| sum.* *= s.alphas[i];
    for (begin..end) |t| {
        if (!hidden.sees(w, first + i, tokens, t)) continue;
        const p = s.scores[t * panel + i];
        for (out, s.values[t * row_stride ..][0..value_dim]) |*sum, value| sum.* += p * value;
    }
}

/// Elements of a key whose products become one sum; the sums of longer keys are added up. One sum
/// of 576 products errs by more than twice as much as that of 128.
const stretch = 128;

/// Scores of `height` tokens against n vectors of queries.
fn multiply(comptime n: usize, k: [*]const f32, q: [*]const f32, dim: usize, out: [*]f32) void {
    var first: usize = 0;
    while (first < dim) : (first += stretch) {
        var sums: [height][n]F = @splat(@splat(@splat(0)));
        for (first..@min(first + stretch, dim)) |d| {
            var x: [n]F = undefined;
            inline for (0..n) |c| x[c] = q[d * panel + c * lanes ..][0..lanes].*;
            inline for (0..height) |r| {
                const y = simd.splat(k[r * row_stride + d]);
                inline for (0..n) |c| sums[r][c] = simd.mul_add(y, x[c], sums[r][c]);
            }
        }
        inline for (0..height) |r| {
            inline for (0..n) |c| {
                const to = out[r * panel + c * lanes ..][0..lanes];
                to.* = if (first == 0) sums[r][c] else @as(F, to.*) + sums[r][c];
            }
        }
    }
}

/// out = out * alpha + probabilities x values, for `height` queries and n vectors of dimensions.
fn add(
    comptime n: usize,
    p: [*]const f32,
    v: [*]const f32,
    begin: usize,
    end: usize,
    alphas: [*]const f32,
    out: [*]f32,
) void {
    var sums: [height][n]F = undefined;
    inline for (0..height) |r| {
        inline for (0..n) |c| {
            const old: F = out[r * row_stride + c * lanes ..][0..lanes].*;
            sums[r][c] = old * simd.splat(alphas[r]);
        }
    }
    for (begin..end) |t| {
        var x: [n]F = undefined;
        inline for (0..n) |c| x[c] = v[t * row_stride + c * lanes ..][0..lanes].*;
        inline for (0..height) |r| {
            const y = simd.splat(p[t * panel + r]);
            inline for (0..n) |c| sums[r][c] = simd.mul_add(y, x[c], sums[r][c]);
        }
    }
    inline for (0..height) |r| {
        inline for (0..n) |c| out[r * row_stride + c * lanes ..][0..lanes].* = sums[r][c];
    }
}

/// Soft cap and ALiBi where asked for; causal, window and length masks where a query needs them
/// and no variant sees to it.
fn change(
    w: *const Work,
    s: *Scratch,
    tokens: *const common.Tokens,
    begin: usize,
    end: usize,
    first: usize,
    vectors: usize,
    b: Bounds,
) void {
    const adjusts = w.p.soft_cap > 0 or w.p.alibi_slopes != 0;
    if (!adjusts and w.variant != null) return;
    for (begin..end) |t| {
        const position = tokens.position[t];
        const masked = position < b.all_low or position > b.all_high;
        if (!adjusts and !masked) continue;
        const key: I = @splat(position);
        for (0..vectors) |c| {
            const at = first + c * lanes;
            const x = s.scores[t * panel + c * lanes ..][0..lanes];
            var score: F = x.*;
            if (adjusts) {
                const query: I = w.rows.position[at..][0..lanes].*;
                const slope: F = w.rows.slope[at..][0..lanes].*;
                score = common.adjust(w, score, simd.splat(1), key, query, slope);
            }
            if (masked) {
                const low: I = w.rows.low[at..][0..lanes].*;
                const high: I = w.rows.high[at..][0..lanes].*;
                score = @select(f32, key < low, simd.splat(-simd.inf), score);
                score = @select(f32, key > high, simd.splat(-simd.inf), score);
            }
            x.* = score;
        }
    }
}

/// A variant changes and hides the scores of a panel, some tokens at a time.
fn vary(
    w: *const Work,
    v: *const variants.Variant,
    s: *Scratch,
    tokens: *const common.Tokens,
    begin: usize,
    end: usize,
    first: usize,
    rows: usize,
    masked: bool,
    bounds: Bounds,
) void {
    const most = variants.most_groups((rows + lanes - 1) / lanes);
    var t = begin;
    while (t < end) : (t += most) {
        const keys = @min(most, end - t);
        const outside = w.p.key_positions != 0 or tokens.position[t] < bounds.all_low or
            tokens.position[t + keys - 1] > bounds.all_high;
        const bits: ?[*]const i32 = if (masked and w.has_bits) &tokens.place else null;
        const hides: variants.Hides = .{ .bounds = outside, .mask = masked, .bits = bits };
        const b: variants.Block =
            .{ .keys_inside = false, .row = first, .rows = rows, .key = t, .keys = keys };
        v.change(w, b, s.scores[t * panel ..].ptr, panel, hides);
    }
}

/// Packed masks, bit by bit.
fn hide(
    w: *const Work,
    s: *Scratch,
    tokens: *const common.Tokens,
    begin: usize,
    end: usize,
    first: usize,
    rows: usize,
) void {
    for (0..rows) |i| {
        if (w.rows.high[first + i] < 0) continue;
        for (begin..end) |t| {
            if (!common.bit_visible(w, first + i, tokens.place[t]))
                s.scores[t * panel + i] = -simd.inf;
        }
    }
}

/// Scores of one vector of queries become probabilities relative to their new maxima.
fn softmax(s: *Scratch, begin: usize, end: usize, first: usize, c: usize) void {
    const x = s.scores[c * lanes ..].ptr;
    const maxima = s.maxima[first + c * lanes ..][0..lanes];
    const sums = s.sums[first + c * lanes ..][0..lanes];
    const old: F = maxima.*;
    var top = old;
    for (begin..end) |t| top = simd.max(@as(F, x[t * panel ..][0..lanes].*), top);
    const base = @select(f32, top == simd.splat(-simd.inf), simd.splat(0), top);
    var total: F = @splat(0);
    for (begin..end) |t| {
        const at = x[t * panel ..][0..lanes];
        const e = simd.exp2(@as(F, at.*) - base);
        at.* = e;
        total += e;
    }
    const alpha = simd.exp2(old - base);
    s.alphas[c * lanes ..][0..lanes].* = alpha;
    sums.* = simd.mul_add(@as(F, sums.*), alpha, total);
    maxima.* = top;
}
