//! What a process says: one JSON object per line, written at once so that a process which is killed
//! has said what it knew. Each process of a trace has a file of its own in one folder.
const std = @import("std");
const system = @import("system.zig");
const linux = std.os.linux;

const Target = union(enum) {
    none,
    /// A file for each process.
    folder: [:0]const u8,
    file: [:0]const u8,
    standard_error,
};
var target: Target = .none;
var busy: std.atomic.Value(bool) = .init(false);

/// Nanoseconds in the tracer that were not said yet.
pub var spent: std.atomic.Value(u64) = .init(0);
/// Of these, those that opening CUPTI took, and looking at images that were loaded.
pub var opening: u64 = 0;
pub var images: std.atomic.Value(u64) = .init(0);

/// From now on lines go to files in this folder.
pub fn use_folder(name: [:0]const u8) void {
    target = .{ .folder = name };
}

/// From now on lines go to the end of this file, whichever process they are of.
pub fn use_file(name: [:0]const u8) void {
    target = .{ .file = system.absolute(name) orelse return };
}

/// From now on lines go to where a program complains.
pub fn use_standard_error() void {
    target = .standard_error;
}

const appending: linux.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .APPEND = true };

/// A path in the folder.
pub fn path(buffer: []u8, name: []const []const u8) ?[:0]const u8 {
    if (target != .folder) return null;
    const start = system.join(buffer, &.{ target.folder, "/" }) orelse return null;
    const rest = system.join(buffer[start.len..], name) orelse return null;
    return buffer[0 .. start.len + rest.len :0];
}

pub fn process() linux.pid_t {
    return linux.getpid();
}

/// One line. Between `begin` and `end` no other thread writes one.
pub const Line = struct {
    file: i32,
    buffer: [1024]u8 = undefined,
    length: usize = 0,

    pub fn begin(event: []const u8) Line {
        // A handler that interrupted the writer of a line must not wait forever.
        var patience: u32 = 1 << 20;
        while (busy.swap(true, .acquire) and patience > 0) : (patience -= 1)
            std.atomic.spinLoopHint();
        var line: Line = .{ .file = open() orelse -1 };
        line.raw("{\"event\":\"");
        line.raw(event);
        line.raw("\"");
        return line;
    }

    pub fn text(line: *Line, name: []const u8, value: []const u8) void {
        line.key(name);
        line.quoted(value);
    }

    pub fn number(line: *Line, name: []const u8, value: u64) void {
        line.key(name);
        line.digits(value);
    }

    pub fn key(line: *Line, name: []const u8) void {
        line.raw(",\"");
        line.raw(name);
        line.raw("\":");
    }

    pub fn quoted(line: *Line, value: []const u8) void {
        line.raw("\"");
        for (value) |byte| {
            if (byte == '"' or byte == '\\' or byte < ' ') {
                line.raw("\\u00");
                line.raw(&.{ "0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15] });
            } else line.raw(&.{byte});
        }
        line.raw("\"");
    }

    pub fn digits(line: *Line, value: u64) void {
        var reversed: [20]u8 = undefined;
        var left = value;
        var at = reversed.len;
        while (true) {
            at -= 1;
            reversed[at] = '0' + @as(u8, @intCast(left % 10));
            left /= 10;
            if (left == 0) break;
        }
        line.raw(reversed[at..]);
    }

    pub fn raw(line: *Line, bytes: []const u8) void {
        for (bytes) |byte| {
            if (line.length == line.buffer.len) line.flush();
            line.buffer[line.length] = byte;
            line.length += 1;
        }
    }

    pub fn end(line: *Line) void {
        line.raw("}\n");
        line.flush();
        if (line.file >= 0 and target != .standard_error) system.close(line.file);
        busy.store(false, .release);
    }

    fn flush(line: *Line) void {
        if (line.file >= 0) _ = linux.write(line.file, &line.buffer, line.length);
        line.length = 0;
    }
};

/// For one line: a program may close any file, and have another under its number, in its own
/// process or, sharing this memory, in one that it starts.
fn open() ?i32 {
    switch (target) {
        .none => return null,
        .standard_error => return 2,
        .file => |name| return system.open(name, appending),
        .folder => return open_own(),
    }
}

/// Apart, for the stack that it takes: a handler of the pager's may have little.
noinline fn open_own() ?i32 {
    var buffer: [4096]u8 = undefined;
    var digits: [16]u8 = undefined;
    const name = [_][]const u8{ system.hex(@intCast(process()), &digits), ".jsonl" };
    return system.open(path(&buffer, &name) orelse return null, appending);
}
