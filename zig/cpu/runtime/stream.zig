//! Streams of the CPU device: ordered operations, run by whichever thread leads the stream.
const std = @import("std");
const handles = @import("../../handle.zig");
const status_file = @import("../../status.zig");
const Kernel = @import("../kernel.zig").Kernel;
const Device = @import("device.zig").Device;
const Event = @import("event.zig").Event;
const graph_file = @import("graph.zig");
const Graph = graph_file.Graph;
const Recording = graph_file.Recording;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

pub const params_bytes_max = 1088;

pub const Launch = struct { kernel: *const Kernel, grid: u32 };

pub const Action = union(enum) {
    launch: Launch,
    copy: struct { target: usize, source: usize, bytes: usize },
    fill: struct { target: usize, byte: u8, bytes: usize },
    record: *Event,
    wait: struct { event: *Event, generation: u64 },
    notify: void,
    release: *Release,
    graph: *Recording,
};

/// One queued operation; a launch's parameters were copied into it when it was enqueued.
pub const Operation = struct {
    following: ?*Operation = null,
    action: Action,
    params: [params_bytes_max]u8 align(64) = undefined,
};

/// Memory that waits for the streams which may still use it.
pub const Release = struct { address: usize, size: usize, holders: u32 };

pub const Stream = struct {
    handle: handles.Stream = .{ .backend = .cpu },
    device: *Device,
    first: ?*Operation = null,
    last: ?*Operation = null,
    following: ?*Stream = null,
    waiting_next: ?*Stream = null,
    enqueued: u64 = 0,
    completed: u64 = 0,
    /// A thread leads it, it is in the ready list, or it waits for an event.
    busy: bool = false,
    /// Freed by its owner while busy: goes when it is done.
    leaving: bool = false,
    capture: ?*Recording = null,
    sibling: ?*Stream = null,

    /// Frees the stream once all that is queued now is done; never blocks.
    pub fn destroy(stream: *Stream) i32 {
        const device = stream.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        if (stream.capture) |recording| recording.drop();
        if (stream.busy) stream.leaving = true else device.unlink(stream);
        return 0;
    }

    /// Blocks until all that is queued now is done; returns the device's failure.
    pub fn wait(stream: *Stream) i32 {
        const device = stream.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        const target = stream.enqueued;
        while (stream.completed < target) device.done.wait(&device.pool.mutex);
        return device.failure();
    }

    /// Operations enqueued and completed so far.
    pub fn query(stream: *Stream, out: *[2]f64) i32 {
        stream.device.pool.mutex.lock();
        defer stream.device.pool.mutex.unlock();
        out.* = .{ @floatFromInt(stream.enqueued), @floatFromInt(stream.completed) };
        return stream.device.failure();
    }

    /// Enqueues one byte on the device's pipe, on a failed device too, so that no one waits
    /// forever.
    pub fn notify(stream: *Stream, ticket: *f64) i32 {
        const device = stream.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        if (stream.capture != null) return status_file.captures();
        const operation = device.take_operation() catch return status_file.out_of_host_memory();
        operation.action = .notify;
        stream.push(operation);
        ticket.* = @floatFromInt(stream.enqueued);
        return 0;
    }

    pub fn copy(stream: *Stream, target: u64, source: u64, bytes: u64) i32 {
        return stream.enqueue(.{ .copy = .{ .target = target, .source = source, .bytes = bytes } });
    }

    pub fn fill(stream: *Stream, target: u64, byte: u8, bytes: u64) i32 {
        return stream.enqueue(.{ .fill = .{ .target = target, .byte = byte, .bytes = bytes } });
    }

    /// Copies the parameters and enqueues `grid` items.
    pub fn launch(
        stream: *Stream,
        kernel: *const anyopaque,
        parameters: [*]const u8,
        bytes: usize,
        grid: u32,
    ) i32 {
        const launched: *const Kernel = @ptrCast(@alignCast(kernel));
        if (bytes != launched.params_bytes or bytes > params_bytes_max) {
            const name = std.mem.span(launched.name);
            return status_file.wrong_params(name, launched.params_bytes, bytes);
        }
        const device = stream.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        const operation = device.take_operation() catch return status_file.out_of_host_memory();
        operation.action = .{ .launch = .{ .kernel = launched, .grid = grid } };
        @memcpy(operation.params[0..bytes], parameters[0..bytes]);
        return stream.admit(operation);
    }

    /// From here on the stream's operations are recorded and do not run.
    pub fn begin_capture(stream: *Stream) i32 {
        stream.device.pool.mutex.lock();
        defer stream.device.pool.mutex.unlock();
        if (stream.capture != null) return fail(.capture, "the stream captures already", .{});
        const recording = allocator.create(Recording) catch
            return status_file.out_of_host_memory();
        recording.* = .{};
        stream.capture = recording;
        return 0;
    }

    pub fn end_capture(stream: *Stream, out: **handles.Graph) i32 {
        stream.device.pool.mutex.lock();
        defer stream.device.pool.mutex.unlock();
        const recording = stream.capture orelse
            return fail(.capture, "the stream does not capture", .{});
        stream.capture = null;
        const graph = allocator.create(Graph) catch {
            recording.drop();
            return status_file.out_of_host_memory();
        };
        graph.* = .{ .device = stream.device, .recording = recording };
        out.* = &graph.handle;
        return 0;
    }

    pub fn enqueue(stream: *Stream, action: Action) i32 {
        const device = stream.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        const operation = device.take_operation() catch return status_file.out_of_host_memory();
        operation.action = action;
        return stream.admit(operation);
    }

    /// Queues or records the operation, unless the device failed. Holds the mutex.
    fn admit(stream: *Stream, operation: *Operation) i32 {
        const device = stream.device;
        if (device.failure_status != 0) {
            device.recycle(operation);
            return device.failure();
        }
        if (stream.capture) |recording| {
            switch (operation.action) {
                .launch, .copy, .fill => recording.append(operation),
                else => {
                    device.recycle(operation);
                    return status_file.not_capturable();
                },
            }
            return 0;
        }
        switch (operation.action) {
            .record => |event| {
                event.recorded += 1;
                event.references += 1;
            },
            .wait => |waited| waited.event.references += 1,
            .graph => |recording| recording.references += 1,
            else => {},
        }
        stream.push(operation);
        return 0;
    }

    /// Takes the operation over. Holds the mutex.
    pub fn push(stream: *Stream, operation: *Operation) void {
        operation.following = null;
        if (stream.last) |last| last.following = operation else stream.first = operation;
        stream.last = operation;
        stream.enqueued += 1;
        if (stream.busy) return;
        stream.busy = true;
        stream.device.pool.make_ready(stream);
    }

    /// Runs operations until none is left or an event is not reached. Holds the mutex, gives it up
    /// while an operation runs.
    pub fn drain(stream: *Stream, scratch: [*]align(64) u8) void {
        const device = stream.device;
        while (stream.first) |operation| {
            if (stream.parks(operation)) return;
            stream.first = operation.following;
            if (stream.first == null) stream.last = null;
            if (device.failure_status == 0) stream.run(operation, scratch);
            stream.settle(operation);
            stream.completed += 1;
            if (operation.action == .notify) device.notify();
            device.recycle(operation);
            device.done.broadcast();
        }
        stream.busy = false;
        device.done.broadcast();
        if (stream.leaving) device.unlink(stream);
    }

    /// Leaves the stream with the event it has to wait for.
    fn parks(stream: *Stream, operation: *Operation) bool {
        if (operation.action != .wait) return false;
        const waited = operation.action.wait;
        if (waited.event.reached >= waited.generation) return false;
        if (stream.device.failure_status != 0) return false;
        stream.waiting_next = waited.event.waiting;
        waited.event.waiting = stream;
        return true;
    }

    fn run(stream: *Stream, operation: *Operation, scratch: [*]align(64) u8) void {
        const device = stream.device;
        switch (operation.action) {
            .launch, .copy, .fill => {
                device.pool.mutex.unlock();
                const failed = execute(device, operation, scratch);
                device.pool.mutex.lock();
                if (failed) |failure| device.fail_with(failure.kernel, failure.status);
            },
            .graph => |recording| {
                device.pool.mutex.unlock();
                var at = recording.first;
                var failed: ?Failure = null;
                while (at) |captured| : (at = captured.following) {
                    failed = execute(device, captured, scratch);
                    if (failed != null) break;
                }
                device.pool.mutex.lock();
                if (failed) |failure| device.fail_with(failure.kernel, failure.status);
            },
            .record, .wait, .notify, .release => {},
        }
    }

    /// What must happen even after a failure: events are reached, references and memory are given
    /// back.
    fn settle(stream: *Stream, operation: *Operation) void {
        const device = stream.device;
        switch (operation.action) {
            .record => |event| {
                event.reached += 1;
                event.nanoseconds = now();
                var at = event.waiting;
                event.waiting = null;
                while (at) |waiter| {
                    at = waiter.waiting_next;
                    device.pool.make_ready(waiter);
                }
                event.drop();
            },
            .wait => |waited| waited.event.drop(),
            .graph => |recording| recording.drop(),
            .release => |release| {
                release.holders -= 1;
                if (release.holders > 0) return;
                device.memory.give(release.address, release.size);
                allocator.destroy(release);
            },
            .launch, .copy, .fill, .notify => {},
        }
    }
};

const Failure = struct { kernel: []const u8, status: i32 };

fn execute(device: *Device, operation: *Operation, scratch: [*]align(64) u8) ?Failure {
    switch (operation.action) {
        .launch => |launch| {
            const kernel = launch.kernel;
            const status = device.pool.launch(kernel, &operation.params, launch.grid, scratch);
            if (status != 0) return .{ .kernel = std.mem.span(kernel.name), .status = status };
        },
        .copy => |copy| {
            const target: [*]u8 = @ptrFromInt(copy.target);
            const source: [*]const u8 = @ptrFromInt(copy.source);
            @memmove(target[0..copy.bytes], source[0..copy.bytes]);
        },
        .fill => |fill| @memset(@as([*]u8, @ptrFromInt(fill.target))[0..fill.bytes], fill.byte),
        else => {},
    }
    return null;
}

fn now() i128 {
    var time: std.c.timespec = undefined;
    _ = std.c.clock_gettime(.MONOTONIC, &time);
    return @as(i128, time.sec) * std.time.ns_per_s + time.nsec;
}
