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

pub fn Pool(comptime Source: type) type {
    return struct {
        source: Source,
        limit_bytes: usize,
        mutex: Mutex = .{},
        live: std.AutoHashMapUnmanaged(usize, usize) = .empty,
        spare: std.AutoHashMapUnmanaged(usize, std.ArrayListUnmanaged(usize)) = .empty,
        live_bytes: usize = 0,
        spare_bytes: usize = 0,
        frozen: bool = false,

        const Self = @This();

        /// A block of at least `bytes`, from the spare ones where one fits.
        pub fn alloc(pool: *Self, bytes: usize) Error!usize {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            if (pool.frozen) return error.Frozen;
            if (bytes > pool.limit_bytes) return error.OutOfMemory;
            const size = pool.source.class_bytes(bytes);
            if (pool.live_bytes + size > pool.limit_bytes) return error.OutOfMemory;
            try pool.live.ensureUnusedCapacity(allocator, 1);
            const address = pool.take_spare(size) orelse try pool.fresh(size);
            pool.live.putAssumeCapacity(address, size);
            pool.live_bytes += size;
            return address;
        }

        /// Takes a block from its owner; returns its size. Its bytes count as used until `give`.
        pub fn take(pool: *Self, address: usize) ?usize {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            return (pool.live.fetchRemove(address) orelse return null).value;
        }

        /// Keeps a taken block for reuse.
        pub fn give(pool: *Self, address: usize, size: usize) void {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            pool.live_bytes -= size;
            if (!pool.source.keeps()) return pool.source.release(address);
            const entry = pool.spare.getOrPut(allocator, size) catch
                return pool.source.release(address);
            if (!entry.found_existing) entry.value_ptr.* = .empty;
            entry.value_ptr.append(allocator, address) catch return pool.source.release(address);
            pool.spare_bytes += size;
        }

        pub fn freeze(pool: *Self, frozen: bool) void {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            pool.frozen = frozen;
        }

        /// Bytes in use, bytes kept for reuse, limit.
        pub fn stats(pool: *Self) [3]f64 {
            pool.mutex.lock();
            defer pool.mutex.unlock();
            return .{
                @floatFromInt(pool.live_bytes),
                @floatFromInt(pool.spare_bytes),
                @floatFromInt(pool.limit_bytes),
            };
        }

        pub fn deinit(pool: *Self) void {
            pool.trim();
            var blocks = pool.live.keyIterator();
            while (blocks.next()) |address| pool.source.release(address.*);
            pool.live.deinit(allocator);
            pool.spare.deinit(allocator);
        }

        fn take_spare(pool: *Self, size: usize) ?usize {
            const list = pool.spare.getPtr(size) orelse return null;
            const address = list.pop() orelse return null;
            pool.spare_bytes -= size;
            return address;
        }

        fn fresh(pool: *Self, size: usize) Error!usize {
            if (pool.live_bytes + pool.spare_bytes + size > pool.limit_bytes) pool.trim();
            return pool.source.fresh(size) orelse {
                pool.trim();
                return pool.source.fresh(size) orelse error.OutOfMemory;
            };
        }

        /// Gives spare blocks back to the system.
        fn trim(pool: *Self) void {
            var lists = pool.spare.valueIterator();
            while (lists.next()) |list| {
                for (list.items) |address| pool.source.release(address);
                list.deinit(allocator);
                list.* = .empty;
            }
            pool.spare_bytes = 0;
        }
    };
}
