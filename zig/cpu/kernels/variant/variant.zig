//! Attention variants on the CPU: what the attention kernels give their programs about rows and
//! keys, and where the programs change scores, vectors and what is visible.
const params = @import("params");
const simd = @import("../simd.zig");
const common = @import("../attention/common.zig");
const format = @import("program.zig");
const machine = @import("run.zig");

const F = simd.F;
const I = simd.I;
const lanes = simd.lanes;
const Row = format.Row;
pub const Section = format.Section;
const Register = machine.Register;

pub const State = machine.State;

/// What a kernel returns for a program that is none.
pub const bad_program: i32 = 2;

const all_seen: f32 = @bitCast(@as(i32, -1));

/// Vectors of a block of pairs: some registers of this size stay in the first level cache.
const block_vectors = 256 / lanes;

/// Groups of `vectors` vectors that a block of pairs takes at most.
pub fn most_groups(vectors: usize) usize {
    return @max(1, block_vectors / vectors);
}

/// Rows and keys of a pass whose pairs make a block: their scores lie in groups, one for each row
/// with the keys inside, or the other way round.
pub const Block = struct {
    keys_inside: bool,
    row: usize,
    rows: usize,
    key: usize,
    keys: usize,
};

/// How much of a block is hidden.
pub const Hides = struct {
    bounds: bool, // keys may lie outside of what rows see
    mask: bool, // the variant's mask has a say
    bits: ?[*]const i32, // places of the keys, of which the packed mask has a say
};

/// A variant with its program, bound to a thread's scratch.
pub const Variant = struct {
    program: format.Program,
    state: *State,
    /// Elements of rows of queries as they come, and of outputs as they go.
    query_dim: usize,
    out_dim: usize,

    /// null without a program, for keys and values of these dims. Runs what holds for all passes.
    pub inline fn open(
        given: *const params.fb_variant,
        state: *State,
        key_dim: i32,
        value_dim: i32,
    ) format.Program.Error!?Variant {
        return if (given.program == 0) null else try start(given, state, key_dim, value_dim);
    }

    noinline fn start(
        given: *const params.fb_variant,
        state: *State,
        key_dim: i32,
        value_dim: i32,
    ) format.Program.Error!Variant {
        const program: format.Program = try .open(given);
        var v: Variant = .{
            .program = program,
            .state = state,
            .query_dim = @intCast(key_dim),
            .out_dim = @intCast(value_dim),
        };
        if (program.matrix(.query)) |m|
            v.query_dim = try left_of(key_dim, m.columns()) + m.rows();
        if (program.matrix(.output)) |m|
            v.out_dim = try left_of(value_dim, m.rows()) + m.columns();
        const dim = @max(v.query_dim, v.out_dim, @as(usize, @intCast(@max(key_dim, value_dim))));
        if (dim > common.max_dim) return error.BadProgram;
        v.run(.uniform, &.{ .vectors = machine.register_vectors });
        for (&state.elements[0], 0..) |*x, i| x.* = @intCast(i);
        v.run(.elements, &.{ .vectors = vectors_of(dim), .words = .{ .axis = .lane } });
        return v;
    }

    /// Whether logits start from natural units, not from base 2.
    pub fn natural(v: *const Variant) bool {
        return v.has(.logits) or !v.weighs();
    }

    pub fn has(v: *const Variant, section: Section) bool {
        return v.program.has(section);
    }

    /// Whether rows of queries or outputs change on their way.
    pub fn alters(v: *const Variant, comptime side: format.Side) bool {
        const section: Section = if (side == .query) .query else .output;
        return v.has(section) or v.program.matrix(side) != null;
    }

    /// Whether weights come from a softmax over the logits.
    pub fn weighs(v: *const Variant) bool {
        return v.program.header.flags.weighs;
    }

    /// What x of logits is, besides scale * q.k.
    pub fn score_factor(v: *const Variant) f32 {
        const index = v.program.header.score_factor;
        return if (index == 0) 1 else v.register(index)[0][0];
    }

    /// Takes the inputs of row i; those of rows that are none are zeros.
    pub fn set_row(v: *const Variant, i: usize, facts: *const common.Facts) void {
        v.state.alive[i] = facts.alive;
        const words = [_]struct { Row, i32 }{
            .{ .query, facts.position },
            .{ .query_token, facts.token },
            .{ .query_index, facts.index },
            .{ .request, facts.request },
            .{ .head, facts.head },
            .{ .kv_head, facts.kv_head },
            .{ .query_length, facts.queries },
            .{ .kv_length, facts.keys },
        };
        for (words) |word| v.row_word(word[0])[i] = if (facts.alive) word[1] else 0;
    }

    fn row_word(v: *const Variant, word: Row) *[common.max_rows]i32 {
        return &v.state.rows[@backingInt(word)];
    }

    /// Computes the words of `count` rows, and tightens what positions they see.
    pub fn set_rows(v: *const Variant, low: [*]i32, high: [*]i32, count: usize) void {
        const lowest = v.row_word(.low);
        const highest = v.row_word(.high);
        const padded = vectors_of(count) * lanes;
        for (0..count) |i| {
            lowest[i] = @max(0, low[i]); // keys past the last one have position -1
            highest[i] = high[i];
        }
        for (count..padded) |i| {
            v.set_row(i, &.{});
            highest[i] = -1;
        }
        for (v.row_word(.lse)[0..padded]) |*x| x.* = 0;
        v.run(.rows, &.{ .vectors = padded / lanes, .rows = .{ .axis = .lane } });
        @memcpy(low[0..count], lowest[0..count]);
        @memcpy(high[0..count], highest[0..count]);
    }

    /// Takes `count` keys, and computes their words.
    pub fn set_keys(
        v: *const Variant,
        positions: [*]const i32,
        slots: [*]const i32,
        count: usize,
    ) void {
        const padded = vectors_of(count) * lanes;
        const keys = &v.state.keys;
        @memcpy(keys[0][0..count], positions[0..count]);
        @memset(keys[0][count..padded], -1);
        @memcpy(keys[1][0..count], slots[0..count]);
        @memset(keys[1][count..padded], 0);
        v.run(.keys, &.{ .vectors = padded / lanes, .keys = .{ .axis = .lane } });
    }

    /// Scores of a block become logits in base 2 (or weights), hidden ones -inf (or 0). Groups lie
    /// `stride` apart.
    pub fn change(
        v: *const Variant,
        w: *const common.Work,
        b: Block,
        x: [*]f32,
        stride: usize,
        hides: Hides,
    ) void {
        const f: machine.Frame = .{
            .groups = if (b.keys_inside) b.rows else b.keys,
            .vectors = vectors_of(if (b.keys_inside) b.keys else b.rows),
            .rows = .{ .axis = if (b.keys_inside) .group else .lane, .first = b.row },
            .keys = .{ .axis = if (b.keys_inside) .lane else .group, .first = b.key },
        };
        const changes = v.has(.logits);
        // Padding, which lies outside of all bounds, has no bits, and nothing is stored for it.
        const bounds = hides.bounds or hides.bits != null or v.program.header.flags.stores;
        const mask = hides.mask and v.has(.visible);
        const tests = bounds or mask;
        if (!changes and !tests) return;
        v.take(x, stride, &f);
        if (mask) v.run(.visible, &f);
        if (bounds and !mask) @memset(v.register(format.visible_register), @splat(all_seen));
        if (bounds) v.hide_outside(&b, &f);
        if (hides.bits) |places| v.hide_bits(w, &b, &f, places);
        if (changes) v.run(.logits, &f);
        if (tests) v.hide(&f);
        v.give(x, stride, &f, f.vectors * lanes, null);
    }

    /// Whether the mask lets a row see a key of the block that set_keys() took.
    pub fn sees(v: *const Variant, row: usize, key: usize) bool {
        if (!v.has(.visible)) return true;
        v.run(.visible, &.{ .vectors = 1, .rows = .{ .first = row }, .keys = .{ .first = key } });
        return @as(i32, @bitCast(v.register(format.visible_register)[0][0])) != 0;
    }

    /// A hook changes `count` vectors that lie `stride` apart, of rows or keys from `first` on;
    /// then factors multiply them, one each.
    pub fn transform(
        v: *const Variant,
        section: Section,
        first: usize,
        count: usize,
        x: [*]f32,
        stride: usize,
        dim: usize,
        factors: ?[*]const f32,
    ) void {
        const of_rows = section != .key and section != .value;
        const vectors = vectors_of(dim);
        const most = machine.register_vectors / vectors;
        var i: usize = 0;
        while (i < count) : (i += most) {
            const place: machine.Place = .{ .axis = .group, .first = first + i };
            const f: machine.Frame = .{
                .groups = @min(most, count - i),
                .vectors = vectors,
                .elements = dim,
                .rows = if (of_rows) place else .{},
                .keys = if (of_rows) .{} else place,
                .words = .{ .axis = .lane },
            };
            const from = x + i * stride;
            v.take(from, stride, &f);
            v.run(section, &f);
            v.give(from, stride, &f, dim, if (factors) |all| all + i else null);
        }
    }

    /// The query of row i, in place: of query_dim elements before, of `dim` after, times a factor.
    pub fn query(v: *const Variant, i: usize, x: [*]f32, dim: usize, factor: f32) void {
        v.multiply(.query, i, x, v.query_dim);
        v.transform(.query, i, 1, x, 0, dim, &.{factor});
    }

    /// Row i, of `width` elements, changes as it is to before its product, and is multiplied.
    pub fn multiply(
        v: *const Variant,
        comptime side: format.Side,
        i: usize,
        x: [*]f32,
        width: usize,
    ) void {
        const m = v.program.matrix(side) orelse return;
        const before: Section = if (side == .query) .before_query else .before_output;
        if (v.has(before)) v.transform(before, i, 1, x, 0, width, null);
        const product = &v.state.product;
        m.multiply(v.row_word(.head)[i], x, width, product);
        const count = width - m.rows() + m.columns();
        @memcpy(x[0..count], product[0..count]);
    }

    /// The output row of row i, of out_dim elements, from the sums of its values; the result holds
    /// until the next call.
    pub fn output(
        v: *const Variant,
        i: usize,
        lse: f32,
        sums: [*]const f32,
        factor: f32,
        dim: usize,
    ) [*]const f32 {
        const line = &v.state.line;
        for (line[0..dim], sums) |*x, sum| x.* = sum * factor;
        v.row_word(.lse)[i] = @bitCast(lse);
        if (!v.state.alive[i]) {
            @memset(line[0..v.out_dim], 0);
        } else {
            v.multiply(.output, i, line, dim);
            v.transform(.output, i, 1, line, 0, v.out_dim, null);
        }
        return line;
    }

    fn run(v: *const Variant, section: Section, f: *const machine.Frame) void {
        machine.run(&v.program, v.state, section, f);
    }

    fn register(v: *const Variant, index: usize) *Register {
        return &v.state.registers[index];
    }

    fn take(v: *const Variant, x: [*]const f32, stride: usize, f: *const machine.Frame) void {
        const to = v.register(format.x_register);
        for (0..f.groups) |g| {
            for (to[g * f.vectors ..][0..f.vectors], 0..) |*y, c|
                y.* = x[g * stride + c * lanes ..][0..lanes].*;
        }
    }

    /// Writes `dim` elements of each group.
    fn give(
        v: *const Variant,
        x: [*]f32,
        stride: usize,
        f: *const machine.Frame,
        dim: usize,
        factors: ?[*]const f32,
    ) void {
        const from = v.register(format.x_register);
        const whole = dim / lanes;
        for (0..f.groups) |g| {
            const factor = if (factors) |all| all[g] else 1;
            const out = x + g * stride;
            for (from[g * f.vectors ..][0..whole], 0..) |y, c|
                out[c * lanes ..][0..lanes].* = @as(F, y) * simd.splat(factor);
            if (whole == f.vectors) continue;
            const rest: [lanes]f32 = @as(F, from[g * f.vectors + whole]) * simd.splat(factor);
            @memcpy(out[whole * lanes .. dim], rest[0 .. dim % lanes]);
        }
    }

    fn hide(v: *const Variant, f: *const machine.Frame) void {
        const hidden = simd.splat(if (v.weighs()) -simd.inf else 0);
        const visible = v.register(format.visible_register);
        const x = v.register(format.x_register);
        for (x[0 .. f.groups * f.vectors], visible[0 .. f.groups * f.vectors]) |*y, seen| {
            const flags: I = @bitCast(@as(F, seen));
            y.* = @select(f32, flags != @as(I, @splat(0)), @as(F, y.*), hidden);
        }
    }

    /// Keys outside of the bounds of their rows.
    fn hide_outside(v: *const Variant, b: *const Block, f: *const machine.Frame) void {
        const keys = v.state.keys[0][b.key..].ptr;
        const low = v.row_word(.low)[b.row..].ptr;
        const high = v.row_word(.high)[b.row..].ptr;
        const visible = v.register(format.visible_register);
        for (0..f.groups) |g| {
            for (visible[g * f.vectors ..][0..f.vectors], 0..) |*seen, c| {
                const at = c * lanes;
                const key: I = if (b.keys_inside) keys[at..][0..lanes].* else @splat(keys[g]);
                const least: I = if (b.keys_inside) @splat(low[g]) else low[at..][0..lanes].*;
                const most: I = if (b.keys_inside) @splat(high[g]) else high[at..][0..lanes].*;
                const below = @select(f32, key < least, simd.splat(0), @as(F, seen.*));
                seen.* = @select(f32, key > most, simd.splat(0), below);
            }
        }
    }

    /// Packed masks, bit by bit.
    fn hide_bits(
        v: *const Variant,
        w: *const common.Work,
        b: *const Block,
        f: *const machine.Frame,
        places: [*]const i32,
    ) void {
        const width = f.vectors * lanes;
        const visible: [*]i32 = @ptrCast(v.register(format.visible_register));
        for (0..f.groups) |g| {
            for (visible[g * width ..][0..width], 0..) |*seen, j| {
                if (seen.* == 0) continue;
                const row = b.row + if (b.keys_inside) g else j;
                const place = places[b.key + if (b.keys_inside) j else g];
                if (!common.bit_visible(w, row, place)) seen.* = 0;
            }
        }
    }
};

/// Elements of a row of so many that a matrix of so many has no part in.
fn left_of(dim: i32, count: usize) format.Program.Error!usize {
    const width: usize = @intCast(dim);
    return if (count > width) error.BadProgram else width - count;
}

inline fn vectors_of(count: usize) usize {
    return (count + lanes - 1) / lanes;
}
