//! The two inner loops of decode, for one to eight query rows and every element type of the cache.
const simd = @import("../simd.zig");
const common = @import("common.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const lanes = simd.lanes;
const row_stride = common.row_stride;

/// Tokens of one step, at most; the distance between the scores of two query rows.
pub const block = 64;

/// Tokens of a block: their rows lie at tokens[t] + shift and have `vectors` vectors of elements.
/// Score kernels read up to seven addresses past `count`, which must be readable rows.
pub const Step = struct {
    tokens: [*]const usize,
    shift: usize,
    count: usize,
    vectors: usize,
    ahead: Ahead,
};

/// Rows to prefetch while others are worked on: one of them for each token handled.
pub const Ahead = struct {
    rows: [*]const usize,
    count: usize,
    bytes: usize,

    pub const none: Ahead = .{ .rows = undefined, .count = 0, .bytes = 0 };

    // Into the second level: a block is more than the first holds.
    inline fn fetch(a: Ahead, t: usize, from: usize, to: usize) void {
        if (t >= a.count) return;
        const row: [*]const u8 = @ptrFromInt(a.rows[t]);
        var at = (from + 63) & ~@as(usize, 63);
        while (at < @min(to, a.bytes)) : (at += 64) @prefetch(row + at, .{ .locality = 2 });
    }
};

const row_sizes = if (simd.registers == 32) [_]usize{ 8, 4, 2, 1 } else [_]usize{ 4, 2, 1 };

/// One row has little arithmetic to hide memory behind: its lines are asked for at once. With more
/// rows a burst would fill the miss buffers and stall the arithmetic: they come a few at a time.
fn bursts(comptime rows: usize) bool {
    return rows == 1;
}

const ScoreFn = *const fn (q: [*]const f32, scores: [*]f32, step: *const Step) void;
const AddFn = *const fn (
    p: [*]const f32,
    alphas: [*]const f32,
    out: [*]f32,
    step: *const Step,
) void;

const score_kernels = kernels(ScoreFn, Score);
const add_kernels = kernels(AddFn, Add);

fn kernels(comptime Fn: type, comptime Make: anytype) [simd.float_count][row_sizes.len]Fn {
    var table: [simd.float_count][row_sizes.len]Fn = undefined;
    for (0..simd.float_count) |kind| {
        for (row_sizes, 0..) |rows, i|
            table[kind][i] = &Make(@fromBackingInt(@intCast(kind)), rows).run;
    }
    return table;
}

/// scores[row][token] = q[row] . token, up to the raw factor of the type.
pub fn score(kind: Dtype, rows: usize, q: [*]const f32, scores: [*]f32, step: *Step) void {
    var row: usize = 0;
    for (row_sizes, score_kernels[@intCast(@backingInt(kind))]) |size, kernel| {
        while (rows - row >= size) : (row += size) {
            kernel(q + row * row_stride, scores + row * block, step);
            step.ahead = .none;
        }
    }
}

/// out[row] = out[row] * alphas[row] + p[row] x tokens, up to the raw factor of the type.
pub fn add(
    kind: Dtype,
    rows: usize,
    p: [*]const f32,
    alphas: [*]const f32,
    out: [*]f32,
    step: *Step,
) void {
    var row: usize = 0;
    for (row_sizes, add_kernels[@intCast(@backingInt(kind))]) |size, kernel| {
        while (rows - row >= size) : (row += size) {
            kernel(p + row * block, alphas + row, out + row * row_stride, step);
            step.ahead = .none;
        }
    }
}

/// Dot products of `rows` query rows with tokens, several tokens at once.
fn Score(comptime kind: Dtype, comptime rows: usize) type {
    const at_once = @max(2, @min(8, simd.registers / 2 / rows));
    const vector_bytes = lanes * kind.bytes();
    return struct {
        fn run(q: [*]const f32, scores: [*]f32, step: *const Step) void {
            const ahead = step.ahead;
            var t: usize = 0;
            while (t < step.count) : (t += at_once) {
                var keys: [at_once][*]const u8 = undefined;
                inline for (0..at_once) |j| {
                    if (comptime bursts(rows)) ahead.fetch(t + j, 0, ahead.bytes);
                    keys[j] = @ptrFromInt(step.tokens[t + j] +% step.shift);
                }
                var sums: [rows][at_once]F = @splat(@splat(@splat(0)));
                for (0..step.vectors) |c| {
                    if (comptime !bursts(rows)) {
                        inline for (0..at_once) |j|
                            ahead.fetch(t + j, c * vector_bytes, (c + 1) * vector_bytes);
                    }
                    var x: [at_once]F = undefined;
                    inline for (0..at_once) |j|
                        x[j] = simd.load_raw(kind, lanes, keys[j] + c * vector_bytes);
                    inline for (0..rows) |r| {
                        const y: F = q[r * row_stride + c * lanes ..][0..lanes].*;
                        inline for (0..at_once) |j| sums[r][j] = simd.mul_add(y, x[j], sums[r][j]);
                    }
                }
                inline for (0..rows) |r|
                    scores[r * block + t ..][0..at_once].* = simd.sum_each(at_once, sums[r]);
            }
        }
    };
}

/// Weighted sums of tokens for `rows` query rows, a stretch of columns at a time.
fn Add(comptime kind: Dtype, comptime rows: usize) type {
    const wide = @max(1, @min(8, simd.registers / 2 / rows));
    const vector_bytes = lanes * kind.bytes();
    return struct {
        fn run(p: [*]const f32, alphas: [*]const f32, out: [*]f32, step: *const Step) void {
            var c: usize = 0;
            while (c + wide <= step.vectors) : (c += wide)
                columns(wide, p, alphas, out, c, step);
            while (c < step.vectors) : (c += 1) columns(1, p, alphas, out, c, step);
        }

        inline fn columns(
            comptime n: usize,
            p: [*]const f32,
            alphas: [*]const f32,
            out: [*]f32,
            c: usize,
            step: *const Step,
        ) void {
            var sums: [rows][n]F = undefined;
            inline for (0..rows) |r| {
                inline for (0..n) |j| {
                    const old: F = out[r * row_stride + (c + j) * lanes ..][0..lanes].*;
                    sums[r][j] = old * simd.splat(alphas[r]);
                }
            }
            const shift = step.shift +% c * vector_bytes;
            for (0..step.count) |t| {
                if (comptime !bursts(rows)) {
                    step.ahead.fetch(t, c * vector_bytes, (c + n) * vector_bytes);
                } else if (c == 0) step.ahead.fetch(t, 0, step.ahead.bytes);
                const value: [*]const u8 = @ptrFromInt(step.tokens[t] +% shift);
                var x: [n]F = undefined;
                inline for (0..n) |j| x[j] = simd.load_raw(kind, lanes, value + j * vector_bytes);
                inline for (0..rows) |r| {
                    const y = simd.splat(p[r * block + t]);
                    inline for (0..n) |j| sums[r][j] = simd.mul_add(y, x[j], sums[r][j]);
                }
            }
            inline for (0..rows) |r| {
                inline for (0..n) |j|
                    out[r * row_stride + (c + j) * lanes ..][0..lanes].* = sums[r][j];
            }
        }
    };
}
