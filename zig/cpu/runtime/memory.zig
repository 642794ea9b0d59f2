//! Where blocks of the CPU device come from: host memory, large blocks on huge pages.
const std = @import("std");
const pools = @import("../../pool.zig");

const page_bytes = 4096;
const huge_bytes = 2 << 20;

pub const Pool = pools.Pool(Source);

pub const Source = struct {
    pub fn class_bytes(_: Source, bytes: usize) usize {
        return pools.quarter_octave(bytes);
    }

    pub fn keeps(_: Source) bool {
        return true;
    }

    /// Aligned to 64 (2 MiB when that large, on huge pages where the system has them).
    pub fn fresh(_: Source, size: usize) ?usize {
        const alignment: usize = if (size >= huge_bytes)
            huge_bytes
        else if (size >= page_bytes) page_bytes else 64;
        var block: ?*anyopaque = null;
        if (posix_memalign(&block, alignment, size) != 0) return null;
        if (size >= huge_bytes) _ = madvise(block.?, size, madv_hugepage);
        return @intFromPtr(block.?);
    }

    pub fn release(_: Source, address: usize) void {
        std.c.free(@ptrFromInt(address));
    }
};

const madv_hugepage = 14;
extern "c" fn posix_memalign(block: *?*anyopaque, alignment: usize, size: usize) c_int;
extern "c" fn madvise(address: *anyopaque, size: usize, advice: c_int) c_int;

test "a frozen pool refuses, a full pool refuses, blocks come back" {
    var pool: Pool = .{ .source = .{}, .limit_bytes = 1 << 20 };
    defer pool.deinit();
    const first = try pool.alloc(1000);
    try std.testing.expect(first % 64 == 0);
    try std.testing.expectError(error.OutOfMemory, pool.alloc(2 << 20));
    const size = pool.take(first).?;
    try std.testing.expectEqual(null, pool.take(first));
    try std.testing.expectEqual(size, pool.stats()[0]);
    pool.give(first, size);
    try std.testing.expectEqual(0, pool.stats()[0]);
    try std.testing.expectEqual(first, try pool.alloc(1000));
    pool.freeze(true);
    try std.testing.expectError(error.Frozen, pool.alloc(8));
}
