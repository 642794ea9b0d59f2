//! The device's memory: blocks by size class, kept for reuse, counted against a limit, frozen on demand.
const std = @import("std");
const Mutex = @import("lock.zig").Mutex;

const page_bytes = 4096;
const huge_bytes = 2 << 20;
const allocator = std.heap.c_allocator;

pub const Error = error{ OutOfMemory, Frozen, NotAllocated };

/// Four classes an octave from 64 bytes: waste stays under a quarter.
fn class_bytes(bytes: usize) usize {
    const wanted = @max(bytes, 64);
    const octave = std.math.floorPowerOfTwo(usize, wanted);
    const step = @max(octave / 4, 16);
    return std.mem.alignForward(usize, wanted, step);
}

pub const Pool = struct {
    mutex: Mutex = .{},
    live: std.AutoHashMapUnmanaged(usize, usize) = .empty,
    spare: std.AutoHashMapUnmanaged(usize, std.ArrayListUnmanaged(usize)) = .empty,
    limit_bytes: usize,
    live_bytes: usize = 0,
    spare_bytes: usize = 0,
    frozen: bool = false,

    /// A block of at least `bytes`, aligned to 64 (2 MiB when that large, on huge pages where the system has them).
    pub fn alloc(pool: *Pool, bytes: usize) Error!usize {
        pool.mutex.lock();
        defer pool.mutex.unlock();
        if (pool.frozen) return error.Frozen;
        if (bytes > pool.limit_bytes) return error.OutOfMemory;
        const size = class_bytes(bytes);
        if (pool.live_bytes + size > pool.limit_bytes) return error.OutOfMemory;
        try pool.live.ensureUnusedCapacity(allocator, 1);
        const address = pool.take_spare(size) orelse try pool.fresh(size);
        pool.live.putAssumeCapacity(address, size);
        pool.live_bytes += size;
        return address;
    }

    pub fn free(pool: *Pool, address: usize) Error!void {
        pool.mutex.lock();
        defer pool.mutex.unlock();
        const size = (pool.live.fetchRemove(address) orelse return error.NotAllocated).value;
        pool.live_bytes -= size;
        const entry = pool.spare.getOrPut(allocator, size) catch return release(address, size);
        if (!entry.found_existing) entry.value_ptr.* = .empty;
        entry.value_ptr.append(allocator, address) catch return release(address, size);
        pool.spare_bytes += size;
    }

    pub fn owns(pool: *Pool, address: usize) bool {
        pool.mutex.lock();
        defer pool.mutex.unlock();
        return pool.live.contains(address);
    }

    pub fn deinit(pool: *Pool) void {
        pool.trim();
        var blocks = pool.live.iterator();
        while (blocks.next()) |block| release(block.key_ptr.*, block.value_ptr.*);
        pool.live.deinit(allocator);
        pool.spare.deinit(allocator);
    }

    fn take_spare(pool: *Pool, size: usize) ?usize {
        const list = pool.spare.getPtr(size) orelse return null;
        const address = list.pop() orelse return null;
        pool.spare_bytes -= size;
        return address;
    }

    fn fresh(pool: *Pool, size: usize) Error!usize {
        if (pool.live_bytes + pool.spare_bytes + size > pool.limit_bytes) pool.trim();
        const alignment: usize = if (size >= huge_bytes) huge_bytes else if (size >= page_bytes) page_bytes else 64;
        var block: ?*anyopaque = null;
        if (posix_memalign(&block, alignment, size) != 0) return error.OutOfMemory;
        const address = @intFromPtr(block.?);
        if (size >= huge_bytes) _ = madvise(block.?, size, madv_hugepage);
        return address;
    }

    /// Gives spare blocks back to the system.
    fn trim(pool: *Pool) void {
        var classes = pool.spare.iterator();
        while (classes.next()) |class| {
            for (class.value_ptr.items) |address| release(address, class.key_ptr.*);
            class.value_ptr.deinit(allocator);
            class.value_ptr.* = .empty;
        }
        pool.spare_bytes = 0;
    }
};

fn release(address: usize, size: usize) void {
    _ = size;
    std.c.free(@ptrFromInt(address));
}

const madv_hugepage = 14;
extern "c" fn posix_memalign(block: *?*anyopaque, alignment: usize, size: usize) c_int;
extern "c" fn madvise(address: *anyopaque, size: usize, advice: c_int) c_int;

test "a frozen pool refuses, a full pool refuses, blocks come back" {
    var pool: Pool = .{ .limit_bytes = 1 << 20 };
    defer pool.deinit();
    const first = try pool.alloc(1000);
    try std.testing.expect(first % 64 == 0);
    try std.testing.expectError(error.OutOfMemory, pool.alloc(2 << 20));
    try pool.free(first);
    try std.testing.expectError(error.NotAllocated, pool.free(first));
    try std.testing.expectEqual(first, try pool.alloc(1000));
    pool.frozen = true;
    try std.testing.expectError(error.Frozen, pool.alloc(8));
}
