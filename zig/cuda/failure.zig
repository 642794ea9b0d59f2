//! What a failed driver call means: a broken capture, a request that cannot be met, or a device
//! that is lost.
const std = @import("std");
const driver = @import("driver.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const fail = status_file.fail;

/// The context is lost: every later call fails the same way. Includes a driver or device that went
/// away.
fn is_sticky(result: driver.Result) bool {
    return switch (result) {
        4, 46, 100, 101 => true, // deinitialized, unavailable, gone
        214, 220, 226 => true, // uncorrectable memory or link errors, contained faults
        700, 702, 709, 710, 714...719, 721 => true, // faults of a kernel
        802, 803, 805...807, 810 => true, // system not ready, driver mismatch, MPS server gone
        999 => true,
        else => false,
    };
}

fn breaks_capture(result: driver.Result) bool {
    return result >= 900 and result <= 908;
}

/// The image holds no code that this driver and device can load.
fn is_wrong_image(result: driver.Result) bool {
    return switch (result) {
        200, 209, 218, 222, 223, 300 => true,
        else => false,
    };
}

/// The first sticky failure of a device, and what was launched last before it was seen.
pub const Failure = struct {
    result: std.atomic.Value(driver.Result) = .init(0),
    launched: std.atomic.Value(?[*:0]const u8) = .init(null),

    pub fn happened(failure: *const Failure) bool {
        return failure.result.load(.acquire) != 0;
    }

    fn note(failure: *Failure, result: driver.Result, launched: ?[*:0]const u8) void {
        _ = failure.launched.cmpxchgStrong(null, launched, .release, .monotonic);
        _ = failure.result.cmpxchgStrong(0, result, .release, .monotonic);
    }
};

/// The status of a driver call; a sticky failure poisons the device.
pub fn check(device: *Device, result: driver.Result) i32 {
    if (result == driver.success) return 0;
    if (is_sticky(result) or device.failure.happened()) {
        device.failure.note(result, device.last_launched.load(.monotonic));
        return status(device);
    }
    const kind: status_file.Status = if (result == driver.out_of_memory)
        .out_of_memory
    else if (result == driver.not_ready)
        .not_ready
    else if (breaks_capture(result))
        .capture
    else if (is_wrong_image(result))
        .unsupported
    else
        .cuda;
    var buffer: driver.Sentence = undefined;
    const what = driver.describe(device.api, result, &buffer);
    return driver.caused(device.api, result, fail(kind, "{s}", .{what}));
}

/// The driver keeps a lost context: opening the device again does not help.
const until_when = " until this process is started again";

/// 0, or the failure that poisoned the device.
pub fn status(device: *Device) i32 {
    const result = device.failure.result.load(.acquire);
    if (result == 0) return 0;
    var buffer: driver.Sentence = undefined;
    const what = driver.describe(device.api, result, &buffer);
    if (device.failure.launched.load(.acquire)) |name| {
        const sentence = "{s}, after launching {s}; the device takes no more work" ++ until_when;
        return driver.caused(device.api, result, fail(.cuda, sentence, .{ what, name }));
    }
    const sentence = "{s}; the device takes no more work" ++ until_when;
    return driver.caused(device.api, result, fail(.cuda, sentence, .{what}));
}

test "faults of a kernel are sticky, wrong requests are not" {
    for ([_]driver.Result{ 700, 710, 715, 719, 999, 100 }) |result| {
        try std.testing.expect(is_sticky(result));
    }
    for ([_]driver.Result{ 1, 2, 200, 209, 400, 600, 701, 720, 900, 910 }) |result| {
        try std.testing.expect(!is_sticky(result));
    }
    try std.testing.expect(breaks_capture(901) and !breaks_capture(910));
}

test "the first failure stays" {
    var failure: Failure = .{};
    failure.note(700, "attention");
    failure.note(719, "append");
    try std.testing.expectEqual(700, failure.result.load(.monotonic));
    try std.testing.expectEqualStrings("attention", std.mem.span(failure.launched.raw.?));
}
