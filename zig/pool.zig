//! Memory of a device: blocks by size class, kept for reuse, counted against a limit, frozen on
//! demand.
//!
//! Where blocks come from is the source's matter: `class_bytes` rounds a size up to its class,
//! `fresh` makes a block, `release` gives one back to the system, `keeps` says whether freed blocks
//! are kept for reuse.
const std = @import("std");
const Mutex = @import("lock.zig").Mutex;

const allocator = std.heap.c_allocator;

pub const Error = error{ OutOfMemory, Frozen };

/// Four classes an octave from 64 bytes: waste stays under a quarter.
pub fn quarter_octave(bytes: usize) usize {
    const wanted = @max(bytes, 64);
    const octave = std.math.floorPowerOfTwo(usize, wanted);
    const step = @max(octave / 4, 16);
    return std.mem.alignForward(usize, wanted, step);
}

/// What was handed out and what is kept, by address and size.
const Blocks = struct {
    live: std.AutoHashMapUnmanaged(usize, usize) = .empty,
    spare: std.AutoHashMapUnmanaged(usize, std.ArrayListUnmanaged(usize)) = .empty,
    live_bytes: usize = 0,
    spare_bytes: usize = 0,

    fn take_spare(blocks: *Blocks, size: usize) ?usize {
        const list = blocks.spare.getPtr(size) orelse return null;
        const address = list.pop() orelse return null;
        blocks.spare_bytes -= size;
        return address;
    }

    fn put_spare(blocks: *Blocks, address: usize, size: usize) !void {
        const entry = try blocks.spare.getOrPut(allocator, size);
        if (!entry.found_existing) entry.value_ptr.* = .empty;
        try entry.value_ptr.append(allocator, address);
        blocks.spare_bytes += size;
    }

    /// One of the spare blocks, which is forgotten.
    fn drop_spare(blocks: *Blocks) ?usize {
        var sizes = blocks.spare.keyIterator();
        while (sizes.next()) |size| if (blocks.take_spare(size.*)) |address| return address;
        return null;
    }

    fn deinit(blocks: *Blocks) void {
        var lists = blocks.spare.valueIterator();
        while (lists.next()) |list| list.deinit(allocator);
        blocks.spare.deinit(allocator);
        blocks.live.deinit(allocator);
    }
};

pub fn Pool(comptime Source: type) type {
    return struct {
        source: Source,
        limit_bytes: usize,
        mutex: Mutex = .{},
        blocks: Blocks = .{},
        frozen: bool = false,

        const Self = @This();

        /// A block of at least `bytes`, from the spare ones where one fits.
        pub fn alloc(pool: *Self, bytes: usize) Error!usize {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            const blocks = &pool.blocks;
            if (pool.frozen) return error.Frozen;
            if (bytes > pool.limit_bytes) return error.OutOfMemory;
            const size = pool.source.class_bytes(bytes);
            if (blocks.live_bytes + size > pool.limit_bytes) return error.OutOfMemory;
            try blocks.live.ensureUnusedCapacity(allocator, 1);
            const address = blocks.take_spare(size) orelse try pool.fresh(size);
            blocks.live.putAssumeCapacity(address, size);
            blocks.live_bytes += size;
            return address;
        }

        /// Takes a block from its owner; returns its size. Its bytes count as used until `give`.
        pub fn take(pool: *Self, address: usize) ?usize {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            return (pool.blocks.live.fetchRemove(address) orelse return null).value;
        }

        /// Keeps a taken block for reuse.
        pub fn give(pool: *Self, address: usize, size: usize) void {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            pool.blocks.live_bytes -= size;
            if (!pool.source.keeps()) return pool.source.release(address);
            pool.blocks.put_spare(address, size) catch pool.source.release(address);
        }

        pub fn freeze(pool: *Self, frozen: bool) void {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            pool.frozen = frozen;
        }

        /// Bytes in use, bytes kept for reuse, limit.
        pub fn stats(pool: *Self) [3]usize {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            return .{ pool.blocks.live_bytes, pool.blocks.spare_bytes, pool.limit_bytes };
        }

        pub fn deinit(pool: *Self) void {
            pool.trim();
            var addresses = pool.blocks.live.keyIterator();
            while (addresses.next()) |address| pool.source.release(address.*);
            pool.blocks.deinit();
        }

        fn fresh(pool: *Self, size: usize) Error!usize {
            const held = pool.blocks.live_bytes + pool.blocks.spare_bytes;
            if (held + size > pool.limit_bytes) pool.trim();
            return pool.source.fresh(size) orelse {
                pool.trim();
                return pool.source.fresh(size) orelse error.OutOfMemory;
            };
        }

        /// Gives spare blocks back to the system.
        fn trim(pool: *Self) void {
            while (pool.blocks.drop_spare()) |address| pool.source.release(address);
        }
    };
}
