//! Events of the CPU device: marks in streams.
const std = @import("std");
const handles = @import("../../handle.zig");
const status_file = @import("../../status.zig");
const Device = @import("device.zig").Device;
const Stream = @import("stream.zig").Stream;

const allocator = std.heap.c_allocator;

pub const Event = struct {
    handle: handles.Event = .{ .backend = .cpu },
    device: *Device,
    /// How often a record was enqueued, and which of them was reached last.
    recorded: u64 = 0,
    reached: u64 = 0,
    nanoseconds: i128 = 0,
    references: u32 = 1,
    waiting: ?*Stream = null,

    pub fn destroy(event: *Event) i32 {
        const device = event.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        event.drop();
        return 0;
    }

    /// Holds the mutex.
    pub fn drop(event: *Event) void {
        event.references -= 1;
        if (event.references == 0) allocator.destroy(event);
    }

    pub fn record(event: *Event, stream: *Stream) i32 {
        return stream.enqueue(.{ .record = event });
    }

    pub fn wait(event: *Event, stream: *Stream) i32 {
        return stream.enqueue(.{ .wait = .{ .event = event, .generation = event.recorded } });
    }

    pub fn query(event: *Event) i32 {
        event.device.pool.mutex.lock();
        defer event.device.pool.mutex.unlock();
        if (event.reached < event.recorded) return status_file.Status.not_ready.code();
        return 0;
    }

    /// Milliseconds from this event to `later`, both reached.
    pub fn elapsed(event: *Event, later: *Event, out: *f64) i32 {
        event.device.pool.mutex.lock();
        defer event.device.pool.mutex.unlock();
        if (event.reached == 0 or later.reached == 0) {
            return status_file.fail(.not_ready, "an event was never reached", .{});
        }
        const between: f64 = @floatFromInt(later.nanoseconds - event.nanoseconds);
        out.* = between / std.time.ns_per_ms;
        return 0;
    }
};
