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
const Record = common.Record;

/// Tokens between two looks at the maximum, at most.
const block = 64;
/// Query rows of one pass over the tokens.
const pass_rows = 16;
/// Records of one team, at most.
const team_size = 8;
/// Bytes of keys and values that a block may have: with the next one in flight it stays in the second
/// level cache.
const block_bytes = 256 << 10;

/// State of one record's rows.
const Member = extern struct {
    rows: common.Rows,
    maxima: [pass_rows]f32,
    sums: [pass_rows]f32,
    q: [pass_rows * row_stride]f32 align(64),
    out: [pass_rows * row_stride]f32 align(64),
};

const Scratch = extern struct {
    tokens: [2]common.Tokens,
    ahead: [block]usize,
    alphas: [pass_rows]f32,
    scores: [pass_rows * block]f32 align(64),
    keys: [block * row_stride]f32 align(64),
    values: [block * row_stride]f32 align(64),
    members: [team_size]Member,
};

/// Runs record `index` of the grid. Neighbouring KV heads over the same tokens work as a team: the first
/// of them runs all, block by block, so that memory is read in long stretches where heads lie side by side.
pub fn run(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.record_count) return 0;
    const s: *Scratch = @ptrCast(scratch);
    const records = common.items(Record, p.records);
    const staged = is_staged(p);
    const most = if (staged or common.has_token_scales(p)) 1 else most_members(p);
    const place = place_in_run(records, index) % most;
    if (place != 0) return 0;
    var count: u32 = 1;
    while (count < most and index + count < p.record_count) : (count += 1) {
        if (!siblings(&records[index + count - 1], &records[index + count])) break;
    }
    run_team(p, records[index..][0..count], staged, s);
    return 0;
}

fn is_staged(p: *const common.Params) bool {
    return @rem(p.key_dim, lanes) != 0 or @rem(p.value_dim, lanes) != 0 or p.rope_table != 0;
}

/// The planner cuts long work into several pieces a thread, so whole teams still leave enough to share;
/// a plan of a few records is not to end up on one thread.
fn most_members(p: *const common.Params) u32 {
    return @intCast(@max(1, @min(team_size, @divFloor(p.record_count, 4))));
}

/// Records before `index` that are siblings in one run with it.
fn place_in_run(records: [*]const Record, index: u32) u32 {
    var at = index;
    while (at > 0 and siblings(&records[at - 1], &records[at])) at -= 1;
    return index - at;
}

fn siblings(a: *const Record, b: *const Record) bool {
    return b.kv_head == a.kv_head + 1 and b.row_start == a.row_start and b.row_count == a.row_count and
        b.slot == a.slot and b.kv_start == a.kv_start and b.kv_end == a.kv_end and
        b.full_start == a.full_start and b.full_end == a.full_end and b.request == a.request and
        b.position_start == a.position_start and b.column_offset == a.column_offset and
        b.level == a.level and b.query_head_count == a.query_head_count and b.row_count <= pass_rows;
}

fn run_team(p: *const common.Params, team: []const Record, staged: bool, s: *Scratch) void {
    var first: i32 = 0;
    while (first < team[0].row_count) : (first += pass_rows) {
        const count: usize = @intCast(@min(pass_rows, team[0].row_count - first));
        var works: [team_size]Work = undefined;
        for (team, works[0..team.len], s.members[0..team.len]) |*record, *w, *member|
            w.* = common.prepare(p, record, &member.rows, first, count, staged);
        run_pass(works[0..team.len], s);
    }
}

fn padded(dim: i32) usize {
    return (@as(usize, @intCast(dim)) + lanes - 1) / lanes * lanes;
}

fn run_pass(works: []const Work, s: *Scratch) void {
    const w = &works[0];
    const key_dim = padded(w.p.key_dim);
    const value_dim = padded(w.p.value_dim);
    for (works, s.members[0..works.len]) |*each, *m| {
        for (0..w.count) |i| {
            common.load_query(each, i, m.q[i * row_stride ..].ptr, key_dim);
            @memset(m.out[i * row_stride ..][0..value_dim], 0);
            m.maxima[i] = -simd.inf;
            m.sums[i] = 0;
        }
    }
    const token_bytes = (key_dim + value_dim) * w.kind.bytes() * works.len;
    const most: usize = @max(16, @min(block, block_bytes / token_bytes / 16 * 16));
    var t = w.start;
    var turn: usize = 0;
    if (t < w.end) common.locate(w, t, block_count(w, t, most), &s.tokens[0]);
    while (t < w.end) {
        const count = block_count(w, t, most);
        const next = t + @as(i32, @intCast(count));
        const ahead = &s.tokens[1 - turn];
        const ahead_count = if (next < w.end) block_count(w, next, most) else 0;
        if (ahead_count > 0) common.locate(w, next, ahead_count, ahead);
        const tokens = &s.tokens[turn];
        const kind = if (w.staged) .f32 else w.kind;
        if (w.staged) stage(w, s, tokens, count, key_dim, value_dim);
        for (count..(count + 7) & ~@as(usize, 7)) |i| tokens.k[i] = tokens.k[count - 1];
        for (works, s.members[0..works.len], 0..) |*each, *m, i| {
            const k_step = each.k_base -% w.k_base;
            const v_step = each.v_base -% w.v_base;
            var fetch: Ahead = .{ .rows = &s.ahead, .count = 0, .bytes = key_dim * w.kind.bytes() };
            fetch.plan(&ahead.k, ahead_count, i, works, .k);
            score_rows(each, s, m, kind, tokens, k_step, count, key_dim / lanes, fetch);
            for (0..w.count) |row| softmax(each, s, m, tokens, row, count, w.masked(t, next));
            fetch.bytes = value_dim * w.kind.bytes();
            fetch.plan(&ahead.v, ahead_count, i, works, .v);
            add_rows(each, s, m, kind, tokens, v_step, count, value_dim / lanes, fetch);
        }
        turn = 1 - turn;
        t = next;
    }
    for (works, s.members[0..works.len]) |*each, *m| {
        for (0..w.count) |i| common.finish(each, i, m.out[i * row_stride ..].ptr, m.maxima[i], m.sums[i]);
    }
}

fn block_count(w: *const Work, t: i32, most: usize) usize {
    return @intCast(@min(@as(i32, @intCast(most)), w.end - t));
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
    rows: [*]usize,
    count: usize,
    bytes: usize,

    /// Member i's share of the next block: token after token, and all heads of each.
    fn plan(a: *Ahead, next: [*]const usize, next_count: usize, i: usize, works: []const Work, comptime side: enum { k, v }) void {
        a.count = next_count;
        for (0..next_count) |j| {
            const at = i * next_count + j;
            const each = &works[at % works.len];
            const step = if (side == .k) each.k_base -% works[0].k_base else each.v_base -% works[0].v_base;
            a.rows[j] = next[at / works.len] +% step;
        }
    }

    inline fn fetch(a: Ahead, t: usize) void {
        if (t >= a.count) return;
        const row: [*]const u8 = @ptrFromInt(a.rows[t]);
        var at: usize = 0;
        while (at < a.bytes) : (at += 64) @prefetch(row + at, .{ .locality = 2 });
    }
};

const nothing: Ahead = .{ .rows = undefined, .count = 0, .bytes = 0 };

const ScoreFn = *const fn (q: [*]const f32, k: [*]const usize, step: usize, count: usize, vectors: usize, scores: [*]f32, ahead: Ahead) void;
const AddFn = *const fn (p: [*]const f32, v: [*]const usize, step: usize, count: usize, vectors: usize, alphas: [*]const f32, out: [*]f32, ahead: Ahead) void;

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

fn score_rows(w: *const Work, s: *Scratch, m: *Member, kind: Dtype, tokens: *const common.Tokens, step: usize, count: usize, vectors: usize, ahead: Ahead) void {
    var row: usize = 0;
    for (row_sizes, score_kernels[@intCast(@intFromEnum(kind))]) |size, kernel| {
        while (w.count - row >= size) : (row += size) {
            const fetch = if (row == 0) ahead else nothing;
            kernel(m.q[row * row_stride ..].ptr, &tokens.k, step, count, vectors, s.scores[row * block ..].ptr, fetch);
        }
    }
}

fn add_rows(w: *const Work, s: *Scratch, m: *Member, kind: Dtype, tokens: *const common.Tokens, step: usize, count: usize, vectors: usize, ahead: Ahead) void {
    var row: usize = 0;
    for (row_sizes, add_kernels[@intCast(@intFromEnum(kind))]) |size, kernel| {
        while (w.count - row >= size) : (row += size) {
            const fetch = if (row == 0) ahead else nothing;
            kernel(s.scores[row * block ..].ptr, &tokens.v, step, count, vectors, s.alphas[row..].ptr, m.out[row * row_stride ..].ptr, fetch);
        }
    }
}

/// Dot products of `rows` query rows with tokens, several tokens at once.
fn Score(comptime kind: Dtype, comptime rows: usize) type {
    const at_once = @max(2, @min(8, simd.registers / 2 / rows));
    return struct {
        fn run(q: [*]const f32, k: [*]const usize, step: usize, count: usize, vectors: usize, scores: [*]f32, ahead: Ahead) void {
            var t: usize = 0;
            while (t < count) : (t += at_once) {
                var keys: [at_once][*]const u8 = undefined;
                inline for (0..at_once) |j| {
                    ahead.fetch(t + j);
                    keys[j] = @ptrFromInt(k[t + j] +% step);
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
        fn run(p: [*]const f32, v: [*]const usize, step: usize, count: usize, vectors: usize, alphas: [*]const f32, out: [*]f32, ahead: Ahead) void {
            var c: usize = 0;
            while (c + wide <= vectors) : (c += wide)
                columns(wide, p, v, step, count, alphas, out + c * lanes, c, if (c == 0) ahead else nothing);
            while (c < vectors) : (c += 1)
                columns(1, p, v, step, count, alphas, out + c * lanes, c, if (c == 0) ahead else nothing);
        }

        inline fn columns(comptime n: usize, p: [*]const f32, v: [*]const usize, step: usize, count: usize, alphas: [*]const f32, out: [*]f32, c: usize, ahead: Ahead) void {
            var sums: [rows][n]F = undefined;
            inline for (0..rows) |r| {
                inline for (0..n) |j| {
                    const old: F = out[r * row_stride + j * lanes ..][0..lanes].*;
                    sums[r][j] = old * simd.splat(alphas[r]);
                }
            }
            for (0..count) |t| {
                ahead.fetch(t);
                const value: [*]const u8 = @ptrFromInt(v[t] +% step);
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
fn softmax(w: *const Work, s: *Scratch, m: *Member, tokens: *const common.Tokens, i: usize, count: usize, masked: bool) void {
    const x = s.scores[i * block ..][0..block];
    const vectors = (count + lanes - 1) / lanes;
    if (w.adjusts or masked) change(w, tokens, i, x, vectors, masked);
    for (count..vectors * lanes) |t| x[t] = -simd.inf;
    var top = simd.splat(m.maxima[i]);
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
    const alpha = simd.exp2_scalar(m.maxima[i] - base);
    s.alphas[i] = alpha;
    m.sums[i] = m.sums[i] * alpha + simd.sum(total);
    m.maxima[i] = maximum;
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
