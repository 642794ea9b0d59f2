//! Status codes, and the last failure on this thread in numbers and a sentence.
const std = @import("std");
const params = @import("params");

const Failure = params.struct_fb_failure;

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
    ranks = 11,

    pub fn code(status: Status) i32 {
        return @backingInt(status);
    }
};

threadlocal var last: Failure = std.mem.zeroes(Failure);

/// The last failure of this thread.
pub fn last_failure() *const Failure {
    return &last;
}

/// Records the sentence and returns the code, for `return fail(...)`.
pub fn fail(status: Status, comptime format: []const u8, arguments: anytype) i32 {
    last = std.mem.zeroes(Failure);
    last.status = status.code();
    var writer: std.Io.Writer = .fixed(last.text[0 .. last.text.len - 1]);
    writer.print(format, arguments) catch {}; // cut where it does not fit
    return status.code();
}

/// Adds to the failure that was just recorded what the CUDA driver answered, and its name for it.
pub fn add_cuda_result(result: i32, name: []const u8) void {
    last.cuda_result = result;
    const length = @min(name.len, last.driver_name.len - 1);
    @memcpy(last.driver_name[0..length], name[0..length]);
}

pub fn null_handle(comptime name: []const u8) i32 {
    return fail(.invalid_argument, name ++ " must not be null", .{});
}

pub fn out_of_host_memory() i32 {
    return fail(.out_of_memory, "the system has no host memory left", .{});
}

pub fn out_of_memory(asked: usize, free: usize, total: usize) i32 {
    const code = fail(.out_of_memory, "{d} bytes asked, {d} of {d} free", .{ asked, free, total });
    last.asked_bytes = asked;
    last.free_bytes = free;
    return code;
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

test "a failure carries its numbers, and none of the one before" {
    _ = out_of_memory(500, 20, 100);
    try std.testing.expectEqual(2, last_failure().status);
    try std.testing.expectEqual(500, last_failure().asked_bytes);
    try std.testing.expectEqual(20, last_failure().free_bytes);
    const long: [600]u8 = @splat('x');
    _ = fail(.cuda, "{s}", .{&long});
    add_cuda_result(700, "CUDA_ERROR_ILLEGAL_ADDRESS");
    try std.testing.expectEqual(0, last_failure().asked_bytes);
    try std.testing.expectEqual(700, last_failure().cuda_result);
    const name = std.mem.sliceTo(&last_failure().driver_name, 0);
    try std.testing.expectEqualStrings("CUDA_ERROR_ILLEGAL_ADDRESS", name);
    try std.testing.expectEqual(511, std.mem.sliceTo(&last_failure().text, 0).len);
    add_cuda_result(1, long[0..100]);
    try std.testing.expectEqual(63, std.mem.sliceTo(&last_failure().driver_name, 0).len);
    _ = fail(.frozen, "other", .{});
    try std.testing.expectEqual(0, last_failure().cuda_result);
    try std.testing.expectEqualStrings("other", std.mem.sliceTo(&last_failure().text, 0));
}
