//! Rows picked by index: embeddings, reordered tokens.
const params = @import("params");

/// Rows that one grid index handles.
pub const gather_rows = 64;

/// Copies rows [64 * index, ...) of out from where their indices say; index -1 writes zeros.
pub fn run(p: *const params.fb_gather_params, index: u32, _: [*]align(64) u8) i32 {
    const bytes: usize = @intCast(p.row_bytes);
    const source: [*]const u8 = @ptrFromInt(p.source);
    const out: [*]u8 = @ptrFromInt(p.out);
    const indices: [*]const i32 = @ptrFromInt(p.indices);
    const first = @as(usize, index) * gather_rows;
    const end = @min(first + gather_rows, @as(usize, @intCast(p.row_count)));
    var row = first;
    while (row < end) : (row += 1) {
        const target = out[row * bytes ..][0..bytes];
        if (indices[row] < 0) {
            @memset(target, 0);
        } else {
            @memcpy(target, source[@as(usize, @intCast(indices[row])) * bytes ..][0..bytes]);
        }
    }
    return 0;
}
