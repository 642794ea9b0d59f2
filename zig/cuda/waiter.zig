//! The thread that waits for marks in streams and writes a byte on the device's pipe for each that
//! is reached.
//!
//! It polls: the driver can wait for one event only, and its callbacks hold up the stream they are
//! queued on.
const std = @import("std");
const driver = @import("driver.zig");
const context = @import("context.zig");
const failure = @import("failure.zig");
const lock = @import("../lock.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Stream = @import("stream.zig").Stream;

const allocator = std.heap.c_allocator;
const disable_timing = 2;
const shortest_sleep_ns = 20_000;
const longest_sleep_ns = 500_000;

const Mark = struct {
    event: driver.Event,
    stream: *Stream = undefined,
    ticket: u64 = 0,
    following: ?*Mark = null,
};

pub const Waiter = struct {
    mutex: lock.Mutex = .{},
    wake: lock.Condition = .{},
    /// In the order they were made.
    first: ?*Mark = null,
    last: ?*Mark = null,
    spare: ?*Mark = null,
    stopping: bool = false,
    thread: ?std.Thread = null,

    pub fn start(waiter: *Waiter, device: *Device) !void {
        waiter.thread = try std.Thread.spawn(.{}, run, .{ waiter, device });
    }

    /// Returns when all marks were reached.
    pub fn stop(waiter: *Waiter, device: *Device) void {
        const thread = waiter.thread orelse return;
        waiter.mutex.lock();
        waiter.stopping = true;
        waiter.wake.signal();
        waiter.mutex.unlock();
        thread.join();
        while (waiter.spare) |one| {
            waiter.spare = one.following;
            _ = device.api.cuEventDestroy(one.event);
            allocator.destroy(one);
        }
    }

    /// Marks the end of what the stream holds now.
    pub fn mark(waiter: *Waiter, stream: *Stream) i32 {
        const device = stream.device;
        waiter.mutex.lock();
        defer waiter.mutex.unlock();
        const one = waiter.spare orelse allocator.create(Mark) catch
            return status_file.out_of_host_memory();
        if (waiter.spare == null) {
            const result = device.call("cuEventCreate", .{ &one.event, disable_timing });
            if (result != driver.success) {
                allocator.destroy(one);
                return failure.check(device, result);
            }
        } else waiter.spare = one.following;
        const status = stream.submitted(
            device.call("cuEventRecord", .{ one.event, stream.native }),
        );
        if (status != 0) {
            one.following = waiter.spare;
            waiter.spare = one;
            return status;
        }
        _ = stream.references.fetchAdd(1, .monotonic);
        one.stream = stream;
        one.ticket = stream.enqueued.load(.acquire);
        one.following = null;
        if (waiter.last) |last| last.following = one else waiter.first = one;
        waiter.last = one;
        waiter.wake.signal();
        return 0;
    }

    fn run(waiter: *Waiter, device: *Device) void {
        sleep_exactly();
        context.set(device.api, device.context);
        waiter.mutex.lock();
        defer waiter.mutex.unlock();
        var waited_ns: u64 = 0;
        while (true) {
            if (waiter.poll(device)) {
                waited_ns = 0;
            } else if (waiter.first != null) {
                // A sixteenth of the time waited so far: late by a few percent, and little work for
                // long kernels.
                const pause = std.math.clamp(waited_ns / 16, shortest_sleep_ns, longest_sleep_ns);
                waiter.mutex.unlock();
                sleep(pause);
                waiter.mutex.lock();
                waited_ns += pause;
            } else if (waiter.stopping) {
                return;
            } else {
                waiter.wake.wait(&waiter.mutex);
                waited_ns = 0;
            }
        }
    }

    /// Settles marks that were reached; true when there was one.
    fn poll(waiter: *Waiter, device: *Device) bool {
        var passed = false;
        var before: ?*Mark = null;
        var at = waiter.first;
        while (at) |one| {
            at = one.following;
            if (!is_reached(device, one)) {
                before = one;
                continue;
            }
            if (before) |kept| kept.following = at else waiter.first = at;
            if (at == null) waiter.last = before;
            one.stream.complete(one.ticket);
            one.stream.drop();
            one.following = waiter.spare;
            waiter.spare = one;
            passed = true;
        }
        if (passed) device.ring();
        return passed;
    }
};

fn is_reached(device: *Device, one: *Mark) bool {
    if (device.failure.happened()) return true;
    const result = device.api.cuEventQuery(one.event);
    if (result == driver.success) return true;
    if (result == driver.not_ready) return false;
    _ = failure.check(device, result);
    return device.failure.happened();
}

fn sleep(nanoseconds: u64) void {
    const pause: std.c.timespec = .{ .sec = 0, .nsec = @intCast(nanoseconds) };
    _ = nanosleep(&pause, null);
}

/// Threads may sleep 50 us longer than asked by default.
fn sleep_exactly() void {
    if (@import("builtin").os.tag != .linux) return;
    const set_timer_slack = 29;
    _ = std.os.linux.prctl(set_timer_slack, 1000, 0, 0, 0);
}

extern "c" fn nanosleep(wanted: *const std.c.timespec, left: ?*std.c.timespec) c_int;
