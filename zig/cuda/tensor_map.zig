//! Tensor maps for bulk copies: encoded by the driver once for each specification, forgotten with
//! their memory.
const std = @import("std");
const params = @import("params");
const driver = @import("driver.zig");
const failure = @import("failure.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Spec = params.struct_fb_tensor_map_spec;
const Map = params.struct_fb_tensor_map;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;
const entries_max = 4096;

const no_interleave = 0;
const promote_256_bytes = 3;
const fill_zeros = 0;

/// Holds the device's mutex.
pub const Cache = struct {
    entries: std.AutoHashMapUnmanaged(Spec, Map) = .empty,

    pub fn encode(cache: *Cache, device: *Device, wanted: *const Spec, out: *align(1) Map) i32 {
        var spec = wanted.*;
        if (complaint(&spec)) |status| return status;
        normalise(&spec);
        if (cache.entries.get(spec)) |known| {
            out.* = known;
            return 0;
        }
        // The driver wants 64-byte alignment, which a caller's buffer need not have.
        var map: Map = undefined;
        var box: [5]u32 = undefined;
        for (&box, spec.box) |*side, given| side.* = @intCast(given);
        const steps: [5]u32 = @splat(1);
        const result = device.api.cuTensorMapEncodeTiled(
            &map,
            data_type(spec.dtype).?,
            @intCast(spec.rank),
            spec.address,
            &spec.extents,
            &spec.strides,
            &box,
            &steps,
            no_interleave,
            swizzle(spec.swizzle_bytes).?,
            promote_256_bytes,
            fill_zeros,
        );
        if (result != driver.success) return failure.check(device, result);
        out.* = map;
        if (cache.entries.count() >= entries_max) cache.entries.clearRetainingCapacity();
        // A map that is not remembered is encoded again.
        cache.entries.put(allocator, spec, map) catch {};
        return 0;
    }

    /// Forgets maps of memory in [address, address + bytes).
    pub fn forget(cache: *Cache, address: u64, bytes: u64) void {
        while (cache.find_within(address, bytes)) |spec| _ = cache.entries.remove(spec);
    }

    pub fn deinit(cache: *Cache) void {
        cache.entries.deinit(allocator);
    }

    fn find_within(cache: *Cache, address: u64, bytes: u64) ?Spec {
        var specs = cache.entries.keyIterator();
        while (specs.next()) |spec| {
            if (spec.address >= address and spec.address - address < bytes) return spec.*;
        }
        return null;
    }
};

/// Unused axes and fields take no part in comparisons.
fn normalise(spec: *Spec) void {
    const rank: usize = @intCast(spec.rank);
    for (rank..5) |axis| {
        spec.extents[axis] = 0;
        spec.box[axis] = 0;
        spec.strides[axis - 1] = 0;
    }
    spec.reserved = .{ 0, 0 };
}

fn complaint(spec: *const Spec) ?i32 {
    if (spec.rank < 1 or spec.rank > 5) {
        return fail(.invalid_argument, "a tensor map has 1 to 5 axes (got {d})", .{spec.rank});
    }
    if (spec.address % 16 != 0 or spec.address == 0) {
        const sentence = "a tensor map's address must be a multiple of 16 (got {x})";
        return fail(.invalid_argument, sentence, .{spec.address});
    }
    if (data_type(spec.dtype) == null) {
        return fail(.invalid_argument, "tensor maps have no dtype {d}", .{spec.dtype});
    }
    if (swizzle(spec.swizzle_bytes) == null) {
        const sentence = "a tensor map swizzles 0, 32, 64 or 128 bytes (got {d})";
        return fail(.invalid_argument, sentence, .{spec.swizzle_bytes});
    }
    for (spec.box[0..@intCast(spec.rank)]) |side| {
        if (side >= 1 and side <= 256) continue;
        const sentence = "a tensor map's box has sides of 1 to 256 (got {d})";
        return fail(.invalid_argument, sentence, .{side});
    }
    return null;
}

/// The driver's element type: only its size matters, and whether it is a number that could be
/// filled in.
fn data_type(dtype: i32) ?c_int {
    return switch (dtype) {
        params.FB_F32 => 7,
        params.FB_F16 => 6,
        params.FB_BF16 => 9,
        params.FB_F8E4M3, params.FB_F8E5M2, params.FB_I8, params.FB_U8, params.FB_BOOL => 0,
        params.FB_I32 => 3,
        params.FB_I64 => 5,
        else => null,
    };
}

fn swizzle(bytes: i32) ?c_int {
    return switch (bytes) {
        0 => 0,
        32 => 1,
        64 => 2,
        128 => 3,
        else => null,
    };
}
