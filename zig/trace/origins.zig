//! Which library a handle of the driver came from: the one that holds the image it was loaded from.
const std = @import("std");
const loaded = @import("loaded.zig");
const system = @import("system.zig");

/// A table of fixed size that forgets nothing; when it is full, handles have no known origin and
/// names are said again.
const Slot = struct {
    key: std.atomic.Value(u64) = .init(0),
    path: std.atomic.Value(?[*:0]const u8) = .init(null),
};

var handles: [1 << 14]Slot = @splat(.{});
var names: [1 << 17]std.atomic.Value(u64) = @splat(.init(0));

/// The handle was loaded from the image at `address`.
pub fn remember(handle: usize, address: usize) void {
    put(handle, library_of(address));
}

/// `handle` holds what `from` holds.
pub fn copy(handle: usize, from: usize) void {
    put(handle, path_of(from));
}

/// Path of the library whose image the handle holds; null when it came from elsewhere.
pub fn of(handle: usize) ?[:0]const u8 {
    return std.mem.span(path_of(handle) orelse return null);
}

/// Whether this has not been asked before.
pub fn is_new(event: []const u8, name: []const u8, handle: usize) bool {
    var hash: std.hash.Wyhash = .init(handle);
    hash.update(event);
    hash.update(name);
    const key = hash.final() | 1;
    for (0..64) |step| {
        const slot = &names[(key +% step) % names.len];
        const before = slot.cmpxchgStrong(0, key, .monotonic, .monotonic) orelse return true;
        if (before == key) return false;
    }
    return true;
}

fn put(handle: usize, path: ?[*:0]const u8) void {
    if (handle == 0) return;
    const slot = slot_of(handle) orelse return;
    slot.path.store(path, .release);
}

fn path_of(handle: usize) ?[*:0]const u8 {
    if (handle == 0) return null;
    return (slot_of(handle) orelse return null).path.load(.acquire);
}

fn slot_of(handle: usize) ?*Slot {
    const hash = handle *% 0x9e37_79b9_7f4a_7c15 >> 40;
    for (0..64) |step| {
        const slot = &handles[(hash +% step) % handles.len];
        const before = slot.key.cmpxchgStrong(0, handle, .acq_rel, .acquire) orelse return slot;
        if (before == handle) return slot;
    }
    return null;
}

const Where = extern struct {
    path: ?[*:0]const u8,
    base: ?*anyopaque,
    symbol: ?[*:0]const u8,
    symbol_address: ?*anyopaque,
};
extern "c" fn dladdr(address: *const anyopaque, into: *Where) c_int;

fn library_of(address: usize) ?[*:0]const u8 {
    if (address == 0) return null;
    var where: Where = undefined;
    if (dladdr(@ptrFromInt(address), &where) == 0) return null;
    const path = where.path orelse return null;
    if (path[0] == '/') return path;
    // Relative to a folder that may have been left since.
    const kept = system.allocate(loaded.path_bytes_max) orelse return null;
    var line: [loaded.line_bytes_max]u8 = undefined;
    return loaded.mapped_at(address, &line, kept[0..loaded.path_bytes_max]) orelse null;
}
