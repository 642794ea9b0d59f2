//! Sidecars: the files that hold removed pages of libraries, found by build id.
//! src/debloat/shrink/sidecar.ts gives their format.
const std = @import("std");
const loaded = @import("loaded.zig");
const system = @import("system.zig");
const linux = std.os.linux;

/// The start of a sidecar, as far as a page needs it.
const Header = extern struct {
    magic: [8]u8,
    original_bytes: u64,
    shrunk_bytes: u64,
    hashes: [64]u8,
    table_offset: u64,
    table_count: u64,
};

/// A run of removed pages; its segment's rights are added to its address.
pub const Run = extern struct {
    vaddr_and_rights: u64,
    bytes: u64,
    file_offset: u64,

    const rights_mask: u64 = 7;

    pub fn vaddr(run: Run) u64 {
        return run.vaddr_and_rights & ~rights_mask;
    }

    pub fn rights(run: Run) linux.PROT {
        const bits = run.vaddr_and_rights & rights_mask;
        // Those of older files say nothing: they held code alone.
        if (bits == 0) return .{ .READ = true, .EXEC = true };
        return .{ .READ = bits & 4 != 0, .WRITE = bits & 2 != 0, .EXEC = bits & 1 != 0 };
    }
};

pub const Sidecar = struct { file: i32, runs: []const Run };

/// The sidecar of an open library in folders that colons separate.
pub fn of(library: i32, folders: []const u8, name: *[loaded.path_bytes_max]u8) ?Sidecar {
    const library_bytes = system.size_of(library) orelse return null;
    var id_buffer: [loaded.build_id_bytes_max]u8 = undefined;
    const id = loaded.build_id(library, &id_buffer);
    if (id.len == 0) return null;
    var digits: [2 * loaded.build_id_bytes_max]u8 = undefined;
    for (id, 0..) |byte, index| {
        digits[2 * index] = "0123456789abcdef"[byte >> 4];
        digits[2 * index + 1] = "0123456789abcdef"[byte & 15];
    }
    var names = std.mem.splitScalar(u8, folders, ':');
    while (names.next()) |folder| {
        const parts = [_][]const u8{ folder, "/", digits[0 .. 2 * id.len], ".side" };
        const path = system.join(name, &parts) orelse continue;
        const file = system.open(path, .{}) orelse continue;
        if (read_runs(file, library_bytes)) |runs| return .{ .file = file, .runs = runs };
        system.close(file);
    }
    return null;
}

/// The page table, when all of it lies in the file and it is of this library.
fn read_runs(file: i32, library_bytes: u64) ?[]const Run {
    const bytes = system.size_of(file) orelse return null;
    var header: Header = undefined;
    if (!system.read_at(file, std.mem.asBytes(&header), 0)) return null;
    if (!std.mem.eql(u8, &header.magic, "FBSIDE\x00\x01")) return null;
    if (library_bytes != header.shrunk_bytes) return null;
    if (header.table_count > bytes / @sizeOf(Run)) return null;
    const table_bytes = header.table_count * @sizeOf(Run);
    if (header.table_offset > bytes - table_bytes) return null;
    if (header.table_offset % @alignOf(Run) != 0) return null;
    const memory = system.map_shared(file, bytes, false) orelse return null;
    const runs = std.mem.bytesAsSlice(Run, memory[header.table_offset..][0..table_bytes]);
    for (runs) |run| {
        const aligned = (run.vaddr() | run.bytes | run.file_offset) % system.page_bytes == 0;
        if (!aligned or run.bytes > bytes or run.file_offset > bytes - run.bytes) return null;
    }
    return @alignCast(runs);
}
