//! The libraries of this process as the dynamic loader lists them for debuggers.
const std = @import("std");
const system = @import("system.zig");
const signals = @import("signals.zig");
const Header = std.elf.Elf64.Ehdr;
pub const Segment = std.elf.Elf64.Phdr;

/// `struct link_map` of <link.h>.
pub const Library = extern struct {
    base: usize,
    name: [*:0]const u8,
    dynamic: usize,
    next: ?*Library,
    previous: ?*Library,

    /// The absolute path of its file: a name may be relative to a folder that has been left since.
    pub fn path(library: *const Library, buffer: *[path_bytes_max]u8) ?[:0]const u8 {
        const name = std.mem.span(library.name);
        if (name[0] == '/') return name;
        var line: [line_bytes_max]u8 = undefined;
        return mapped_at(library.dynamic, &line, buffer);
    }
};

/// `struct r_debug` of <link.h>.
pub const List = extern struct {
    version: c_int,
    first: ?*Library,
    /// Called by the loader before and after it changes the list.
    breakpoint: usize,
    state: enum(c_int) { consistent, add, delete, _ },
    loader: usize,
};

pub const path_bytes_max = 4096;
/// Of /proc/self/maps: numbers and a path.
pub const line_bytes_max = path_bytes_max + 256;

/// The file that is mapped at an address, whatever name the loader knows it by.
pub fn mapped_at(
    address: usize,
    line_buffer: *[line_bytes_max]u8,
    buffer: *[path_bytes_max]u8,
) ?[:0]const u8 {
    const file = system.open("/proc/self/maps", .{}) orelse return null;
    defer system.close(file);
    var lines: system.Lines = .{ .file = file, .end = '\n', .buffer = line_buffer };
    while (lines.next()) |line| {
        const dash = std.mem.indexOfScalar(u8, line, '-') orelse continue;
        const space = std.mem.indexOfScalar(u8, line, ' ') orelse continue;
        if (space < dash or address < number(line[0..dash])) continue;
        if (address >= number(line[dash + 1 .. space])) continue;
        const slash = std.mem.indexOfScalar(u8, line, '/') orelse return null;
        return system.join(buffer, &.{line[slash..]});
    }
    return null;
}

fn number(digits: []const u8) usize {
    return std.fmt.parseUnsigned(usize, digits, 16) catch 0;
}

var found: ?*const List = null;

/// Finds the list; the other functions know none before.
pub fn find() void {
    found = @ptrCast(@alignCast(signals.dlsym(null, "_r_debug")));
}

pub fn list() ?*const List {
    return found;
}

/// Libraries that came from files, without the program itself.
pub const Iterator = struct {
    next_one: ?*Library,

    pub fn next(iterator: *Iterator) ?*const Library {
        while (iterator.next_one) |library| {
            iterator.next_one = library.next;
            // What the kernel adds to every process has no folder.
            if (std.mem.indexOfScalar(u8, std.mem.span(library.name), '/') != null) return library;
        }
        return null;
    }
};

pub fn iterate() Iterator {
    const first = if (found) |known| known.first else null;
    // The first one is the program.
    return .{ .next_one = if (first) |program| program.next else null };
}

/// The last library that begins at or before an address: if any holds the address, this one does.
pub fn below(address: usize) ?*const Library {
    var best: ?*const Library = null;
    var libraries = iterate();
    while (libraries.next()) |library| {
        if (library.base > address) continue;
        if (best == null or library.base > best.?.base) best = library;
    }
    return best;
}

/// The program headers of a file, a few at a time.
pub const Segments = struct {
    file: i32,
    offset: u64,
    left: u16,
    buffer: [16]Segment = undefined,
    buffered: u16 = 0,
    at: u16 = 0,

    pub fn of(file: i32) ?Segments {
        var header: Header = undefined;
        if (!system.read_at(file, std.mem.asBytes(&header), 0)) return null;
        const kind = "\x7fELF\x02\x01";
        if (!std.mem.eql(u8, std.mem.asBytes(&header)[0..kind.len], kind)) return null;
        if (header.phentsize != @sizeOf(Segment)) return null;
        return .{ .file = file, .offset = header.phoff, .left = header.phnum };
    }

    pub fn next(segments: *Segments) ?Segment {
        if (segments.at == segments.buffered) {
            const count = @min(segments.left, segments.buffer.len);
            const bytes = std.mem.sliceAsBytes(segments.buffer[0..count]);
            if (count == 0 or !system.read_at(segments.file, bytes, segments.offset)) return null;
            segments.left -= count;
            segments.offset += bytes.len;
            segments.buffered = count;
            segments.at = 0;
        }
        defer segments.at += 1;
        return segments.buffer[segments.at];
    }
};

pub const build_id_bytes_max = 64;

/// Reads the build id into `into`; none when the file has none.
pub fn build_id(file: i32, into: *[build_id_bytes_max]u8) []const u8 {
    var segments = Segments.of(file) orelse return "";
    while (segments.next()) |segment| {
        if (segment.type != .NOTE) continue;
        var notes: [1024]u8 = undefined;
        const length = @min(segment.filesz, notes.len);
        if (!system.read_at(file, notes[0..length], segment.offset)) continue;
        var at: usize = 0;
        while (at + 12 <= length) {
            const head = std.mem.bytesAsValue([3]u32, notes[at..][0..12]).*;
            const value = at + 12 + std.mem.alignForward(usize, head[0], 4);
            const end = value + std.mem.alignForward(usize, head[1], 4);
            if (end > length) break;
            const name = notes[at + 12 ..][0..@min(head[0], 4)];
            const gnu = head[2] == 3 and std.mem.eql(u8, name, "GNU\x00");
            if (gnu and head[1] > 0 and head[1] <= into.len) {
                @memcpy(into[0..head[1]], notes[value..][0..head[1]]);
                return into[0..head[1]];
            }
            at = end;
        }
    }
    return "";
}
