//! Where kept tokens lie: addresses of their rows, positions, scales.
const params = @import("params");
const pointers = @import("../pointers.zig");
const common = @import("common.zig");

const items = pointers.items;
const offset = pointers.offset;
const any_position = common.any_position;
const Params = common.Params;
const Record = common.Record;
const Tokens = common.Tokens;
const Work = common.Work;

/// Finds `count` kept tokens from `from`; token-wise scales too where there are any.
pub fn locate(w: *const Work, from: i32, count: usize, out: *Tokens) void {
    const p = w.p;
    const dense = w.r.column_offset < 0;
    const whole = dense and w.ragged;
    const size: i32 = if (whole) any_position else p.page_size;
    const bytes = w.kind.bytes();
    const k_step = offset(0, w.k_plane.stride_token, bytes);
    const v_step = offset(0, w.v_plane.stride_token, bytes);
    var column = if (whole) 0 else @divFloor(from, size);
    var within = from - column * size;
    const first_column = if (w.ragged) 0 else @divFloor(w.r.position_start, size);
    var i: usize = 0;
    while (i < count) {
        const logical = if (dense) column else items(
            i32,
            p.columns,
        )[@intCast(w.r.column_offset + column)] >> 1;
        const start = if (whole) within else logical * size + within;
        const run = @min(count - i, @as(usize, @intCast(size - within)));
        var page: i64 = 0;
        var value_page: i64 = 0;
        var row: i64 = within;
        if (w.ragged) {
            row = w.first_token + start;
        } else {
            const at = @as(i64, w.r.slot) * p.table_stride + first_column + logical;
            page = items(i32, p.page_table)[@intCast(at)];
            const own = p.value_page_table != 0;
            value_page = if (own) items(i32, p.value_page_table)[@intCast(at)] else page;
        }
        var k = w.k_base +% in_plane(w.k_plane, page, row, bytes);
        var v = w.v_base +% in_plane(w.v_plane, value_page, row, bytes);
        if (p.k_tail.data != 0) {
            const head = offset(p.k_tail.data, w.r.kv_head * p.k_tail.stride_head, bytes);
            const first = head +% in_plane(&p.k_tail, page, row, bytes);
            const step = offset(0, p.k_tail.stride_token, bytes);
            for (out.k_tail[i..][0..run], 0..) |*at, j| at.* = first +% j *% step;
        }
        for (i..i + run, 0..) |t, j| {
            out.k[t] = k;
            out.v[t] = v;
            out.place[t] = w.r.position_start + start + @as(i32, @intCast(j));
            k +%= k_step;
            v +%= v_step;
        }
        place_keys(p, out, i, run, page * p.page_size + row);
        if (w.variant != null) {
            const slot = page * size + row;
            for (out.slot[i..][0..run], 0..) |*at, j|
                at.* = @truncate((if (w.ragged) row else slot) + @as(i64, @intCast(j)));
        }
        if (w.k_by_token) token_scales(p.k_scale, w.r, page, row, out.k_scale[i..][0..run]);
        if (w.v_by_token) token_scales(p.v_scale, w.r, value_page, row, out.v_scale[i..][0..run]);
        i += run;
        column += 1;
        within = 0;
    }
}

/// From a head's first row to the row of a token.
fn in_plane(plane: *const params.fb_plane, page: i64, row: i64, bytes: usize) usize {
    return offset(0, page * plane.stride_page + row * plane.stride_token, bytes);
}

/// Positions of tokens [i, i + run), which lie one behind the other from a slot on.
fn place_keys(p: *const Params, out: *Tokens, i: usize, run: usize, slot: i64) void {
    const places = out.place[i..][0..run];
    const positions = out.position[i..][0..run];
    if (p.key_positions == 0) return @memcpy(positions, places);
    const given = items(i32, p.key_positions)[@intCast(slot)..][0..run];
    for (positions, given, places) |*x, own, place| x.* = if (own < 0) place else own;
}

fn token_scales(s: params.fb_scale, r: *const Record, page: i64, row: i64, out: []f32) void {
    const base = r.request * s.stride_request + r.kv_head * s.stride_head + page * s.stride_page;
    for (out, 0..) |*x, j| {
        const at = base + (row + @as(i64, @intCast(j))) * s.stride_token;
        x.* = items(f32, offset(s.data, at, 4))[0];
    }
}
