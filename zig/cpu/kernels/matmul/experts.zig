//! Which rows belong to which weight, where there is one for each expert.
const params = @import("params");
const pointers = @import("../pointers.zig");

const Params = params.fb_matmul_params;

/// Rows of one expert.
const Block = struct { row: usize, rows: usize, expert: usize };

/// Blocks of at most `most` rows that there may be: each expert's last may be part of one.
pub fn block_count(p: *const Params, most: usize) usize {
    const whole = (count_of(p.row_count) + most - 1) / most;
    return if (p.starts == 0) whole else whole + count_of(p.experts) - 1;
}

/// The rows of a block, or null past the last.
pub fn block_of(p: *const Params, index: usize, most: usize) ?Block {
    if (p.starts == 0) {
        const row = index * most;
        return .{ .row = row, .rows = @min(most, count_of(p.row_count) - row), .expert = 0 };
    }
    var left = index;
    for (0..count_of(p.experts)) |expert| {
        const rows = rows_of(p, expert);
        const blocks = (rows[1] - rows[0] + most - 1) / most;
        if (left < blocks) {
            const row = rows[0] + left * most;
            return .{ .row = row, .rows = @min(most, rows[1] - row), .expert = expert };
        }
        left -= blocks;
    }
    return null;
}

/// The rows [first, end) of an expert; none where the list says what cannot be.
fn rows_of(p: *const Params, expert: usize) [2]usize {
    const starts = pointers.items(i32, p.starts);
    const first = @max(0, starts[expert]);
    const end = @min(p.row_count, starts[expert + 1]);
    return .{ @intCast(first), @intCast(@max(first, end)) };
}

/// The row of x for a row of out, or null where there is none.
pub fn x_row(p: *const Params, row: usize) ?usize {
    if (p.rows == 0) return row;
    const of_x = pointers.items(i32, p.rows)[row];
    return if (of_x < 0 or of_x >= p.x_row_count) null else @intCast(of_x);
}

inline fn count_of(n: i32) usize {
    return @intCast(n);
}
