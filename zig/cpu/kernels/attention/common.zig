//! What both attention kernels share: where tokens lie, what a query row may see, how scores
//! change, what is written at the end.
const std = @import("std");
const angles = @import("../angles.zig");
const params = @import("params");
const indices = @import("indices.zig");
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const turn = @import("../turn.zig");
const hidden = @import("hidden.zig");
const variants = @import("../variant/variant.zig");
const Variant = variants.Variant;

const Dtype = simd.Dtype;
const F = simd.F;
const I = simd.I;
const items = pointers.items;
const offset = pointers.offset;

const locating = @import("locate.zig");
pub const locate = locating.locate;

pub const Params = params.fb_attention_params;
pub const Record = params.fb_attention_record;

/// Tokens that Tokens holds at most.
pub const span = 128;
pub const max_dim = 576;
/// Floats from one staged row to the next: off a power of two, so rows do not share cache sets.
pub const row_stride = max_dim + 16;
/// Query rows that one pass may hold.
pub const max_rows = 256;

const no_position = std.math.minInt(i32);
pub const any_position = std.math.maxInt(i32);

/// What each query row of a pass may see: positions [low, high], then mask bits.
pub const Rows = extern struct {
    low: [max_rows]i32 align(64),
    high: [max_rows]i32 align(64),
    position: [max_rows]i32 align(64),
    slope: [max_rows]f32 align(64), // ALiBi, times log2(e)
    mask_bit: [max_rows]i64, // pair of the key at place 0
    mask_start: [max_rows]i32, // places before it are visible
    mask_end: [max_rows]i32,
};

/// Addresses, positions and scales of up to `span` kept tokens.
pub const Tokens = extern struct {
    k: [span]usize align(64),
    v: [span]usize align(64),
    k_tail: [span]usize align(64),
    position: [span]i32 align(64),
    place: [span]i32 align(64), // in the sequence: its position, unless it was given another
    k_scale: [span]f32 align(64),
    v_scale: [span]f32 align(64),
    slot: [span]i32 align(64), // page * page size + offset, for variants
};

/// One pass over a record: `count` rows from `first`, the tokens they may see and constant factors.
pub const Work = struct {
    p: *const Params,
    r: *const Record,
    rows: *Rows,
    first: i32,
    count: usize,
    start: i32, // kept tokens that some row may see
    end: i32,
    full_start: i32, // visible to all rows
    full_end: i32,
    kind: Dtype,
    k_base: usize,
    v_base: usize,
    ragged: bool, // tokens lie one behind the other, in no pages
    first_token: i64, // of the row, if it is ragged
    k_plane: *const params.fb_plane,
    v_plane: *const params.fb_plane,
    query_factor: f32, // what q is multiplied by, so that scores come in base 2
    value_factor: f32, // what the output is multiplied by
    k_by_token: bool,
    v_by_token: bool,
    adjusts: bool, // scores change between product and mask
    has_bits: bool,
    leads_out: bool, // an index tensor names a page or mask that is not there: read nothing
    staged: bool, // tokens are widened (and rotated) to f32 rows before use
    variant: ?*const Variant,
    weighs: bool, // scores become weights by softmax

    /// Place of kept token t in its sequence.
    pub fn place(w: *const Work, t: i32) i32 {
        if (w.r.column_offset < 0) return w.r.position_start + t;
        const size = w.p.page_size;
        const column = @divFloor(t, size);
        const kept = items(i32, w.p.columns)[@intCast(w.r.column_offset + column)] >> 1;
        return w.r.position_start + kept * size + (t - column * size);
    }

    /// Whether a variant changes vectors by a hook.
    pub fn hooks(w: *const Work, section: variants.Section) bool {
        return if (w.variant) |v| v.has(section) else false;
    }

    /// Whether tokens [from, to) need mask tests.
    pub inline fn masked(w: *const Work, from: i32, to: i32) bool {
        return from < w.full_start or to > w.full_end;
    }
};

/// Describes rows [first, first + count) of a record; `staged` kernels get tokens as plain f32.
pub fn prepare(
    p: *const Params,
    r: *const Record,
    rows: *Rows,
    first: i32,
    count: usize,
    staged: bool,
    variant: ?*const Variant,
) Work {
    const kind: Dtype = @fromBackingInt(@intCast(p.kv_dtype));
    const raw = if (staged) 1 else simd.raw_factor(kind);
    const k_scale = constant_scale(p.k_scale, r);
    const v_scale = constant_scale(p.v_scale, r);
    const natural = if (variant) |v| v.natural() else false;
    const base = if (natural) variant.?.score_factor() else simd.log2_e;
    const apart = p.contiguous == 0 and r.slot < 0;
    const k_plane = if (apart) &p.k_ragged else &p.k;
    const v_plane = if (apart) &p.v_ragged else &p.v;
    const cap_or_base = if (p.soft_cap > 0) 1 / p.soft_cap else base;
    var w: Work = .{
        .p = p,
        .r = r,
        .rows = rows,
        .first = first,
        .count = count,
        .start = r.kv_start,
        .end = r.kv_end,
        .full_start = r.full_start,
        .full_end = r.full_end,
        .kind = kind,
        .k_base = offset(k_plane.data, r.kv_head * k_plane.stride_head, kind.bytes()),
        .v_base = offset(v_plane.data, r.kv_head * v_plane.stride_head, kind.bytes()),
        .ragged = apart or p.contiguous != 0,
        .first_token = if (apart) -1 - @as(i64, r.slot) else r.slot,
        .k_plane = k_plane,
        .v_plane = v_plane,
        .query_factor = p.scale * k_scale * raw * cap_or_base,
        .value_factor = v_scale * raw,
        .k_by_token = by_token(p.k_scale),
        .v_by_token = by_token(p.v_scale),
        .adjusts = false,
        .has_bits = p.mask_mode != params.FB_MASK_NONE and p.mask != 0,
        .leads_out = false,
        .staged = staged,
        .variant = variant,
        .weighs = if (variant) |v| v.weighs() else true,
    };
    w.adjusts = w.k_by_token or p.soft_cap > 0 or p.alibi_slopes != 0;
    describe_rows(&w);
    if (indices.pages_lead_out(&w)) w.leads_out = true;
    return w;
}

/// Whether keys or values have a scale for each token.
pub fn has_token_scales(p: *const Params) bool {
    return by_token(p.k_scale) or by_token(p.v_scale);
}

fn by_token(s: params.fb_scale) bool {
    return s.data != 0 and (s.stride_page != 0 or s.stride_token != 0);
}

fn constant_scale(s: params.fb_scale, r: *const Record) f32 {
    if (s.data == 0 or by_token(s)) return 1;
    return items(
        f32,
        offset(s.data, r.request * s.stride_request + r.kv_head * s.stride_head, 4),
    )[0];
}

fn describe_rows(w: *Work) void {
    const p = w.p;
    const clamped = p.kv_lengths != 0 or p.query_lengths != 0;
    var lowest: i32 = any_position;
    var highest: i32 = no_position;
    var dead = false;
    for (0..w.count) |i| describe_row(w, i, clamped);
    if (w.variant) |v| v.set_rows(&w.rows.low, &w.rows.high, w.count);
    for (w.rows.low[0..w.count], w.rows.high[0..w.count]) |low, high| {
        lowest = @min(lowest, low);
        highest = @max(highest, high);
        if (high == no_position) dead = true;
    }
    for (w.count..(w.count + 31) & ~@as(usize, 31)) |i| {
        w.rows.low[i] = any_position;
        w.rows.high[i] = no_position;
        w.rows.position[i] = 0;
        w.rows.slope[i] = 0;
    }
    if (clamped or dead) {
        w.full_start = any_position;
        w.full_end = no_position;
    }
    if (p.key_positions != 0) return; // given positions do not ascend
    // Tokens that no row may see are never read: past a clamp they may be poison.
    if (highest != any_position) w.end = first_after(w, w.start, w.end, highest);
    if (lowest != no_position and w.end > w.start)
        w.start = first_after(w, w.start, w.end, lowest -| 1);
}

/// The place of a query row: lengths in tokens, of its request.
pub const Facts = struct {
    token: i32 = 0,
    head: i32 = 0,
    kv_head: i32 = 0,
    request: i32 = 0,
    position: i32 = 0,
    index: i32 = 0, // among the request's new tokens
    queries: i32 = 0,
    keys: i32 = 0,
    planned_queries: i32 = 0,
    planned_keys: i32 = 0,
    alive: bool = false, // not padding, not past the end known only here
};

/// Facts of a row, or only its request and planned position; `request` where the batch does not
/// say.
pub fn facts_of(p: *const Params, token: i32, head: i32, request: i32, all: bool) Facts {
    const row: usize = @intCast(token);
    var f: Facts = .{ .token = token, .head = head };
    f.request = if (p.token_requests == 0) request else items(i32, p.token_requests)[row];
    f.position = if (p.positions == 0) 0 else items(i32, p.positions)[row];
    f.alive = f.request >= 0;
    if (!all or !f.alive) return f;
    f.kv_head = @divFloor(head * p.kv_heads, p.query_heads);
    if (p.query_indptr == 0) return f;
    const at: usize = @intCast(f.request);
    const indptr = items(i32, p.query_indptr);
    f.index = token - indptr[at];
    f.planned_queries = indptr[at + 1] - indptr[at];
    if (p.planned_kv_lengths != 0) f.planned_keys = items(i32, p.planned_kv_lengths)[at];
    // The planned lengths are bounds: beyond them nothing was reserved.
    f.queries = shortened(f.planned_queries, p.query_lengths, at);
    f.keys = shortened(f.planned_keys, p.kv_lengths, at);
    if (p.kv_lengths != 0 or p.query_lengths != 0) f.position = f.keys - f.queries + f.index;
    f.alive = f.index < f.queries;
    return f;
}

fn shortened(planned: i32, lengths: u64, at: usize) i32 {
    return if (lengths == 0) planned else @max(0, @min(planned, items(i32, lengths)[at]));
}

fn describe_row(w: *Work, i: usize, clamped: bool) void {
    const p = w.p;
    const rows = w.rows;
    const row = w.r.row_start + w.first + @as(i32, @intCast(i));
    const token = @divFloor(row, w.r.query_head_count);
    const head = w.r.query_head_start + row - token * w.r.query_head_count;
    const all = clamped or w.has_bits or w.variant != null;
    const f = facts_of(p, token, head, w.r.request, all);
    if (w.variant) |v| v.set_row(i, &f);
    var high: i32 = if (clamped) f.keys - 1 else any_position;
    if (p.causal != 0) high = @min(high, f.position);
    if (high < 0 or !f.alive) high = no_position;
    if (w.has_bits and f.request >= 0) indices.describe_mask(w, i, &f);
    rows.low[i] = if (p.window_left >= 0) f.position - p.window_left else no_position;
    rows.high[i] = high;
    rows.position[i] = f.position;
    rows.slope[i] = if (p.alibi_slopes == 0) 0 else items(
        f32,
        p.alibi_slopes,
    )[@intCast(head)] * simd.log2_e;
}

/// First kept token of [from, to) whose place is above `bound`: places ascend.
fn first_after(w: *const Work, from: i32, to: i32, bound: i32) i32 {
    var low = from;
    var high = to;
    while (low < high) {
        const middle = low + @divFloor(high - low, 2);
        if (w.place(middle) > bound) high = middle else low = middle + 1;
    }
    return low;
}

/// The scale of a query head of a token.
fn query_scale(p: *const Params, token: i32, head: i32) f32 {
    if (p.q_scale.data == 0) return 1;
    const at = token * p.q_scale.stride_token + head * p.q_scale.stride_head;
    return items(f32, offset(p.q_scale.data, at, 4))[0];
}

/// What outputs are multiplied by before they are rounded.
pub fn out_unit(p: *const Params) f32 {
    return if (p.out_scale == 0) 1 else 1 / items(f32, p.out_scale)[0];
}

/// Query row `i` of the pass, rotated, times the query factor, zero-padded to `padded` floats.
pub fn load_query(w: *const Work, i: usize, out: [*]f32, padded: usize) void {
    const p = w.p;
    const kind: Dtype = @fromBackingInt(@intCast(p.q_dtype));
    const row = w.r.row_start + w.first + @as(i32, @intCast(i));
    const token = @divFloor(row, w.r.query_head_count);
    const head = w.r.query_head_start + row - token * w.r.query_head_count;
    const factor = w.query_factor * query_scale(p, token, head);
    const source = offset(p.q, token * p.q_stride_token + head * p.q_stride_head, kind.bytes());
    const dim: usize = @intCast(p.key_dim);
    const v = if (w.variant) |v| if (v.alters(.query)) v else null else null;
    const width = if (v) |changing| changing.query_dim else dim;
    simd.widen_row(kind, items(u8, source), out, width, if (v != null) 1 else factor);
    if (p.rope_rates != 0) rotate(p, out, w.rows.position[i], p.rope_factor);
    for (width..@max(width, padded)) |d| out[d] = 0;
    if (v) |changing| changing.query(i, out, dim, factor);
    for (dim..@max(dim, padded)) |d| out[d] = 0;
}

/// Widens a block of tokens to f32 rows, `row_stride` apart, through a variant's hooks. With
/// `scaled`, scales by token multiply the rows; else that is left for later. False if it `asks`
/// whether values are finite, and some are not.
pub fn stage(
    w: *const Work,
    tokens: *const Tokens,
    count: usize,
    keys: [*]f32,
    values: [*]f32,
    scaled: bool,
    asks: bool,
) bool {
    const k_scales: ?[*]const f32 = if (scaled and w.k_by_token) &tokens.k_scale else null;
    const v_scales: ?[*]const f32 = if (scaled and w.v_by_token) &tokens.v_scale else null;
    _ = stage_side(w, .key, &tokens.k, tokens, count, keys, k_scales, false);
    return stage_side(w, .value, &tokens.v, tokens, count, values, v_scales, asks);
}

fn stage_side(
    w: *const Work,
    comptime side: variants.Section,
    addresses: [*]const usize,
    tokens: *const Tokens,
    count: usize,
    out: [*]f32,
    scales: ?[*]const f32,
    asks: bool,
) bool {
    const p = w.p;
    const hooks = w.hooks(side);
    const dim: usize = @intCast(if (side == .key) p.key_dim else p.value_dim);
    const padded = (dim + simd.lanes - 1) / simd.lanes * simd.lanes;
    var finite = true;
    for (0..count) |i| {
        const row = out + i * row_stride;
        const factor = if (hooks or scales == null) 1 else scales.?[i];
        const tail: usize = if (side == .key) @intCast(p.key_tail) else 0;
        simd.widen_row(w.kind, items(u8, addresses[i]), row, dim - tail, factor);
        if (tail > 0)
            simd.widen_row(w.kind, items(u8, tokens.k_tail[i]), row + dim - tail, tail, factor);
        if (side == .key and p.rope_rates != 0) rotate(p, row, tokens.position[i], 1);
        for (dim..padded) |d| row[d] = 0;
        if (asks and !hooks) finite = finite and hidden.is_finite(row, 1, padded);
    }
    if (!hooks) return finite;
    w.variant.?.transform(side, 0, count, out, row_stride, dim, scales);
    return !asks or hidden.is_finite(out, count, padded);
}

/// Rotary embedding of elements [rope_first, rope_first + rope_dim), times a factor.
fn rotate(p: *const Params, row: [*]f32, position: i32, factor: f32) void {
    const pairs: usize = @intCast(@divFloor(p.rope_dim, 2));
    const x = row + @as(usize, @intCast(p.rope_first));
    var first: usize = 0;
    while (first < pairs) : (first += simd.lanes) {
        const angle = angles.at(@splat(position), p.rope_rates, first);
        const cos = angle.cos * simd.splat(factor);
        const sin = angle.sin * simd.splat(factor);
        turn.vector(x, pairs, first, p.rope_interleaved != 0, cos, sin);
    }
}

/// Token scales, soft cap and ALiBi, in that order, on scores that share a lane-wise layout.
pub inline fn adjust(w: *const Work, score: F, k_scale: F, key: I, query: I, slope: F) F {
    var x = score;
    if (w.k_by_token) x *= k_scale;
    if (w.p.soft_cap > 0) x = simd.tanh(x) * simd.splat(w.p.soft_cap * simd.log2_e);
    if (w.p.alibi_slopes != 0) x += slope * @as(F, @floatFromInt(key -% query));
    return x;
}

/// Whether the packed mask lets row i see the key at a place.
pub inline fn bit_visible(w: *const Work, i: usize, place: i32) bool {
    if (place < w.rows.mask_start[i]) return true;
    if (place >= w.rows.mask_end[i]) return false;
    const bit: u64 = @intCast(w.rows.mask_bit[i] + place);
    const shift: u6 = @intCast(w.p.mask_shift);
    const within: u3 = @intCast(bit & ((@as(u64, 1) << shift) - 1));
    return items(u8, w.p.mask)[@intCast(bit >> shift)] >> within & 1 != 0;
}

/// Writes row i's state: `maximum` in base 2, `sum` of 2 ** (score - maximum), unnormalised `sums`.
/// Where no key has a weight, `sum` is 0, and values count for nothing.
pub fn finish(w: *const Work, i: usize, sums: [*]f32, maximum: f32, sum: f32) void {
    const p = w.p;
    const dim: usize = @intCast(p.value_dim);
    const row = w.r.row_start + w.first + @as(i32, @intCast(i));
    const token = @divFloor(row, w.r.query_head_count);
    const head = w.r.query_head_start + row - token * w.r.query_head_count;
    const empty = sum == 0;
    if (empty) @memset(sums[0..dim], 0);
    if (w.r.partial_row >= 0) {
        const at: usize = @intCast(w.r.partial_row + w.first + @as(i32, @intCast(i)));
        const factor = if (empty) 0 else w.value_factor / sum;
        const target = items(u8, p.partial_out) + at * dim * 4;
        simd.narrow_row(.f32, sums, target, dim, factor);
        items(
            f32,
            p.partial_lse,
        )[at] = if (empty) -simd.inf else (maximum + @log2(sum)) * simd.ln_2;
        return;
    }
    var top = maximum;
    var total = sum;
    var factor = if (empty) 0 else w.value_factor;
    if (p.finalize != 0 and p.sinks != 0) {
        const sink = items(f32, p.sinks)[@intCast(head)] * simd.log2_e;
        top = @max(maximum, sink);
        if (top == -simd.inf) top = 0;
        const kept = simd.exp2_scalar(maximum - top);
        total = sum * kept + simd.exp2_scalar(sink - top);
        factor *= kept;
    }
    const kind: Dtype = @fromBackingInt(@intCast(p.out_dtype));
    const at = token * p.out_stride_token + head * p.out_stride_head;
    const target = items(u8, offset(p.out, at, kind.bytes()));
    const hooks = p.finalize != 0 and if (w.variant) |v| v.alters(.output) else false;
    const lse = if (!hooks and p.lse == 0)
        0
    else if (total == 0)
        -simd.inf
    else
        (top + @log2(total)) * simd.ln_2;
    if (total != 0) factor /= total;
    if (hooks) {
        const v = w.variant.?;
        const line = v.output(i, lse, sums, factor, dim);
        simd.narrow_row(kind, line, target, v.out_dim, out_unit(p));
    } else {
        simd.narrow_row(kind, sums, target, dim, factor * out_unit(p));
    }
    if (p.lse != 0)
        items(f32, p.lse)[@intCast(@as(i64, token) * p.query_heads + head)] = lse * p.lse_factor;
}
