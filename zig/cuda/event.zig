//! Events of a CUDA device, with timing.
const std = @import("std");
const driver = @import("driver.zig");
const failure = @import("failure.zig");
const handles = @import("../handle.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Stream = @import("stream.zig").Stream;

const allocator = std.heap.c_allocator;

pub const Event = struct {
    handle: handles.Event = .{ .backend = .cuda },
    device: *Device,
    native: driver.Event,
    recorded: bool = false,
    node: std.DoublyLinkedList.Node = .{},

    /// The driver keeps what is pending.
    pub fn destroy(event: *Event) i32 {
        const device = event.device;
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        device.events.remove(&event.node);
        _ = device.api.cuEventDestroy(event.native);
        allocator.destroy(event);
        return 0;
    }

    pub fn record(event: *Event, stream: *Stream) i32 {
        if (stream.refuses(.uncapturable)) |status| return status;
        const result = event.device.call("cuEventRecord", .{ event.native, stream.native });
        if (result == driver.success) event.recorded = true;
        return stream.submitted(result);
    }

    /// Later work of the stream starts after what was recorded last.
    pub fn wait(event: *Event, stream: *Stream) i32 {
        if (stream.refuses(.uncapturable)) |status| return status;
        if (!event.recorded) return 0;
        const arguments = .{ stream.native, event.native, 0 };
        return stream.submitted(event.device.call("cuStreamWaitEvent", arguments));
    }

    pub fn query(event: *Event) i32 {
        const device = event.device;
        if (device.failure.happened()) return failure.status(device);
        const result = device.call("cuEventQuery", .{event.native});
        if (result == driver.not_ready) return status_file.Status.not_ready.code();
        return failure.check(device, result);
    }

    /// Milliseconds from this event to `later`, both reached.
    pub fn elapsed(event: *Event, later: *Event, out: *f64) i32 {
        const device = event.device;
        if (device.failure.happened()) return failure.status(device);
        if (!event.recorded or !later.recorded) return unreached();
        var milliseconds: f32 = 0;
        const arguments = .{ &milliseconds, event.native, later.native };
        const result = device.call("cuEventElapsedTime", arguments);
        if (result == driver.not_ready) return unreached();
        out.* = milliseconds;
        return failure.check(device, result);
    }
};

fn unreached() i32 {
    return status_file.fail(.not_ready, "an event was never reached", .{});
}
