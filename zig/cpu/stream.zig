//! Streams, events and graphs of the CPU device: ordered operations, run by whichever thread leads the stream.
const std = @import("std");
const levels = @import("levels.zig");
const Device = @import("device.zig").Device;

const allocator = std.heap.c_allocator;

pub const params_bytes_max = 960;

pub const Launch = struct { kernel: *const levels.Kernel, grid: u32 };

pub const Action = union(enum) {
    launch: Launch,
    copy: struct { target: usize, source: usize, bytes: usize },
    fill: struct { target: usize, byte: u8, bytes: usize },
    record: *Event,
    wait: struct { event: *Event, generation: u64 },
    notify: void,
    release: *Release,
    graph: *Graph,
};

/// One queued operation; a launch's parameters were copied into it when it was enqueued.
pub const Operation = struct {
    following: ?*Operation = null,
    action: Action,
    params: [params_bytes_max]u8 align(64) = undefined,
};

/// Memory that waits for the streams which may still use it.
pub const Release = struct { address: usize, holders: u32 };

pub const Event = struct {
    device: *Device,
    /// How often a record was enqueued, and which of them was reached last.
    recorded: u64 = 0,
    reached: u64 = 0,
    nanoseconds: i128 = 0,
    references: u32 = 1,
    waiting: ?*Stream = null,

    /// Holds the mutex.
    pub fn drop(event: *Event) void {
        event.references -= 1;
        if (event.references == 0) allocator.destroy(event);
    }
};

pub const Graph = struct {
    device: *Device,
    first: ?*Operation = null,
    last: ?*Operation = null,
    references: u32 = 1,

    pub fn append(graph: *Graph, operation: *Operation) void {
        operation.following = null;
        if (graph.last) |last| last.following = operation else graph.first = operation;
        graph.last = operation;
    }

    /// Holds the mutex.
    pub fn drop(graph: *Graph) void {
        graph.references -= 1;
        if (graph.references > 0) return;
        var at = graph.first;
        while (at) |operation| {
            at = operation.following;
            allocator.destroy(operation);
        }
        allocator.destroy(graph);
    }
};

pub const Stream = struct {
    device: *Device,
    first: ?*Operation = null,
    last: ?*Operation = null,
    following: ?*Stream = null,
    waiting_next: ?*Stream = null,
    enqueued: u64 = 0,
    completed: u64 = 0,
    /// A thread leads it, it stands in the ready list, or it waits for an event.
    busy: bool = false,
    /// Freed by its owner while busy: goes when it is through.
    leaving: bool = false,
    capture: ?*Graph = null,
    sibling: ?*Stream = null,

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

    /// Runs operations until none is left or an event is not reached. Holds the mutex, gives it up while an
    /// operation runs.
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
        const wait = operation.action.wait;
        if (wait.event.reached >= wait.generation or stream.device.failure_status != 0) return false;
        stream.waiting_next = wait.event.waiting;
        wait.event.waiting = stream;
        return true;
    }

    fn run(stream: *Stream, operation: *Operation, scratch: [*]align(64) u8) void {
        const device = stream.device;
        switch (operation.action) {
            .launch, .copy, .fill => {
                device.pool.mutex.unlock();
                const failed = execute(device, operation, scratch);
                device.pool.mutex.lock();
                if (failed) |failure| device.fail(failure.kernel, failure.status);
            },
            .graph => |graph| {
                device.pool.mutex.unlock();
                var at = graph.first;
                var failed: ?Failure = null;
                while (at) |captured| : (at = captured.following) {
                    failed = execute(device, captured, scratch);
                    if (failed != null) break;
                }
                device.pool.mutex.lock();
                if (failed) |failure| device.fail(failure.kernel, failure.status);
            },
            .record, .wait, .notify, .release => {},
        }
    }

    /// What must happen even after a failure: events are reached, references and memory are given back.
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
            .wait => |wait| wait.event.drop(),
            .graph => |graph| graph.drop(),
            .release => |release| {
                release.holders -= 1;
                if (release.holders > 0) return;
                device.memory.free(release.address) catch {};
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
            const status = device.pool.launch(launch.kernel, &operation.params, launch.grid, scratch);
            if (status != 0) return .{ .kernel = std.mem.span(launch.kernel.name), .status = status };
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
