//! Bools as bits, segment by segment.
const params = @import("params");
const Kernel = @import("../kernel.zig").Kernel;
const items = @import("pointers.zig").items;

/// Bytes that one grid index handles.
const item_bytes = 1024;

pub const kernels = [_]Kernel{.of("pack_bits", params.fb_bits_params, item_bytes, run)};

/// Packs bytes [1024 * index, ...).
fn run(p: *const params.fb_bits_params, index: u32, _: [*]align(64) u8) i32 {
    const starts = items(i32, p.byte_indptr);
    const source = items(u8, p.source);
    const first = @as(usize, index) * item_bytes;
    const end = @min(first + item_bytes, @as(usize, @intCast(p.byte_count)));
    if (first >= end) return 0;
    var segment = segment_of(p, @intCast(first));
    for (first..end) |byte| {
        while (starts[segment + 1] <= byte) segment += 1;
        const bools = items(i32, p.bool_indptr)[segment..][0..2];
        const start = bools[0] + 8 * (@as(i32, @intCast(byte)) - starts[segment]);
        var bits: u8 = 0;
        for (0..8) |i| {
            const at = start + @as(i32, @intCast(i));
            if (at >= bools[1] or source[@intCast(at)] == 0) continue;
            const shift: u3 = @intCast(if (p.highest_first != 0) 7 - i else i);
            bits |= @as(u8, 1) << shift;
        }
        items(u8, p.target)[byte] = bits;
    }
    return 0;
}

/// The segment that a byte is of: the last one that begins at it or before.
fn segment_of(p: *const params.fb_bits_params, byte: i32) usize {
    const starts = items(i32, p.byte_indptr);
    var low: usize = 0;
    var high: usize = @intCast(p.segment_count - 1);
    while (low < high) {
        const middle = (low + high + 1) / 2;
        if (starts[middle] <= byte) low = middle else high = middle - 1;
    }
    return low;
}
