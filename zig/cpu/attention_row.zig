//! Decode: a few packed query rows against a stream of tokens, read once.
const std = @import("std");
const simd = @import("simd.zig");
const common = @import("attention_common.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const row_stride = common.row_stride;
const Work = common.Work;

/// Tokens between two looks at the maximum.
const block = 64;

/// Query rows of one pass over the tokens.
const pass_rows = 16;

const Scratch = extern struct {
    rows: common.Rows,
    tokens: [2]common.Tokens,
    maxima: [pass_rows]f32,
    sums: [pass_rows]f32,
    alphas: [pass_rows]f32,
    scores: [pass_rows * block]f32 align(64),
    q: [pass_rows * row_stride]f32 align(64),
    out: [pass_rows * row_stride]f32 align(64),
    keys: [block * row_stride]f32 align(64),
    values: [block * row_stride]f32 align(64),
};

/// Runs record `index` of the grid.
pub fn run(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.record_count) return 0;
    const record = &common.items(common.Record, p.records)[index];
    run_record(p, record, scratch);
    return 0;
}

pub fn run_record(p: *const common.Params, record: *const common.Record, scratch: [*]align(64) u8) void {
    const s: *Scratch = @ptrCast(scratch);
    const whole = @rem(p.key_dim, lanes) == 0 and @rem(p.value_dim, lanes) == 0;
    const staged = !whole or p.rope_table != 0;
    var first: i32 = 0;
    while (first < record.row_count) : (first += pass_rows) {
        const count: usize = @intCast(@min(pass_rows, record.row_count - first));
        const w = common.prepare(p, record, &s.rows, first, count, staged);
        run_pass(&w, s);
    }
}

fn padded(dim: i32) usize {
    return (@as(usize, @intCast(dim)) + lanes - 1) / lanes * lanes;
}

fn run_pass(w: *const Work, s: *Scratch) void {
    const key_dim = padded(w.p.key_dim);
    const value_dim = padded(w.p.value_dim);
    for (0..w.count) |i| {
        common.load_query(w, i, s.q[i * row_stride ..].ptr, key_dim);
        @memset(s.out[i * row_stride ..][0..value_dim], 0);
        s.maxima[i] = -simd.inf;
        s.sums[i] = 0;
    }
    var t = w.start;
    var turn: usize = 0;
    if (t < w.end) common.locate(w, t, block_count(w, t), &s.tokens[0]);
    while (t < w.end) {
        const count = block_count(w, t);
        const tokens = &s.tokens[turn];
        const next = t + @as(i32, @intCast(count));
        turn = 1 - turn;
        const next_count = if (next < w.end) block_count(w, next) else 0;
        if (next_count > 0) common.locate(w, next, next_count, &s.tokens[turn]);
        const ahead_v: Ahead = .{ .tokens = &tokens.v, .count = count, .bytes = value_dim * w.kind.bytes() };
        const ahead_k: Ahead = .{ .tokens = &s.tokens[turn].k, .count = next_count, .bytes = key_dim * w.kind.bytes() };
        const kind = if (w.staged) .f32 else w.kind;
        if (w.staged) stage(w, s, tokens, count, key_dim, value_dim);
        for (count..(count + 7) & ~@as(usize, 7)) |i| tokens.k[i] = tokens.k[count - 1];
        score_rows(w, s, kind, tokens, count, key_dim / lanes, ahead_v);
        for (0..w.count) |i| softmax(w, s, tokens, i, count, w.masked(t, next));
        add_rows(w, s, kind, tokens, count, value_dim / lanes, ahead_k);
        t = next;
    }
    for (0..w.count) |i| common.finish(w, i, s.out[i * row_stride ..].ptr, s.maxima[i], s.sums[i]);
}

fn block_count(w: *const Work, t: i32) usize {
    return @intCast(@min(block, w.end - t));
}

/// Widens a block to f32 rows in scratch and points its tokens there.
fn stage(w: *const Work, s: *Scratch, tokens: *common.Tokens, count: usize, key_dim: usize, value_dim: usize) void {
    for (0..count) |i| {
        const key = s.keys[i * row_stride ..].ptr;
        const value = s.values[i * row_stride ..].ptr;
        common.stage_key(w, tokens.k[i], tokens.position[i], 1, key, key_dim);
        common.stage_value(w, tokens.v[i], 1, value, value_dim);
        tokens.k[i] = @intFromPtr(key);
        tokens.v[i] = @intFromPtr(value);
    }
}

/// Rows to prefetch while others are worked on: one of these for each token handled.
const Ahead = struct {
    tokens: [*]const usize,
    count: usize,
    bytes: usize,

    inline fn fetch(a: Ahead, t: usize) void {
        if (t >= a.count) return;
        const row: [*]const u8 = @ptrFromInt(a.tokens[t]);
        var at: usize = 0;
        while (at < a.bytes) : (at += 64) @prefetch(row + at, .{ .locality = 2 });
    }
};

const nothing: Ahead = .{ .tokens = undefined, .count = 0, .bytes = 0 };

const ScoreFn = *const fn (q: [*]const f32, k: [*]const usize, count: usize, vectors: usize, scores: [*]f32, ahead: Ahead) void;
const AddFn = *const fn (p: [*]const f32, v: [*]const usize, count: usize, vectors: usize, alphas: [*]const f32, out: [*]f32, ahead: Ahead) void;

const row_sizes = if (simd.registers == 32) [_]usize{ 8, 4, 2, 1 } else [_]usize{ 4, 2, 1 };

const score_kernels = kernels(ScoreFn, Score);
const add_kernels = kernels(AddFn, Add);

fn kernels(comptime Fn: type, comptime Make: anytype) [simd.float_count][row_sizes.len]Fn {
    var table: [simd.float_count][row_sizes.len]Fn = undefined;
    for (0..simd.float_count) |kind| {
        for (row_sizes, 0..) |rows, i| table[kind][i] = &Make(@enumFromInt(kind), rows).run;
    }
    return table;
}

fn score_rows(w: *const Work, s: *Scratch, kind: Dtype, tokens: *const common.Tokens, count: usize, vectors: usize, ahead: Ahead) void {
    var row: usize = 0;
    for (row_sizes, score_kernels[@intCast(@intFromEnum(kind))]) |size, kernel| {
        while (w.count - row >= size) : (row += size) {
            const fetch = if (row == 0) ahead else nothing;
            kernel(s.q[row * row_stride ..].ptr, &tokens.k, count, vectors, s.scores[row * block ..].ptr, fetch);
        }
    }
}

fn add_rows(w: *const Work, s: *Scratch, kind: Dtype, tokens: *const common.Tokens, count: usize, vectors: usize, ahead: Ahead) void {
    var row: usize = 0;
    for (row_sizes, add_kernels[@intCast(@intFromEnum(kind))]) |size, kernel| {
        while (w.count - row >= size) : (row += size) {
            const fetch = if (row == 0) ahead else nothing;
            kernel(s.scores[row * block ..].ptr, &tokens.v, count, vectors, s.alphas[row..].ptr, s.out[row * row_stride ..].ptr, fetch);
        }
    }
}

/// Dot products of `rows` query rows with tokens, several tokens at once.
fn Score(comptime kind: Dtype, comptime rows: usize) type {
    const at_once = @max(2, @min(8, simd.registers / 2 / rows));
    return struct {
        fn run(q: [*]const f32, k: [*]const usize, count: usize, vectors: usize, scores: [*]f32, ahead: Ahead) void {
            var t: usize = 0;
            while (t < count) : (t += at_once) {
                var keys: [at_once][*]const u8 = undefined;
                inline for (0..at_once) |j| {
                    ahead.fetch(t + j);
                    keys[j] = @ptrFromInt(k[t + j]);
                }
                var sums: [rows][at_once]F = @splat(@splat(@splat(0)));
                for (0..vectors) |c| {
                    var x: [at_once]F = undefined;
                    inline for (0..at_once) |j|
                        x[j] = simd.load_raw(kind, lanes, keys[j] + c * lanes * comptime kind.bytes());
                    inline for (0..rows) |r| {
                        const y: F = q[r * row_stride + c * lanes ..][0..lanes].*;
                        inline for (0..at_once) |j| sums[r][j] = simd.mul_add(y, x[j], sums[r][j]);
                    }
                }
                inline for (0..rows) |r| scores[r * block + t ..][0..at_once].* = simd.sum_each(at_once, sums[r]);
            }
        }
    };
}

/// out = out * alpha + probabilities x values, for `rows` rows.
fn Add(comptime kind: Dtype, comptime rows: usize) type {
    const wide = @max(1, @min(8, simd.registers / 2 / rows));
    return struct {
        fn run(p: [*]const f32, v: [*]const usize, count: usize, vectors: usize, alphas: [*]const f32, out: [*]f32, ahead: Ahead) void {
            var c: usize = 0;
            while (c + wide <= vectors) : (c += wide)
                columns(wide, p, v, count, alphas, out + c * lanes, c, if (c == 0) ahead else nothing);
            while (c < vectors) : (c += 1)
                columns(1, p, v, count, alphas, out + c * lanes, c, if (c == 0) ahead else nothing);
        }

        inline fn columns(comptime n: usize, p: [*]const f32, v: [*]const usize, count: usize, alphas: [*]const f32, out: [*]f32, c: usize, ahead: Ahead) void {
            var sums: [rows][n]F = undefined;
            inline for (0..rows) |r| {
                inline for (0..n) |j| {
                    const old: F = out[r * row_stride + j * lanes ..][0..lanes].*;
                    sums[r][j] = old * simd.splat(alphas[r]);
                }
            }
            for (0..count) |t| {
                ahead.fetch(t);
                const value: [*]const u8 = @ptrFromInt(v[t]);
                var x: [n]F = undefined;
                inline for (0..n) |j|
                    x[j] = simd.load_raw(kind, lanes, value + (c + j) * lanes * comptime kind.bytes());
                inline for (0..rows) |r| {
                    const y = simd.splat(p[r * block + t]);
                    inline for (0..n) |j| sums[r][j] = simd.mul_add(y, x[j], sums[r][j]);
                }
            }
            inline for (0..rows) |r| {
                inline for (0..n) |j| out[r * row_stride + j * lanes ..][0..lanes].* = sums[r][j];
            }
        }
    };
}

/// Scores of row i become probabilities relative to the new maximum.
fn softmax(w: *const Work, s: *Scratch, tokens: *const common.Tokens, i: usize, count: usize, masked: bool) void {
    const x = s.scores[i * block ..][0..block];
    const vectors = (count + lanes - 1) / lanes;
    if (w.adjusts or masked) change(w, tokens, i, x, vectors, masked);
    for (count..vectors * lanes) |t| x[t] = -simd.inf;
    var top = simd.splat(s.maxima[i]);
    for (0..vectors) |c| top = @max(top, @as(F, x[c * lanes ..][0..lanes].*));
    const maximum = @reduce(.Max, top);
    const base = if (maximum == -simd.inf) 0 else maximum;
    var total: F = @splat(0);
    for (0..vectors) |c| {
        const at = x[c * lanes ..][0..lanes];
        var e = simd.exp2(@as(F, at.*) - simd.splat(base));
        total += e;
        if (w.v_by_token) e *= @as(F, tokens.v_scale[c * lanes ..][0..lanes].*);
        at.* = e;
    }
    const alpha = simd.exp2_scalar(s.maxima[i] - base);
    s.alphas[i] = alpha;
    s.sums[i] = s.sums[i] * alpha + simd.sum(total);
    s.maxima[i] = maximum;
}

fn change(w: *const Work, tokens: *const common.Tokens, i: usize, x: *[block]f32, vectors: usize, masked: bool) void {
    const rows = w.rows;
    const low: I = @splat(rows.low[i]);
    const high: I = @splat(rows.high[i]);
    for (0..vectors) |c| {
        const at = x[c * lanes ..][0..lanes];
        const key: I = tokens.position[c * lanes ..][0..lanes].*;
        var score: F = at.*;
        if (w.adjusts) {
            const k_scale: F = tokens.k_scale[c * lanes ..][0..lanes].*;
            score = common.adjust(w, score, k_scale, key, @splat(rows.position[i]), simd.splat(rows.slope[i]));
        }
        if (masked) {
            score = @select(f32, key < low, simd.splat(-simd.inf), score);
            score = @select(f32, key > high, simd.splat(-simd.inf), score);
        }
        at.* = score;
        if (masked and w.has_bits) {
            inline for (0..lanes) |j| {
                if (score[j] != -simd.inf and !common.bit_visible(w, i, key[j])) at[j] = -simd.inf;
            }
        }
    }
}
