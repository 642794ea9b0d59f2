//! What the libraries that go into other programs ask of the system: no allocator, no errno, no
//! locks of libc's, so that all of it may be called in a signal handler.
const std = @import("std");
const linux = std.os.linux;

pub const page_bytes = 4096;

/// Nanoseconds of a clock that only grows.
pub fn now() u64 {
    var time: linux.timespec = undefined;
    _ = linux.clock_gettime(.MONOTONIC, &time);
    return @as(u64, @intCast(time.sec)) * std.time.ns_per_s + @as(u64, @intCast(time.nsec));
}

/// The value of a system call, null when it failed.
pub fn value(result: usize) ?usize {
    return if (linux.errno(result) == .SUCCESS) result else null;
}

pub fn open(path: [*:0]const u8, flags: linux.O) ?i32 {
    var whole = flags;
    whole.CLOEXEC = true;
    return @intCast(value(linux.open(path, whole, 0o644)) orelse return null);
}

pub fn close(file: i32) void {
    _ = linux.close(file);
}

/// Whether a file can be read.
pub fn exists(path: [*:0]const u8) bool {
    const read = 4;
    return value(linux.access(path, read)) != null;
}

/// Reads exactly `into.len` bytes.
pub fn read_at(file: i32, into: []u8, offset: u64) bool {
    var done: usize = 0;
    while (done < into.len) {
        const rest = into[done..];
        const count = value(linux.pread(file, rest.ptr, rest.len, @intCast(offset + done)));
        if (count == null or count.? == 0) return false;
        done += count.?;
    }
    return true;
}

/// Lines of a file from its current position, without the byte that ends them; of one longer than
/// the buffer only the last part comes.
pub const Lines = struct {
    file: i32,
    end: u8,
    buffer: []u8,
    filled: usize = 0,
    at: usize = 0,

    pub fn next(lines: *Lines) ?[]const u8 {
        while (true) {
            const rest = lines.buffer[lines.at..lines.filled];
            if (std.mem.indexOfScalar(u8, rest, lines.end)) |length| {
                lines.at += length + 1;
                return rest[0..length];
            }
            std.mem.copyForwards(u8, lines.buffer, rest);
            lines.at = 0;
            lines.filled = if (rest.len == lines.buffer.len) 0 else rest.len;
            const room = lines.buffer[lines.filled..];
            const count = value(linux.read(lines.file, room.ptr, room.len)) orelse return null;
            if (count == 0) return null;
            lines.filled += count;
        }
    }
};

/// Bytes of an open file.
pub fn size_of(file: i32) ?u64 {
    const end = 2;
    return value(linux.lseek(file, 0, end));
}

/// A file's bytes in memory, shared with every other process that maps it.
pub fn map_shared(file: i32, bytes: usize, writable: bool) ?[*]align(page_bytes) u8 {
    const protection: linux.PROT = .{ .READ = true, .WRITE = writable };
    const address = value(linux.mmap(null, bytes, protection, .{ .TYPE = .SHARED }, file, 0));
    return @ptrFromInt(address orelse return null);
}

/// Whole pages that are never given back.
pub fn allocate(bytes: usize) ?[*]align(page_bytes) u8 {
    const protection: linux.PROT = .{ .READ = true, .WRITE = true };
    const flags: linux.MAP = .{ .TYPE = .PRIVATE, .ANONYMOUS = true };
    const address = value(linux.mmap(null, bytes, protection, flags, -1, 0)) orelse return null;
    return @ptrFromInt(address);
}

/// A program's environment as the loader hands it to constructors: libc may not know it yet.
pub const Environment = [*:null]const ?[*:0]const u8;

/// A variable's value, null when unset or empty.
pub fn variable(environment: Environment, name: []const u8) ?[:0]const u8 {
    var index: usize = 0;
    while (environment[index]) |text| : (index += 1) {
        const entry = std.mem.span(text);
        if (entry.len <= name.len + 1 or entry[name.len] != '=') continue;
        if (std.mem.eql(u8, entry[0..name.len], name)) return entry[name.len + 1 ..];
    }
    return null;
}

/// `parts` one after the other, with a zero behind, in `buffer`; null when they do not fit.
pub fn join(buffer: []u8, parts: []const []const u8) ?[:0]const u8 {
    var length: usize = 0;
    for (parts) |part| {
        if (length + part.len >= buffer.len) return null;
        @memcpy(buffer[length..][0..part.len], part);
        length += part.len;
    }
    buffer[length] = 0;
    return buffer[0..length :0];
}

/// A path that a change of the working folder leaves right; kept forever.
pub fn absolute(path: [:0]const u8) ?[:0]const u8 {
    if (path.len == 0 or path[0] == '/') return path;
    const kept = allocate(page_bytes) orelse return null;
    const length = value(linux.readlink("/proc/self/cwd", kept, page_bytes)) orelse return null;
    const rest = kept[length..page_bytes];
    const end = join(rest, &.{ "/", path }) orelse return null;
    return kept[0 .. length + end.len :0];
}

/// What tells a file from every other.
pub const Identity = struct { device: u64, inode: u64 };

/// Of a path, or of an open file with an empty one.
pub fn identity(file: i32, path: [*:0]const u8) ?Identity {
    var facts: linux.Statx = undefined;
    const mask: linux.STATX = .{ .INO = true };
    const flags: u32 = if (path[0] == 0) linux.AT.EMPTY_PATH else 0;
    if (value(linux.statx(file, path, flags, mask, &facts)) == null) return null;
    return .{ .device = @as(u64, facts.dev_major) << 32 | facts.dev_minor, .inode = facts.ino };
}

/// `number` in hexadecimal digits, 16 of them.
pub fn hex(number: u64, digits: *[16]u8) []const u8 {
    for (digits, 0..) |*digit, index| {
        digit.* = "0123456789abcdef"[(number >> @intCast(60 - 4 * index)) & 15];
    }
    return digits;
}
