//! Mixtures of experts: which experts tokens go to, and the sum of what they say.
const std = @import("std");
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const pointers = @import("pointers.zig");
const simd = @import("simd.zig");

const Dtype = simd.Dtype;
const items = pointers.items;
const Route = params.fb_route_params;
const Combine = params.fb_combine_params;

pub const kernels = [_]Kernel{
    .of("moe_route", Route, all_tokens, route),
    .of("moe_combine", Combine, 1, combine),
};

/// One item has them all: it sorts their entries at the end.
const all_tokens = std.math.maxInt(i32);

const experts_most = 1024;
const groups_most = 32;
/// Columns of out that are summed at a time.
const block = 1024;

fn route(p: *const Route, index: u32, scratch: [*]align(64) u8) i32 {
    if (index > 0) return 0;
    const keys: *[2 * experts_most]f32 = @ptrCast(scratch);
    for (0..size(p.token_count)) |token|
        choose(p, token, keys[0..experts_most], keys[experts_most..]);
    sort(p, @ptrCast(scratch));
    return 0;
}

fn choose(p: *const Route, token: usize, keys: []f32, logits: []f32) void {
    const count = size(p.expert_count);
    const top_k = size(p.top_k);
    const kind: Dtype = @fromBackingInt(@intCast(p.dtype));
    const row: i64 = @intCast(token);
    const source = pointers.offset(p.logits, row * p.logits_stride, kind.bytes());
    simd.widen_row(kind, items(u8, source), logits.ptr, count, 1);
    var largest = -simd.inf;
    for (logits[0..count]) |*logit| {
        if (logit.* != logit.*) logit.* = -simd.inf;
        largest = @max(largest, logit.*);
    }
    var sum: f32 = 0;
    for (logits[0..count]) |logit| sum += @exp(logit - largest);
    for (keys[0..count], logits[0..count], 0..) |*key, logit, e| {
        key.* = logit;
        if (p.bias != 0) key.* = score_of(p, logit, largest, sum) + items(f32, p.bias)[e];
        if (key.* != key.*) key.* = -simd.inf;
    }
    if (p.group_count > 1) drop_groups(p, keys[0..count]);
    const experts = items(i32, p.experts)[token * top_k ..][0..top_k];
    const weights = items(f32, p.weights)[token * top_k ..][0..top_k];
    var total: f32 = 0;
    for (experts, weights) |*expert, *weight| {
        const best = take_largest(keys[0..count]);
        expert.* = @intCast(best);
        weight.* = score_of(p, logits[best], largest, sum);
        total += weight.*;
    }
    for (weights) |*weight| {
        if (p.renormalize != 0) weight.* /= total;
        weight.* *= p.scale;
    }
}

/// Takes the keys of all groups but the best ones.
fn drop_groups(p: *const Route, keys: []f32) void {
    const count = size(p.group_count);
    const group_size = keys.len / count;
    var scores: [groups_most]f32 = undefined;
    for (scores[0..count], 0..) |*score, group| {
        var largest = -simd.inf;
        var second = -simd.inf;
        for (keys[group * group_size ..][0..group_size]) |key| {
            if (key > largest) {
                second = largest;
                largest = key;
            } else if (key > second) second = key;
        }
        score.* = if (p.group_best == 2) largest + second else largest;
    }
    for (scores[0..count], 0..) |score, group| {
        var before: i32 = 0;
        for (scores[0..count], 0..) |other, o| {
            if (other > score or (other == score and o < group)) before += 1;
        }
        if (before < p.groups_kept) continue;
        @memset(keys[group * group_size ..][0..group_size], std.math.nan(f32));
    }
}

fn score_of(p: *const Route, logit: f32, largest: f32, sum: f32) f32 {
    if (p.sigmoid != 0) return 1 / (1 + @exp(-logit));
    return @exp(logit - largest) / sum;
}

/// The first of the largest keys, which becomes NaN: these are taken already, and no others.
fn take_largest(keys: []f32) usize {
    var best: usize = keys.len;
    for (keys, 0..) |key, e| {
        if (key == key and (best == keys.len or key > keys[best])) best = e;
    }
    keys[best] = std.math.nan(f32);
    return best;
}

/// Entries by experts, in their order.
fn sort(p: *const Route, next: *[experts_most]i32) void {
    const count = size(p.token_count) * size(p.top_k);
    const experts = items(i32, p.experts)[0..count];
    const starts = items(i32, p.starts);
    @memset(next, 0);
    for (experts) |expert| next[size(expert)] += 1;
    starts[0] = 0;
    for (next[0..size(p.expert_count)], 0..) |*entries, e| {
        starts[e + 1] = starts[e] + entries.*;
        entries.* = starts[e];
    }
    for (experts, 0..) |expert, i| {
        const place = next[size(expert)];
        next[size(expert)] += 1;
        items(i32, p.rows)[size(place)] = @intCast(i / size(p.top_k));
        items(i32, p.places)[i] = place;
    }
}

/// Token `index`, in the order of its slots.
fn combine(p: *const Combine, index: u32, scratch: [*]align(64) u8) i32 {
    if (index >= p.token_count) return 0;
    const sums: *[2 * block]f32 = @ptrCast(scratch);
    var column: usize = 0;
    while (column < size(p.dim)) : (column += block) {
        const count = @min(block, size(p.dim) - column);
        combine_block(p, index, column, sums[0..count], sums[block..][0..count]);
    }
    return 0;
}

fn combine_block(p: *const Combine, token: usize, column: usize, sums: []f32, part: []f32) void {
    const at: i64 = @intCast(column);
    const row: i64 = @intCast(token);
    @memset(sums, 0);
    const first = token * size(p.top_k);
    for (items(i32, p.places)[first..][0..size(p.top_k)], first..) |place, entry| {
        if (place < 0 or place >= p.entry_count) continue;
        widen(p.y, place * p.y_stride + at, p.y_dtype, part);
        const weight = items(f32, p.weights)[entry];
        for (sums, part) |*sum, value| sum.* = simd.mul_add(weight, value, sum.*);
    }
    if (p.residual != 0) {
        widen(p.residual, row * p.residual_stride + at, p.residual_dtype, part);
        for (sums, part) |*sum, value| sum.* += value;
    }
    const kind: Dtype = @fromBackingInt(@intCast(p.out_dtype));
    const target = pointers.offset(p.out, row * p.out_stride + at, kind.bytes());
    simd.narrow_row(kind, sums.ptr, items(u8, target), sums.len, 1);
}

fn widen(base: u64, at: i64, dtype: i32, target: []f32) void {
    const kind: Dtype = @fromBackingInt(@intCast(dtype));
    const source = pointers.offset(base, at, kind.bytes());
    simd.widen_row(kind, items(u8, source), target.ptr, target.len, 1);
}

inline fn size(n: i32) usize {
    return @intCast(n);
}
