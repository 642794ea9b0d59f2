//! Where blocks of a CUDA device come from: device memory, and pinned host memory that the device
//! reaches.
const std = @import("std");
const driver = @import("driver.zig");
const pools = @import("../pool.zig");

/// Device memory is mapped in pages of this size: larger blocks are multiples of it.
const page_bytes = 2 << 20;
const portable = 1;

pub const Kind = enum { device, pinned };
pub const DevicePool = pools.Pool(Source(.device));
pub const PinnedPool = pools.Pool(Source(.pinned));

fn Source(comptime kind: Kind) type {
    return struct {
        api: *const driver.Functions,
        /// Exact sizes, nothing kept: the emulated driver guards the ends of blocks and poisons
        /// freed ones.
        exact: bool,
        /// What the driver said to the last request.
        result: driver.Result = driver.success,

        const Self = @This();

        pub fn class_bytes(source: *const Self, bytes: usize) usize {
            if (source.exact) return bytes;
            if (bytes < 4 * page_bytes) return pools.quarter_octave(@max(bytes, 256));
            return std.mem.alignForward(usize, bytes, page_bytes);
        }

        pub fn keeps(source: *const Self) bool {
            return !source.exact;
        }

        pub fn fresh(source: *Self, size: usize) ?usize {
            var address: u64 = 0;
            source.result = switch (kind) {
                .device => source.api.cuMemAlloc(&address, size),
                .pinned => source.api.cuMemHostAlloc(&address, size, portable),
            };
            return if (source.result == driver.success) address else null;
        }

        pub fn release(source: *Self, address: usize) void {
            _ = switch (kind) {
                .device => source.api.cuMemFree(address),
                .pinned => source.api.cuMemFreeHost(address),
            };
        }
    };
}
