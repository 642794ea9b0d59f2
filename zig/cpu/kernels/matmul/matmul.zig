//! Products of rows with weights. An item is a block of rows and outputs; inputs go through it in
//! spans, whose sums stay vectors until the last (tile.zig says why their order is a row's own).
const params = @import("params");
const Kernel = @import("../../kernel.zig").Kernel;
const scratch_bytes = @import("../../kernel.zig").scratch_bytes;
const pointers = @import("../pointers.zig");
const simd = @import("../simd.zig");
const coded = @import("coded.zig");
const experts = @import("experts.zig");
const finish = @import("finish.zig").finish;
const Item = @import("finish.zig").Item;
const tile = @import("tile.zig");
const whole = @import("whole.zig");
const widen_weight = @import("widen.zig").widen_weight;
const widen_x = @import("widen.zig").widen_x;

const Dtype = simd.Dtype;
const Params = params.fb_matmul_params;
const Rows = tile.Rows;

pub const kernels = [_]Kernel{
    .of("matmul_few", Params, few.outputs, few.kernel()),
    .of("matmul", Params, many.outputs, many.kernel()),
    .of("matmul_whole", Params, in_whole.outputs, run_whole),
};

/// Rows as in src/ops/matmul-kernels.ts.
const few: Shape = .{ .rows = 8, .outputs = 16 };
const many: Shape = .{ .rows = 128, .outputs = 64 };
const in_whole: Shape = .{ .rows = 64, .outputs = 32 };

/// Inputs of one span: a tile's rows of x stay in the first cache, an item's weights in the second.
const span = 1024;

comptime {
    if (span / 16 > coded.groups_most) @compileError("a tile has too little room for groups");
}

/// What an item covers, at most.
const Shape = struct {
    rows: usize,
    outputs: usize,

    /// Sums of a row, a few more than its outputs, so that rows do not meet in a set of the cache.
    fn sums_stride(comptime shape: Shape) usize {
        return shape.outputs + 2;
    }

    fn Scratch(comptime shape: Shape) type {
        return extern struct {
            sums: [shape.rows * shape.sums_stride()]tile.Sum align(64),
            x: [shape.rows * span]f32 align(64),
            weight: [shape.outputs * span]f32 align(64),

            comptime {
                if (@sizeOf(@This()) > scratch_bytes) @compileError("scratch is too small");
            }
        };
    }

    fn kernel(comptime shape: Shape) fn (*const Params, u32, [*]align(64) u8) i32 {
        return struct {
            fn run(p: *const Params, index: u32, scratch: [*]align(64) u8) i32 {
                run_item(shape, p, index, @ptrCast(scratch));
                return 0;
            }
        }.run;
    }
};

/// Items of the same outputs follow each other.
fn run_item(
    comptime shape: Shape,
    p: *const Params,
    index: u32,
    s: *shape.Scratch(),
) void {
    const row_blocks = experts.block_count(p, shape.rows);
    const item = item_of(shape, p, index % row_blocks, index / row_blocks) orelse return;
    multiply_item(shape, p, item, s);
}

/// The item of a block of rows and one of outputs, if there are such rows. Gated, half of an item's
/// weights are gates.
fn item_of(comptime shape: Shape, p: *const Params, rows: usize, outputs: usize) ?Item {
    const parts: usize = if (p.gated != 0) 2 else 1;
    const width = shape.outputs / parts;
    const block = experts.block_of(p, rows, shape.rows) orelse return null;
    const output = outputs * width;
    return .{
        .row = block.row,
        .rows = block.rows,
        .output = output,
        .outputs = @min(width, count_of(p.outputs) - output),
        .parts = parts,
        .expert = block.expert,
    };
}

/// What whole numbers need: what is staged stays for the items of the same rows.
const WholeScratch = extern struct {
    /// One more than the block of rows that is staged; 0 when a launch begins.
    staged: u64,
    sums: [in_whole.rows * in_whole.outputs / whole.columns]whole.Sum align(64),
    x: [whole.inputs_most / 128 * in_whole.rows]whole.Staged align(64),

    comptime {
        if (@sizeOf(@This()) > scratch_bytes) @compileError("scratch is too small");
    }
};

/// In whole numbers where it can be. Items of the same rows follow each other.
fn run_whole(p: *const Params, index: u32, scratch: [*]align(64) u8) i32 {
    const weight_kind: Dtype = @fromBackingInt(@intCast(p.weight_dtype));
    const parts: usize = if (p.gated != 0) 2 else 1;
    const width = in_whole.outputs / parts;
    const output_blocks = (count_of(p.outputs) + width - 1) / width;
    const rows = index / output_blocks;
    const item = item_of(in_whole, p, rows, index % output_blocks) orelse return 0;
    if (comptime simd.lanes == 16) {
        if (whole.takes(p, weight_kind)) {
            multiply_whole(p, item, rows, @ptrCast(scratch));
            return 0;
        }
    }
    multiply_item(in_whole, p, item, @ptrCast(scratch));
    return 0;
}

fn multiply_whole(p: *const Params, item: Item, rows: usize, s: *WholeScratch) void {
    if (s.staged != rows + 1) {
        for (0..item.rows) |r|
            whole.stage(p, experts.x_row(p, item.row + r), s.x[r..].ptr, in_whole.rows);
        s.staged = rows + 1;
    }
    const sums: whole.Sums = .{ .first = &s.sums, .rows = in_whole.rows };
    for (0..item.parts) |part| {
        var c: usize = 0;
        while (c < item.outputs) : (c += whole.columns) {
            const row = item.weight_row(p, part) + c;
            const into = sums.of(part * in_whole.outputs / 2 + c);
            const x: [*]const whole.Staged = &s.x;
            switch (p.weight_dtype) {
                inline @backingInt(Dtype.u8), @backingInt(Dtype.i8) => |code| whole.multiply(
                    @fromBackingInt(code),
                    p,
                    row,
                    item.outputs - c,
                    x,
                    item.rows,
                    in_whole.rows,
                    into,
                ),
                else => unreachable,
            }
        }
    }
    finish(in_whole.outputs, p, item, sums);
}

fn multiply_item(
    comptime shape: Shape,
    p: *const Params,
    item: Item,
    s: *shape.Scratch(),
) void {
    const x_kind: Dtype = @fromBackingInt(@intCast(p.x_dtype));
    const weight_kind: Dtype = @fromBackingInt(@intCast(p.weight_dtype));
    switch (tile.product_of(x_kind, weight_kind)) {
        .pairs => multiply(shape, .pairs, .bf16, p, item, s),
        .f32 => switch (weight_kind) {
            inline .f32, .f16, .bf16, .f8e4m3, .f8e5m2, .i8, .u8 => |kind| {
                multiply(shape, .f32, kind, p, item, s);
            },
            else => unreachable,
        },
    }
    const sums: tile.Sums = .{ .first = &s.sums, .stride = shape.sums_stride() };
    finish(shape.outputs, p, item, sums);
}

fn multiply(
    comptime shape: Shape,
    comptime product: tile.Product,
    comptime kind: Dtype,
    p: *const Params,
    item: Item,
    s: *shape.Scratch(),
) void {
    const staged = product == .f32 and (shape.rows > few.rows or !is_plain(kind));
    const stride = count_of(p.weight_stride) * kind.bytes();
    var k: usize = 0;
    while (k < count_of(p.inputs)) : (k += span) {
        const count = @min(span, count_of(p.inputs) - k);
        const x = rows_of(product, p, item, &s.x, k, count);
        for (0..item.parts) |part| {
            const row = item.weight_row(p, part);
            const at = if (kind == .u8) k / 2 else k * kind.bytes();
            const first = pointers.items(u8, p.weight) + row * stride + at;
            const held: Rows = .{ .first = first, .stride = stride };
            const sums = s.sums[part * shape.outputs / 2 ..].ptr;
            const sums_stride = shape.sums_stride();
            if (comptime is_coded(kind)) if (item.rows <= few.rows) {
                const place: coded.Place = .{ .row = row, .k = k, .x = x, .weight = held };
                add_coded(kind, p, item, place, count, sums, sums_stride, k == 0);
                continue;
            };
            if (staged and kind != .f32) {
                const weights: [*]f32 = &s.weight;
                for (0..item.outputs) |i| {
                    const from = held.from(i).first;
                    widen_weight(kind, p, row + i, k, from, weights + i * span, count);
                }
                const wide = widened(weights);
                add_tiles(product, .f32, item, x, wide, count, sums, sums_stride, k == 0);
            } else if (comptime is_plain(kind)) {
                add_tiles(product, kind, item, x, held, count, sums, sums_stride, k == 0);
            }
        }
    }
}

/// All tiles of an item of few rows, whose weight is in codes.
fn add_coded(
    comptime kind: Dtype,
    p: *const Params,
    item: Item,
    place: coded.Place,
    count: usize,
    sums: [*]tile.Sum,
    sums_stride: usize,
    fresh: bool,
) void {
    var r: usize = 0;
    while (r < item.rows) {
        const rows = tile_height(item.rows - r);
        var c: usize = 0;
        while (c < item.outputs) : (c += tile.tile_columns) {
            const columns = @min(tile.tile_columns, item.outputs - c);
            const at: coded.Place = .{
                .row = place.row + c,
                .k = place.k,
                .x = place.x.from(r),
                .weight = place.weight.from(c),
            };
            const into = sums + r * sums_stride + c;
            coded.add(kind, p, rows, columns, at, count, into, sums_stride, fresh);
        }
        r += rows;
    }
}

fn is_coded(comptime kind: Dtype) bool {
    return kind == .u8 or kind == .i8;
}

/// Types that a tile widens as it reads them.
fn is_plain(comptime kind: Dtype) bool {
    return kind == .f32 or kind == .f16 or kind == .bf16;
}

/// The inputs [k, k + count) of an item's rows as the product takes them.
fn rows_of(
    comptime product: tile.Product,
    p: *const Params,
    item: Item,
    target: [*]f32,
    k: usize,
    count: usize,
) Rows {
    const kind: Dtype = @fromBackingInt(@intCast(p.x_dtype));
    const stride = count_of(p.x_stride) * kind.bytes();
    const first = pointers.items(u8, p.x) + k * kind.bytes();
    const x: Rows = .{ .first = first, .stride = stride };
    if (kind == product.x_kind() and p.rows == 0) return x.from(item.row);
    for (0..item.rows) |i| {
        const into = target + i * span;
        const row = experts.x_row(p, item.row + i) orelse {
            @memset(into[0..count], 0);
            continue;
        };
        const bytes: [*]u8 = @ptrCast(into);
        if (product == .pairs) @memcpy(bytes[0 .. 2 * count], x.from(row).first[0 .. 2 * count]) //
        else widen_x(p, row, k, x.from(row).first, into, count);
    }
    return widened(target);
}

/// Rows of f32 numbers, `span` apart.
fn widened(rows: [*]f32) Rows {
    return .{ .first = @ptrCast(rows), .stride = span * @sizeOf(f32) };
}

/// All tiles of an item: those of the same rows of x after each other.
fn add_tiles(
    comptime product: tile.Product,
    comptime kind: Dtype,
    item: Item,
    x: Rows,
    weight: Rows,
    count: usize,
    sums: [*]tile.Sum,
    sums_stride: usize,
    fresh: bool,
) void {
    var r: usize = 0;
    while (r < item.rows) {
        const rows = tile_height(item.rows - r);
        var c: usize = 0;
        while (c < item.outputs) : (c += tile.tile_columns) {
            const columns = @min(tile.tile_columns, item.outputs - c);
            const into = sums + r * sums_stride + c;
            const left = x.from(r);
            const right = weight.from(c);
            tile.add(product, kind, rows, columns, left, right, count, into, sums_stride, fresh);
        }
        r += rows;
    }
}

/// Rows of the next tile: the last two share what is left.
fn tile_height(left: usize) usize {
    if (left <= tile.tile_rows) return left;
    return if (left < 2 * tile.tile_rows) (left + 1) / 2 else tile.tile_rows;
}

inline fn count_of(n: anytype) usize {
    return @intCast(n);
}
