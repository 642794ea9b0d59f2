//! Logits before tokens are chosen: bias, penalties for what was said, tokens that are not allowed.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");

const items = pointers.items;

/// Elements that one grid index handles, of one row.
const adjust_elements = 16384;
const count_rows = 128;

pub const kernels = [_]Kernel{
    .of("adjust_logits", params.fb_adjust_params, adjust_elements, adjust),
    .of("count_tokens", params.fb_count_tokens_params, count_rows, count),
};

const Penalties = struct { repetition: f32, presence: f32, frequency: f32 };

/// What is not allowed is as if it were not given.
fn penalties_of(p: *const params.fb_adjust_params, row: usize) Penalties {
    var n: Penalties = .{
        .repetition = if (p.repetitions == 0) p.repetition else items(f32, p.repetitions)[row],
        .presence = if (p.presences == 0) p.presence else items(f32, p.presences)[row],
        .frequency = if (p.frequencies == 0) p.frequency else items(f32, p.frequencies)[row],
    };
    if (!(n.repetition > 0 and n.repetition < simd.inf)) n.repetition = 1;
    if (!(@abs(n.presence) < simd.inf)) n.presence = 0;
    if (!(@abs(n.frequency) < simd.inf)) n.frequency = 0;
    return n;
}

/// Row `row` of a tensor of int32; null without one.
fn row_of(address: u64, row: i64, stride: i64) ?[*]const i32 {
    if (address == 0) return null;
    return items(i32, pointers.offset(address, row * stride, 4));
}

inline fn bit_of(words: [*]const i32, token: usize) bool {
    return @as(u32, @bitCast(words[token / 32])) >> @intCast(token % 32) & 1 != 0;
}

/// Elements [adjust_elements * piece, ...) of a row, by pieces of all rows.
fn adjust(p: *const params.fb_adjust_params, index: u32, scratch: [*]align(64) u8) i32 {
    const vocabulary: usize = @intCast(p.vocabulary);
    const pieces = std.math.divCeil(usize, vocabulary, adjust_elements) catch unreachable;
    const row = index / pieces;
    const start = index % pieces * adjust_elements;
    const length = @min(adjust_elements, vocabulary - start);
    const kind: simd.Dtype = @fromBackingInt(@intCast(p.dtype));
    const x: [*]f32 = @ptrCast(scratch);
    const at: i64 = @intCast(row);
    const first: i64 = @intCast(start);
    const source = pointers.offset(p.x, at * p.x_stride + first, kind.bytes());
    simd.widen_row(kind, items(u8, source), x, length, 1);
    if (p.bias != 0) {
        const bias = items(f32, pointers.offset(p.bias, at * p.bias_stride + first, 4));
        for (x[0..length], bias[0..length]) |*value, more| value.* += more;
    }
    const slot: i64 = if (p.slots == 0) at else items(i32, p.slots)[row];
    const has_slot = slot >= 0 and slot < p.slot_count;
    if (has_slot and (p.counts != 0 or p.prompts != 0)) {
        const counts = row_of(p.counts, slot, p.counts_stride);
        const prompts = row_of(p.prompts, slot, p.prompts_stride);
        penalise(x[0..length], penalties_of(p, row), start, counts, prompts);
    }
    if (row_of(p.allowed, at, p.allowed_stride)) |allowed| {
        for (x[0..length], start..) |*value, token|
            if (!bit_of(allowed, token)) {
                value.* = -simd.inf;
            };
    }
    const target = pointers.offset(p.out, at * p.out_stride + first, kind.bytes());
    simd.narrow_row(kind, x, items(u8, target), length, 1);
    return 0;
}

fn penalise(
    x: []f32,
    n: Penalties,
    start: usize,
    counts: ?[*]const i32,
    prompts: ?[*]const i32,
) void {
    for (x, start..) |*value, token| {
        const said = if (counts) |some| some[token] else 0;
        const was_said = said > 0 or (prompts != null and bit_of(prompts.?, token));
        if (!was_said) continue;
        value.* = if (value.* > 0) value.* / n.repetition else value.* * n.repetition;
        if (said <= 0) continue;
        const times: f32 = @floatFromInt(said);
        value.* = value.* - n.frequency * times - n.presence;
    }
}

/// Rows [count_rows * index, ...).
fn count(p: *const params.fb_count_tokens_params, index: u32, _: [*]align(64) u8) i32 {
    const end = @min(@as(usize, @intCast(p.row_count)), (@as(usize, index) + 1) * count_rows);
    for (@as(usize, index) * count_rows..end) |row| {
        const token: i64 = items(i32, p.tokens)[row];
        const slot: i64 = if (p.slots == 0) @intCast(row) else items(i32, p.slots)[row];
        if (token < 0 or token >= p.vocabulary or slot < 0 or slot >= p.slot_count) continue;
        const place = items(i32, pointers.offset(p.counts, slot * p.counts_stride + token, 4));
        // Two rows may be of one slot.
        _ = @atomicRmw(i32, &place[0], .Add, 1, .monotonic);
    }
    return 0;
}
