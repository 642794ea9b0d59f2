//! Status codes and the sentence that goes with the last failure on this thread.
const std = @import("std");

pub const Status = enum(i32) {
    ok = 0,
    invalid_argument = 1,
    out_of_memory = 2,
    frozen = 3,
    unsupported = 4,
    not_found = 5,
    not_ready = 6,
    device_failed = 7,
    capture = 8,
    system = 9,
    cuda = 10,

    pub fn code(status: Status) i32 {
        return @backingInt(status);
    }
};

threadlocal var text: [512]u8 = @splat(0);
threadlocal var text_length: usize = 0;

/// Records the sentence and returns the code, for `return fail(...)`.
pub fn fail(status: Status, comptime format: []const u8, arguments: anytype) i32 {
    var writer: std.Io.Writer = .fixed(&text);
    writer.print(format, arguments) catch {}; // cut where it does not fit
    text_length = writer.end;
    return status.code();
}

/// Copies the last sentence of this thread; returns its length in bytes.
pub fn copy_last(buffer: []u8) usize {
    const length = @min(buffer.len, text_length);
    @memcpy(buffer[0..length], text[0..length]);
    return length;
}

pub fn null_handle(comptime name: []const u8) i32 {
    return fail(.invalid_argument, name ++ " must not be null", .{});
}

pub fn out_of_host_memory() i32 {
    return fail(.out_of_memory, "the system has no host memory left", .{});
}

/// src/ffi/status.ts reads the numbers of this sentence.
pub fn out_of_memory(asked: usize, free: usize, total: usize) i32 {
    return fail(.out_of_memory, "{d} bytes asked, {d} of {d} free", .{ asked, free, total });
}

pub fn frozen(asked: usize) i32 {
    return fail(.frozen, "the memory pool is frozen: {d} bytes were asked for", .{asked});
}

pub fn not_allocated(address: usize) i32 {
    return fail(.invalid_argument, "no allocation starts at address {x}", .{address});
}

pub fn wrong_params(kernel: []const u8, wanted: usize, got: usize) i32 {
    const sentence = "{s} takes {d} bytes of parameters (got {d})";
    return fail(.invalid_argument, sentence, .{ kernel, wanted, got });
}

pub fn captures() i32 {
    return fail(.capture, "a stream that captures cannot be waited for", .{});
}

pub fn not_capturable() i32 {
    const sentence = "a stream that captures takes launches, copies and fills only";
    return fail(.capture, sentence, .{});
}
