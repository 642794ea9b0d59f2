//! Which drafted tokens stand: by rejection, or because they are the target's.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const philox = @import("philox.zig");
const race = @import("race.zig");
const rows = @import("row.zig");

const Drafts = params.fb_drafts_params;
const F = simd.F;
const items = pointers.items;
const lanes = simd.lanes;

const match_rows = 128;

pub const kernels = [_]Kernel{
    .of("verify_drafts", Drafts, 1, verify),
    .of("match_drafts", Drafts, match_rows, match),
};

/// The path of a row, node by node.
const Path = struct {
    p: *const Drafts,
    tokens: [*]const i32,
    parents: ?[*]const i32,
    out: [*]i32,
    path: ?[*]i32,
    accepted: *i32,
    /// Of drafts.
    count: usize,
    /// The last one that was accepted.
    node: usize = 0,
    depth: usize = 0,

    fn of(p: *const Drafts, row: usize) Path {
        const most: usize = @intCast(p.draft_count);
        const at = row * most;
        const stated = if (p.counts == 0) p.draft_count else items(i32, p.counts)[row];
        return .{
            .p = p,
            .tokens = items(i32, p.tokens) + at,
            .parents = if (p.parents == 0) null else items(i32, p.parents) + at,
            .out = items(i32, p.out) + row * (most + 1),
            .path = if (p.path == 0) null else items(i32, p.path) + at,
            .accepted = &items(i32, p.accepted)[row],
            .count = @intCast(std.math.clamp(stated, 0, p.draft_count)),
        };
    }

    /// Of the drafts from `first` on the first that follows the node; `count` if none does. From
    /// the node on, so that the path goes ahead whatever the parents are.
    fn next(self: Path, first: usize) usize {
        const parents = self.parents orelse
            return if (first <= self.node) @min(self.node, self.count) else self.count;
        var draft = first;
        while (draft < self.count and parents[draft] != self.node) draft += 1;
        return @min(draft, self.count);
    }

    fn accept(self: *Path, draft: usize) void {
        self.out[self.depth] = self.tokens[draft];
        if (self.path) |path| path[self.depth] = @intCast(draft);
        self.node = draft + 1;
        self.depth += 1;
    }

    /// The token behind the path.
    fn end(self: Path, last: i32) void {
        const most: usize = @intCast(self.p.draft_count);
        self.out[self.depth] = last;
        @memset(self.out[self.depth + 1 .. most + 1], -1);
        if (self.path) |path| @memset(path[self.depth..most], -1);
        self.accepted.* = @intCast(self.depth);
    }
};

/// Probabilities as they count: 0 for NaN and below 0, 1 above 1.
inline fn probable(comptime n: usize, x: @Vector(n, f32)) @Vector(n, f32) {
    const V = @Vector(n, f32);
    const held = @min(x, @as(V, @splat(1)));
    return @select(f32, x >= @as(V, @splat(0)), held, @as(V, @splat(0)));
}

/// Whether this is no probability: rounding never doubles one.
inline fn odd(x: f32) bool {
    return !(x >= 0 and x < 2);
}

fn any_odd(row: []const f32) bool {
    var found = false;
    for (row) |x| found = found or odd(x);
    return found;
}

/// What is left of the target's probabilities after a node, when drafts were rejected: max(0, p - b
/// q), up to a factor (kernels/sampling/drafts.cu says why).
const Residual = struct {
    target: rows.Row,
    /// A whole number of vectors, behind the target's.
    draft: [*]f32,
    b: f32 = 0,
    /// Whether something in the target's row is no probability.
    is_odd: bool,

    fn of(p: *const Drafts, row: usize, node: usize, scratch: [*]align(64) u8) Residual {
        const first: i64 = @intCast(row);
        const to: i64 = @intCast(node);
        const length: usize = @intCast(p.vocabulary);
        const kind: simd.Dtype = @fromBackingInt(@intCast(p.target_dtype));
        const place = first * p.target_stride + to * p.target_node_stride;
        const source = items(u8, pointers.offset(p.targets, place, kind.bytes()));
        const target = rows.Row.load(kind, source, length, true, scratch);
        const self: Residual = .{
            .target = target,
            .draft = @ptrCast(target.indices),
            .is_odd = target.status & params.FB_SAMPLE_NAN != 0 or any_odd(target.x[0..length]),
        };
        @memset(self.draft[0..target.padded], 0);
        // No draft follows the last node.
        if (node >= p.draft_count) return self;
        const draft_kind: simd.Dtype = @fromBackingInt(@intCast(p.draft_dtype));
        const draft_place = first * p.draft_stride + to * p.draft_node_stride;
        const draft = items(u8, pointers.offset(p.drafts, draft_place, draft_kind.bytes()));
        simd.widen_row(draft_kind, draft, self.draft, length, 1);
        return self;
    }

    /// Whether something in a row of drafts that the path looked at whole is no probability.
    fn is_odd_draft(self: Residual) bool {
        return self.b > 0 and any_odd(self.draft[0..self.target.length]);
    }

    inline fn of_vector(self: Residual, start: usize) F {
        const q = probable(lanes, self.draft[start..][0..lanes].*);
        const x = probable(lanes, self.target.x[start..][0..lanes].*);
        return @max(simd.mul_add(simd.splat(-self.b), q, x), simd.splat(0));
    }

    fn at(self: Residual, token: usize) f32 {
        const V = @Vector(1, f32);
        const less = @as(V, .{-self.b});
        const q = probable(1, .{self.draft[token]});
        return @max(simd.mul_add(less, q, probable(1, .{self.target.x[token]}))[0], 0);
    }

    fn mass(self: Residual) f32 {
        var sum: u64 = 0;
        var start: usize = 0;
        while (start < self.target.padded) : (start += lanes) {
            const r: [lanes]f32 = self.of_vector(start);
            for (r) |weight| sum += rows.integer(weight);
        }
        return @as(f32, @floatFromInt(sum)) / rows.weight_one;
    }
};

/// The weights of what is left, for a draw.
const Left = struct {
    residual: Residual,

    pub inline fn some(_: Left, _: usize) bool {
        return true;
    }

    pub inline fn of(self: Left, start: usize) F {
        return self.residual.of_vector(start);
    }

    pub inline fn one(_: Left, _: usize, weight: f32) f32 {
        return weight;
    }
};

/// Whether one of the drafts after the path's node stands; `left` is what they leave of the target.
fn step(path: *Path, left: *Residual, random: philox.Philox, is_odd: *bool) bool {
    is_odd.* = is_odd.* or left.is_odd;
    const whole = left.mass();
    var mass = whole;
    var draft = path.next(path.node);
    while (draft < path.count) : (draft = path.next(draft + 1)) {
        const token = path.tokens[draft];
        // What is no token cannot stand.
        if (token < 0 or token >= path.p.vocabulary) continue;
        const at: usize = @intCast(token);
        const u = philox.uniform(@as(@Vector(1, u32), .{random.one(@intCast(draft))}))[0];
        is_odd.* = is_odd.* or odd(left.draft[at]);
        if (u * probable(1, .{left.draft[at]})[0] * mass < left.at(at)) {
            path.accept(draft);
            return true;
        }
        left.b += mass;
        is_odd.* = is_odd.* or left.is_odd_draft();
        mass = left.mass();
        if (mass > 0) continue;
        // The draft's probabilities are the target's, up to rounding.
        left.b = 0;
        mass = whole;
    }
    return false;
}

/// Row `row`.
fn verify(p: *const Drafts, row: u32, scratch: [*]align(64) u8) i32 {
    var path = Path.of(p, row);
    const seed = if (p.seeds == 0) p.seed else items(i64, p.seeds)[row];
    const of_all = if (p.is_position_row != 0) row else p.position;
    const position = if (p.positions == 0) of_all else items(i32, p.positions)[row];
    var random: philox.Philox = .{
        .key = @bitCast(seed),
        .position = @bitCast(position),
        .purpose = .accept_draft,
    };
    var left = Residual.of(p, row, 0, scratch);
    var is_odd = false;
    while (step(&path, &left, random, &is_odd)) {
        left = Residual.of(p, row, path.node, scratch);
        random.position +%= 1;
    }
    // Not the noise of the draft that was rejected here: given that, it is no longer random.
    random.purpose = .draw_rest;
    const winner = race.run(random, left.target.padded, Left{ .residual = left });
    path.end(@intCast(winner orelse 0));
    var status: i32 = if (is_odd) params.FB_SAMPLE_NAN else 0;
    if (winner == null) status |= params.FB_SAMPLE_NO_MASS;
    if (p.status != 0) items(i32, p.status)[row] = status;
    return 0;
}

/// Rows [match_rows * index, ...): a draft stands if it is the target's token after its parent.
fn match(p: *const Drafts, index: u32, _: [*]align(64) u8) i32 {
    const end = @min(@as(usize, @intCast(p.row_count)), (@as(usize, index) + 1) * match_rows);
    for (@as(usize, index) * match_rows..end) |row| {
        var path = Path.of(p, row);
        const nodes: usize = @intCast(p.draft_count + 1);
        const targets = items(i32, p.targets) + row * nodes;
        var draft = path.next(0);
        while (draft < path.count) : (draft = path.next(draft + 1)) {
            if (path.tokens[draft] == targets[path.node]) path.accept(draft);
        }
        path.end(targets[path.node]);
        if (p.status != 0) items(i32, p.status)[row] = 0;
    }
    return 0;
}
