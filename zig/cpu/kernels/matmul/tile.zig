//! Tiles of products: some rows of x against some rows of a weight, both along their inputs.
//!
//! Both operands lie along the inputs, so nothing is transposed: a sum is a vector, of which lane i
//! adds the inputs i, i + lanes, ... one after another, and the lanes are added at the very end.
//! The order follows from the number of inputs alone, not from the tile or what else it holds.
const features = @import("../../features.zig");
const simd = @import("../simd.zig");

const Dtype = simd.Dtype;
const F = simd.F;
const lanes = simd.lanes;

/// Rows of x and of a weight that a tile has at most: their sums fill the registers.
pub const tile_rows = if (simd.registers == 32) 6 else 3;
pub const tile_columns = 4;

/// How two operands are multiplied: widened to f32, or as pairs of bf16 by vdpbf16ps.
pub const Product = enum {
    f32,
    pairs,

    /// Inputs of one vector.
    pub fn step(comptime self: Product) usize {
        return if (self == .pairs) 2 * lanes else lanes;
    }

    /// Type of the rows of x.
    pub fn x_kind(comptime self: Product) Dtype {
        return if (self == .pairs) .bf16 else .f32;
    }
};

/// A sum that is still a vector.
pub const Sum = [lanes]f32;

/// Sums of an item [row][column].
pub const Sums = struct {
    first: [*]const Sum,
    stride: usize,

    /// The sums of 16 columns from one on.
    pub inline fn totals(sums: Sums, row: usize, column: usize) [16]f32 {
        var x: [16]F = undefined;
        inline for (0..16) |i| x[i] = sums.first[row * sums.stride + column + i];
        return simd.sum_each(16, x);
    }
};

/// Rows that lie `stride` bytes apart.
pub const Rows = struct {
    first: [*]const u8,
    stride: usize,

    pub fn from(rows: Rows, row: usize) Rows {
        return .{ .first = rows.first + row * rows.stride, .stride = rows.stride };
    }
};

/// The product for operands of these types.
pub fn product_of(x: Dtype, weight: Dtype) Product {
    const pairs = x == .bf16 and weight == .bf16 and features.has_bf16_products();
    return if (pairs) .pairs else .f32;
}

/// Adds to sums [rows][sums_stride] the products of `rows` x `columns` rows over `count` inputs;
/// `fresh` sums begin at 0.
pub fn add(
    comptime product: Product,
    comptime kind: Dtype,
    rows: usize,
    columns: usize,
    x: Rows,
    weight: Rows,
    count: usize,
    sums: [*]Sum,
    sums_stride: usize,
    fresh: bool,
) void {
    inline for (1..tile_rows + 1) |r| if (rows == r) {
        const most = tile_columns;
        if (columns == most)
            return multiply(product, kind, r, most, x, weight, count, sums, sums_stride, fresh);
        for (0..columns) |c|
            multiply(product, kind, r, 1, x, weight.from(c), count, sums + c, sums_stride, fresh);
        return;
    };
    unreachable;
}

fn multiply(
    comptime product: Product,
    comptime kind: Dtype,
    comptime rows: usize,
    comptime columns: usize,
    x: Rows,
    weight: Rows,
    count: usize,
    sums: [*]Sum,
    sums_stride: usize,
    fresh: bool,
) void {
    const step = comptime product.step();
    const x_kind = comptime product.x_kind();
    var acc: [rows][columns]F = @splat(@splat(@splat(0)));
    if (!fresh) inline for (0..rows) |r| {
        inline for (0..columns) |c| acc[r][c] = sums[r * sums_stride + c];
    };
    var k: usize = 0;
    while (k + step <= count) : (k += step) {
        var y: [columns]Operand(product) = undefined;
        inline for (0..columns) |c|
            y[c] = whole(product, kind, weight.first + c * weight.stride + k * kind.bytes());
        inline for (0..rows) |r| {
            const row = whole(product, x_kind, x.first + r * x.stride + k * x_kind.bytes());
            inline for (0..columns) |c| acc[r][c] = fused(product, row, y[c], acc[r][c]);
        }
    }
    if (k < count) {
        inline for (0..columns) |c| {
            const from = weight.first + c * weight.stride + k * kind.bytes();
            const y = part(product, kind, from, count - k);
            inline for (0..rows) |r| {
                const at = x.first + r * x.stride + k * x_kind.bytes();
                acc[r][c] = fused(product, part(product, x_kind, at, count - k), y, acc[r][c]);
            }
        }
    }
    inline for (0..rows) |r| {
        inline for (0..columns) |c| sums[r * sums_stride + c] = acc[r][c];
    }
}

fn Operand(comptime product: Product) type {
    return if (product == .pairs) @Vector(2 * lanes, u16) else F;
}

/// One vector of inputs.
inline fn whole(comptime product: Product, comptime kind: Dtype, p: [*]const u8) Operand(product) {
    if (product == .f32) return simd.load(kind, lanes, p);
    return @as(*align(1) const Operand(product), @ptrCast(p)).*;
}

/// The first `count` inputs of one vector, the others 0.
fn part(
    comptime product: Product,
    comptime kind: Dtype,
    p: [*]const u8,
    count: usize,
) Operand(product) {
    var bytes: [product.step() * kind.bytes()]u8 align(64) = @splat(0);
    @memcpy(bytes[0 .. count * kind.bytes()], p[0 .. count * kind.bytes()]);
    return whole(product, kind, &bytes);
}

inline fn fused(
    comptime product: Product,
    x: Operand(product),
    y: Operand(product),
    sum: F,
) F {
    if (product == .f32) return simd.mul_add(x, y, sum);
    return asm ("vdpbf16ps %[y], %[x], %[sum]"
        : [sum] "=v" (-> F),
        : [_] "0" (sum),
          [x] "v" (x),
          [y] "v" (y),
    );
}
