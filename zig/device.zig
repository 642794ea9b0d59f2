//! One device interface: cpu/ and cuda/ offer the same methods, and a call goes to whichever made
//! the handle.
const std = @import("std");
const handles = @import("handle.zig");
const fail = @import("status.zig").fail;

const cpu = struct {
    const Device = @import("cpu/runtime/device.zig").Device;
    const Stream = @import("cpu/runtime/stream.zig").Stream;
    const Event = @import("cpu/runtime/event.zig").Event;
    const Graph = @import("cpu/runtime/graph.zig").Graph;
};

const cuda = struct {
    const Device = @import("cuda/device.zig").Device;
    const Stream = @import("cuda/stream.zig").Stream;
    const Event = @import("cuda/event.zig").Event;
    const Graph = @import("cuda/graph.zig").Graph;
};

/// Calls the method of this name of the object behind the handle.
pub inline fn call(handle: anytype, comptime method: []const u8, arguments: anytype) i32 {
    switch (handle.backend) {
        inline else => |backend| {
            const receiver = object(backend, handle);
            const function = @field(@TypeOf(receiver.*), method);
            return @call(.auto, function, .{receiver} ++ arguments);
        },
    }
}

/// Like call, with a second handle as first argument: both must be of one device.
pub inline fn call_with(
    first: anytype,
    comptime method: []const u8,
    second: anytype,
    arguments: anytype,
) i32 {
    if (first.backend != second.backend) return strangers();
    switch (first.backend) {
        inline else => |backend| {
            const receiver = object(backend, first);
            const argument = object(backend, second);
            if (receiver.device != argument.device) return strangers();
            const function = @field(@TypeOf(receiver.*), method);
            return @call(.auto, function, .{ receiver, argument } ++ arguments);
        },
    }
}

fn strangers() i32 {
    return fail(.invalid_argument, "both must be of the same device", .{});
}

fn Object(comptime backend: handles.Backend, comptime Handle: type) type {
    const objects = switch (backend) {
        .cpu => cpu,
        .cuda => cuda,
    };
    return switch (Handle) {
        handles.Device => objects.Device,
        handles.Stream => objects.Stream,
        handles.Event => objects.Event,
        handles.Graph => objects.Graph,
        else => @compileError(@typeName(Handle) ++ " is not a handle"),
    };
}

inline fn object(
    comptime backend: handles.Backend,
    handle: anytype,
) *Object(backend, @TypeOf(handle.*)) {
    return @alignCast(@fieldParentPtr("handle", handle));
}
