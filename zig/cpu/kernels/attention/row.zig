//! Decode: a few packed query rows against a stream of tokens, read once.
const std = @import("std");
const Kernel = @import("../../kernel.zig").Kernel;
const scratch_bytes = @import("../../kernel.zig").scratch_bytes;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const common = @import("common.zig");
const hidden = @import("hidden.zig");
const leads_out = @import("indices.zig").leads_out;
const row_kernels = @import("row_kernels.zig");
const variants = @import("../variant/variant.zig");

const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const row_stride = common.row_stride;
const block = row_kernels.block;
const Work = common.Work;
const Record = common.Record;

pub const kernels = [_]Kernel{.of("attention_row", common.Params, 1, run)};

/// Query rows of one pass over the tokens.
const pass_rows = 16;
/// Records of one team, at most.
const team_size = 8;
/// Bytes of keys and values that a block may have: with the next one in flight it stays in the
/// second level cache.
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
    kept: [pass_rows * row_stride]f32 align(64),
    members: [team_size]Member,
    variant: variants.State,
};

comptime {
    if (@sizeOf(Scratch) > scratch_bytes) @compileError("scratch is too small");
}

/// Runs record `index` of the grid. Neighbouring KV heads over the same tokens work as a team: the
/// first of them runs all, block by block, and the others return at once, so that memory is read in
/// long stretches where heads lie side by side.
fn run(p: *const common.Params, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.record_count) return 0;
    const s: *Scratch = @ptrCast(scratch);
    const records = pointers.items(Record, p.records);
    const staged = is_staged(p);
    const alone = staged or p.variant.program != 0 or common.has_token_scales(p);
    const most = if (alone) 1 else most_members(p);
    if (index > 0 and joins(records, index, most)) return 0;
    var count: u32 = 1;
    while (index + count < p.record_count and joins(records, index + count, most)) count += 1;
    const variant = variants.Variant.open(&p.variant, &s.variant, p.key_dim, p.value_dim) catch
        return variants.bad_program;
    const hooks = if (variant) |*v| v.has(.key) or v.has(.value) else false;
    const team = records[index..][0..count];
    return run_team(p, team, staged or hooks, if (variant) |*v| v else null, s);
}

fn is_staged(p: *const common.Params) bool {
    const odd = @rem(p.key_dim, lanes) != 0 or @rem(p.value_dim, lanes) != 0;
    return odd or p.rope_rates != 0 or p.key_tail != 0;
}

/// The planner cuts long work into several pieces a thread, so whole teams still leave enough to
/// share; a plan of a few records is not to end up on one thread.
fn most_members(p: *const common.Params) u32 {
    return @intCast(@max(1, @min(team_size, @divFloor(p.record_count, 4))));
}

/// Whether a record is in the team of the one before it: teams begin at multiples of their size.
fn joins(records: [*]const Record, index: u32, most: u32) bool {
    const record = &records[index];
    const first = @rem(record.kv_head, @as(i32, @intCast(most))) == 0;
    return !first and siblings(&records[index - 1], record);
}

fn siblings(a: *const Record, b: *const Record) bool {
    var expected = a.*;
    expected.kv_head += 1;
    expected.query_head_start = b.query_head_start;
    expected.partial_row = b.partial_row;
    return b.row_count <= pass_rows and b.row_count > 0 and std.meta.eql(expected, b.*);
}

fn run_team(
    p: *const common.Params,
    team: []const Record,
    staged: bool,
    variant: ?*const variants.Variant,
    s: *Scratch,
) i32 {
    var first: i32 = 0;
    while (first < team[0].row_count) : (first += pass_rows) {
        const count: usize = @intCast(@min(pass_rows, team[0].row_count - first));
        var works: [team_size]Work = undefined;
        for (team, works[0..team.len], s.members[0..team.len]) |*record, *w, *member|
            w.* = common.prepare(p, record, &member.rows, first, count, staged, variant);
        if (works[0].leads_out) return leads_out;
        run_pass(works[0..team.len], s);
    }
    return 0;
}

fn padded(dim: i32) usize {
    return (@as(usize, @intCast(dim)) + lanes - 1) / lanes * lanes;
}

fn run_pass(works: []const Work, s: *Scratch) void {
    const w = &works[0];
    const key_dim = padded(w.p.key_dim);
    const value_dim = padded(w.p.value_dim);
    const members = s.members[0..works.len];
    for (works, members) |*each, *m| {
        for (0..w.count) |i| {
            common.load_query(each, i, m.q[i * row_stride ..].ptr, key_dim);
            @memset(m.out[i * row_stride ..][0..value_dim], 0);
            m.maxima[i] = if (w.weighs) -simd.inf else 0;
            m.sums[i] = if (w.weighs) 0 else 1;
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
        if (w.variant) |v| v.set_keys(&tokens.position, &tokens.slot, count);
        if (w.staged) stage(w, s, tokens, count);
        for (count..(count + 7) & ~@as(usize, 7)) |i| tokens.k[i] = tokens.k[count - 1];
        const masked = w.masked(t, next);
        for (0..works.len) |i| run_block(works, s, i, tokens, count, ahead, ahead_count, masked);
        turn = 1 - turn;
        t = next;
    }
    for (works, members) |*each, *m| {
        for (0..w.count) |i| {
            const out = m.out[i * row_stride ..].ptr;
            common.finish(each, i, out, m.maxima[i], m.sums[i]);
        }
    }
}

/// Member i of the team takes a block.
fn run_block(
    works: []const Work,
    s: *Scratch,
    i: usize,
    tokens: *const common.Tokens,
    count: usize,
    next: *const common.Tokens,
    next_count: usize,
    masked: bool,
) void {
    const w = &works[i];
    const m = &s.members[i];
    const kind = if (w.staged) .f32 else w.kind;
    var keys: row_kernels.Step = .{
        .tokens = &tokens.k,
        .shift = w.k_base -% works[0].k_base,
        .count = count,
        .vectors = padded(w.p.key_dim) / lanes,
        .ahead = plan_ahead(s, works, i, next_count, .k, next),
    };
    row_kernels.score(kind, w.count, &m.q, &s.scores, &keys);
    const hides = masked and w.variant == null;
    if (w.adjusts or hides) for (0..w.count) |row| change(w, s, tokens, row, count, hides);
    if (w.variant) |v| vary(w, v, s, tokens, count, masked);
    for (0..w.count) |row| weigh(w, s, m, tokens, row, count);
    var values: row_kernels.Step = .{
        .tokens = &tokens.v,
        .shift = w.v_base -% works[0].v_base,
        .count = count,
        .vectors = padded(w.p.value_dim) / lanes,
        .ahead = plan_ahead(s, works, i, next_count, .v, next),
    };
    const dim = values.vectors * lanes;
    if (masked) hidden.keep(&m.out, w.count, dim, &s.kept);
    row_kernels.add(kind, w.count, &s.scores, &s.alphas, &m.out, &values);
    if (masked and hidden.restore(&m.out, w.count, dim, &s.kept))
        add_seen(w, s, m, tokens, kind, &values);
}

/// Adds to each row the values of the tokens that it sees.
fn add_seen(
    w: *const Work,
    s: *Scratch,
    m: *Member,
    tokens: *const common.Tokens,
    kind: simd.Dtype,
    values: *const row_kernels.Step,
) void {
    for (0..w.count) |i| {
        const out = m.out[i * row_stride ..].ptr;
        const alpha = s.alphas[i..].ptr;
        for (0..values.count) |t| {
            var step = values.*;
            step.tokens += t;
            step.count = @intFromBool(hidden.sees(w, i, tokens, t));
            row_kernels.add(kind, 1, s.scores[i * block + t ..].ptr, alpha, out, &step);
            alpha[0] = 1;
        }
    }
}

fn block_count(w: *const Work, t: i32, most: usize) usize {
    return @intCast(@min(@as(i32, @intCast(most)), w.end - t));
}

/// Widens a block to f32 rows in scratch and points its tokens there.
fn stage(w: *const Work, s: *Scratch, tokens: *common.Tokens, count: usize) void {
    _ = common.stage(w, tokens, count, &s.keys, &s.values, false, false);
    for (0..count) |i| {
        tokens.k[i] = @intFromPtr(s.keys[i * row_stride ..].ptr);
        tokens.v[i] = @intFromPtr(s.values[i * row_stride ..].ptr);
    }
}

/// Lists member i's share of the next block to prefetch: token after token, all heads of each.
fn plan_ahead(
    s: *Scratch,
    works: []const Work,
    i: usize,
    count: usize,
    comptime side: enum { k, v },
    next: *const common.Tokens,
) row_kernels.Ahead {
    const w = &works[0];
    for (0..count) |j| {
        const at = i * count + j;
        const each = &works[at % works.len];
        const token = at / works.len;
        s.ahead[j] = switch (side) {
            .k => next.k[token] +% (each.k_base -% w.k_base),
            .v => next.v[token] +% (each.v_base -% w.v_base),
        };
    }
    const dim = if (side == .k) w.p.key_dim else w.p.value_dim;
    const bytes = @as(usize, @intCast(dim)) * w.kind.bytes();
    return .{ .rows = &s.ahead, .count = count, .bytes = bytes };
}

/// Scores of row i become probabilities relative to the new maximum; without softmax they are
/// weights as they are.
fn weigh(
    w: *const Work,
    s: *Scratch,
    m: *Member,
    tokens: *const common.Tokens,
    i: usize,
    count: usize,
) void {
    const x = s.scores[i * block ..][0..block];
    const vectors = (count + lanes - 1) / lanes;
    if (!w.weighs) {
        s.alphas[i] = 1;
        if (w.v_by_token) for (x[0..count], tokens.v_scale[0..count]) |*p, scale| {
            p.* *= scale;
        };
        return;
    }
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

/// A variant changes and hides the scores of a block, some rows at a time.
fn vary(
    w: *const Work,
    v: *const variants.Variant,
    s: *Scratch,
    tokens: *const common.Tokens,
    count: usize,
    masked: bool,
) void {
    const most = variants.most_groups((count + lanes - 1) / lanes);
    const bits: ?[*]const i32 = if (masked and w.has_bits) &tokens.place else null;
    const hides: variants.Hides = .{ .bounds = masked, .mask = masked, .bits = bits };
    var row: usize = 0;
    while (row < w.count) : (row += most) {
        const rows = @min(most, w.count - row);
        const b: variants.Block =
            .{ .keys_inside = true, .row = row, .rows = rows, .key = 0, .keys = count };
        v.change(w, b, s.scores[row * block ..].ptr, block, hides);
    }
}

/// Token scales, soft cap and ALiBi of row i where asked for; `masked` hides what it may not see.
fn change(
    w: *const Work,
    s: *Scratch,
    tokens: *const common.Tokens,
    i: usize,
    count: usize,
    masked: bool,
) void {
    const rows = w.rows;
    const x = s.scores[i * block ..][0..block];
    const vectors = (count + lanes - 1) / lanes;
    const low: I = @splat(rows.low[i]);
    const high: I = @splat(rows.high[i]);
    for (0..vectors) |c| {
        const at = x[c * lanes ..][0..lanes];
        const key: I = tokens.position[c * lanes ..][0..lanes].*;
        var score: F = at.*;
        if (w.adjusts) {
            const k_scale: F = tokens.k_scale[c * lanes ..][0..lanes].*;
            score = common.adjust(
                w,
                score,
                k_scale,
                key,
                @splat(rows.position[i]),
                simd.splat(rows.slope[i]),
            );
        }
        if (masked) {
            score = @select(f32, key < low, simd.splat(-simd.inf), score);
            score = @select(f32, key > high, simd.splat(-simd.inf), score);
        }
        at.* = score;
        if (masked and w.has_bits) {
            const places = tokens.place[c * lanes ..][0..lanes];
            inline for (0..lanes) |j| {
                if (score[j] != -simd.inf and !common.bit_visible(w, i, places[j]))
                    at[j] = -simd.inf;
            }
        }
    }
}
