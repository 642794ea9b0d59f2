//! Hidden pairs beside values that are not finite. The weight of a hidden pair is 0, but 0 times
//! NaN or infinity is NaN: in a block of tokens that not all rows see, each row then takes the
//! values of those that it sees, one by one. Many rows look for such values beforehand; few look at
//! their sums afterwards, and go back to what they were.
const simd = @import("../simd.zig");
const common = @import("common.zig");

const F = simd.F;
const lanes = simd.lanes;
const row_stride = common.row_stride;

/// Whether all elements of rows are finite. `dim`: whole vectors.
pub fn is_finite(rows: [*]const f32, count: usize, dim: usize) bool {
    var zeros = simd.splat(0);
    for (0..count) |i| {
        var at = i * row_stride;
        while (at < i * row_stride + dim) : (at += lanes)
            zeros = simd.mul_add(@as(F, rows[at..][0..lanes].*), simd.splat(0), zeros);
    }
    return @reduce(.And, zeros == zeros);
}

/// Keeps what the sums of `rows` rows are.
pub fn keep(sums: [*]const f32, rows: usize, dim: usize, kept: [*]f32) void {
    for (0..rows) |i| @memcpy(kept[i * row_stride ..][0..dim], sums[i * row_stride ..][0..dim]);
}

/// Whether sums became NaN: then they are again what they were.
pub fn restore(sums: [*]f32, rows: usize, dim: usize, kept: [*]const f32) bool {
    var spoilt: @Vector(lanes, bool) = @splat(false);
    for (0..rows) |i| {
        var at = i * row_stride;
        while (at < i * row_stride + dim) : (at += lanes) {
            const now: F = sums[at..][0..lanes].*;
            const before: F = kept[at..][0..lanes].*;
            spoilt = spoilt | ((now != now) & (before == before));
        }
    }
    if (!@reduce(.Or, spoilt)) return false;
    for (0..rows) |i| @memcpy(sums[i * row_stride ..][0..dim], kept[i * row_stride ..][0..dim]);
    return true;
}

/// Whether row i sees token t of a block.
pub fn sees(w: *const common.Work, i: usize, tokens: *const common.Tokens, t: usize) bool {
    const key = tokens.position[t];
    if (key < w.rows.low[i] or key > w.rows.high[i]) return false;
    if (w.has_bits and !common.bit_visible(w, i, tokens.place[t])) return false;
    return if (w.variant) |v| v.sees(i, t) else true;
}
