//! The redirector: an audit library (LD_AUDIT, see rtld-audit(7)) that hands the loader other files
//! than it asks for. It lives in a name space of its own, without libc.
//!
//! With FLASHBUN_SIDECARS, as the pager has it, removed pages of data that a program may write to
//! are closed as soon as a library is there, so that the pager sees when one is needed.
//!
//! FLASHBUN_REDIRECT is a file of entries {u64 device, u64 inode, u64 folderBytes, path, zero}: a
//! process that would open the file of that inode gets the one at that path. A path is that of a
//! folder, folderBytes long, followed by that of the original inside it: a library looks for its
//! neighbours from where it thinks it is.
const std = @import("std");
const loaded = @import("loaded.zig");
const sidecars = @import("sidecar.zig");
const system = @import("system.zig");
const linux = std.os.linux;

pub const panic = std.debug.no_panic;

var table: []const u8 = &.{};
var folders_buffer: [8192]u8 = undefined;
var folders: []const u8 = "";
var sidecar_name: [loaded.path_bytes_max]u8 = undefined;

const Entry = struct {
    device: u64,
    inode: u64,
    folder: []const u8,
    path: [*:0]const u8,
};

const Entries = struct {
    at: usize = 0,

    fn next(entries: *Entries) ?Entry {
        const head_bytes = 24;
        if (entries.at + head_bytes >= table.len) return null;
        const head = std.mem.bytesAsValue([3]u64, table[entries.at..][0..head_bytes]).*;
        const path = std.mem.sliceTo(table[entries.at + head_bytes ..], 0);
        entries.at += head_bytes + path.len + 1;
        if (entries.at > table.len or head[2] > path.len) return null;
        return .{
            .device = head[0],
            .inode = head[1],
            .folder = path[0..head[2]],
            .path = @ptrCast(path.ptr),
        };
    }
};

export fn la_version(version: c_uint) c_uint {
    read_table();
    return version;
}

export fn la_objsearch(name: [*:0]const u8, _: *usize, flag: c_uint) ?[*:0]const u8 {
    const original = 1;
    const text = std.mem.span(name);
    // A bare name comes again with each folder where it is looked for.
    if (flag == original and std.mem.indexOfScalar(u8, text, '/') == null) return name;
    var wanted = name;
    var entries: Entries = .{};
    while (entries.next()) |entry| {
        if (std.mem.startsWith(u8, text, entry.folder)) wanted = name + entry.folder.len;
    }
    return replacement(wanted) orelse wanted;
}

/// Called when a library is mapped, with the loader's lock held, before it is relocated.
export fn la_objopen(library: *const loaded.Library, _: c_long, _: *usize) c_uint {
    const no_symbols = 0;
    if (folders.len == 0 or library.name[0] == 0) return no_symbols;
    const file = system.open(library.name, .{}) orelse return no_symbols;
    defer system.close(file);
    const sidecar = sidecars.of(file, folders, &sidecar_name) orelse return no_symbols;
    defer system.close(sidecar.file);
    for (sidecar.runs) |run| {
        if (!run.rights().WRITE) continue;
        const start: [*]u8 = @ptrFromInt(library.base + run.vaddr());
        _ = linux.mprotect(start, run.bytes, .{});
    }
    return no_symbols;
}

fn replacement(name: [*:0]const u8) ?[*:0]const u8 {
    const known = system.identity(linux.AT.FDCWD, name) orelse return null;
    var entries: Entries = .{};
    while (entries.next()) |entry| {
        if (entry.device == known.device and entry.inode == known.inode) return entry.path;
    }
    return null;
}

fn read_table() void {
    // Nobody hands the environment to an audit library.
    const environment = system.open("/proc/self/environ", .{}) orelse return;
    defer system.close(environment);
    var whole: [8192]u8 = undefined;
    var variables: system.Lines = .{ .file = environment, .end = 0, .buffer = &whole };
    while (variables.next()) |variable| {
        const sidecars_key = "FLASHBUN_SIDECARS=";
        if (std.mem.startsWith(u8, variable, sidecars_key)) {
            folders = system.join(&folders_buffer, &.{variable[sidecars_key.len..]}) orelse "";
            continue;
        }
        const key = "FLASHBUN_REDIRECT=";
        if (!std.mem.startsWith(u8, variable, key)) continue;
        var buffer: [4096]u8 = undefined;
        const path = system.join(&buffer, &.{variable[key.len..]}) orelse return;
        const file = system.open(path, .{}) orelse continue;
        defer system.close(file);
        const bytes = system.size_of(file) orelse continue;
        if (bytes > 0) table = (system.map_shared(file, bytes, false) orelse continue)[0..bytes];
    }
}
