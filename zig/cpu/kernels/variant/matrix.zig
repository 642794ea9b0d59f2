//! Rows of queries and outputs times a matrix of a variant.
const simd = @import("../simd.zig");
const pointers = @import("../pointers.zig");
const format = @import("program.zig");

const lanes = simd.lanes;

/// A tensor [rows, columns], or of each head [head, rows, columns]: rows of so many elements become
/// as many products as there are columns, with the elements that are left behind them.
pub const Matrix = struct {
    tensor: format.Tensor,

    /// Elements of a row that it takes, and what becomes of them.
    pub fn rows(m: Matrix) usize {
        return @intCast(m.tensor.sizes[m.tensor.axes - 2]);
    }

    pub fn columns(m: Matrix) usize {
        return @intCast(m.tensor.sizes[m.tensor.axes - 1]);
    }

    /// out = x, of `width` elements, times the matrix of a head.
    pub fn multiply(m: Matrix, head: i32, x: [*]const f32, width: usize, out: [*]f32) void {
        switch (m.tensor.kind) {
            .i8, .i32, .i64, .u8, .bool => unreachable,
            inline else => |kind| m.all(kind, head, x, out),
        }
        @memcpy(out[m.columns()..][0 .. width - m.rows()], x[m.rows()..width]);
    }

    fn all(m: Matrix, comptime kind: simd.Dtype, head: i32, x: [*]const f32, out: [*]f32) void {
        const t = m.tensor;
        const last = t.sizes[0] - 1;
        const first = if (t.axes == 3) @as(i64, @max(0, @min(head, last))) * t.strides[0] else 0;
        const matrix = pointers.offset(t.data, first, kind.bytes());
        const count = m.columns();
        var c: usize = 0;
        // Columns that do not lie side by side come one by one.
        if (t.strides[t.axes - 1] == 1) {
            while (c + 8 * lanes <= count) : (c += 8 * lanes) m.some(kind, 8, matrix, c, x, out);
            while (c + lanes <= count) : (c += lanes) m.some(kind, 1, matrix, c, x, out);
        }
        while (c < count) : (c += 1) m.one(kind, matrix, c, x, out);
    }

    /// Columns [c, c + n vectors).
    fn some(
        m: Matrix,
        comptime kind: simd.Dtype,
        comptime n: usize,
        matrix: u64,
        c: usize,
        x: [*]const f32,
        out: [*]f32,
    ) void {
        var sums: [n]simd.F = @splat(@splat(0));
        for (0..m.rows()) |i| {
            const y = simd.splat(x[i]);
            const from = m.element(kind, matrix, i, c);
            inline for (0..n) |j| {
                const w = simd.load(kind, lanes, from + j * lanes * comptime kind.bytes());
                sums[j] = simd.mul_add(y, w, sums[j]);
            }
        }
        inline for (0..n) |j| out[c + j * lanes ..][0..lanes].* = sums[j];
    }

    fn one(
        m: Matrix,
        comptime kind: simd.Dtype,
        matrix: u64,
        c: usize,
        x: [*]const f32,
        out: [*]f32,
    ) void {
        var sum: f32 = 0;
        for (0..m.rows()) |i|
            sum = simd.mul_add(x[i], simd.load(kind, 1, m.element(kind, matrix, i, c))[0], sum);
        out[c] = sum;
    }

    inline fn element(
        m: Matrix,
        comptime kind: simd.Dtype,
        matrix: u64,
        i: usize,
        c: usize,
    ) [*]const u8 {
        const down: i64 = m.tensor.strides[m.tensor.axes - 2];
        const across: i64 = m.tensor.strides[m.tensor.axes - 1];
        const at = @as(i64, @intCast(i)) * down + @as(i64, @intCast(c)) * across;
        return pointers.items(u8, pointers.offset(matrix, at, kind.bytes()));
    }
};
