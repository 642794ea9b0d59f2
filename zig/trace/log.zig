//! What a process says: one JSON object per line, written at once so that a process which is killed
//! has said what it knew. Each process of a trace has a file of its own in one folder.
const std = @import("std");
const system = @import("system.zig");
const linux = std.os.linux;

var folder: ?[:0]const u8 = null;
var file: i32 = -1;
/// The process that the file is of: a fork inherits its parent's.
var owner: linux.pid_t = 0;
var busy: std.atomic.Value(bool) = .init(false);

/// Nanoseconds in the tracer that were not said yet.
pub var spent: std.atomic.Value(u64) = .init(0);
/// Of these, those that opening CUPTI took, and looking at images that were loaded.
pub var opening: u64 = 0;
pub var images: std.atomic.Value(u64) = .init(0);

/// From now on lines go to files in this folder.
pub fn use_folder(name: [:0]const u8) void {
    folder = name;
}

/// From now on lines go to the end of this file, whichever process they are of.
pub fn use_file(name: [:0]const u8) void {
    file = system.open(name, appending) orelse -1;
}

/// From now on lines go to where a program complains.
pub fn use_standard_error() void {
    file = 2;
}

const appending: linux.O = .{ .ACCMODE = .WRONLY, .CREAT = true, .APPEND = true };

/// A path in the folder.
pub fn path(buffer: []u8, name: []const []const u8) ?[:0]const u8 {
    const start = system.join(buffer, &.{ folder orelse return null, "/" }) orelse return null;
    const rest = system.join(buffer[start.len..], name) orelse return null;
    return buffer[0 .. start.len + rest.len :0];
}

pub fn process() linux.pid_t {
    return linux.getpid();
}

/// One line. Between `begin` and `end` no other thread writes one.
pub const Line = struct {
    buffer: [1024]u8 = undefined,
    length: usize = 0,

    pub fn begin(event: []const u8) Line {
        // A handler that interrupted the writer of a line must not wait forever.
        var patience: u32 = 1 << 20;
        while (busy.swap(true, .acquire) and patience > 0) : (patience -= 1)
            std.atomic.spinLoopHint();
        follow_fork();
        var line: Line = .{};
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
        busy.store(false, .release);
    }

    fn flush(line: *Line) void {
        if (file >= 0) _ = linux.write(file, &line.buffer, line.length);
        line.length = 0;
    }
};

fn follow_fork() void {
    const current = process();
    if (folder == null or owner == current) return;
    if (file >= 0) system.close(file);
    owner = current;
    var buffer: [4096]u8 = undefined;
    var digits: [16]u8 = undefined;
    const name = path(&buffer, &.{ system.hex(@intCast(current), &digits), ".jsonl" });
    file = if (name) |known| system.open(known, appending) orelse -1 else -1;
}
