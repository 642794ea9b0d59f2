//! Rows picked by index: embeddings, reordered tokens.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const items = @import("pointers.zig").items;

/// Rows that one grid index handles.
const gather_rows = 64;

pub const kernels = [_]Kernel{.of("gather_rows", params.fb_gather_params, gather_rows, run)};

/// Copies rows [64 * index, ...) of out from where their indices say; index -1 writes zeros.
fn run(p: *const params.fb_gather_params, index: u32, _: [*]align(64) u8) i32 {
    const bytes: usize = @intCast(p.row_bytes);
    const source = items(u8, p.source);
    const out = items(u8, p.out);
    const indices = items(i32, p.indices);
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
