//! The CPU device: threads, memory, streams and what failed first.
const std = @import("std");
const lock = @import("lock.zig");
const levels = @import("levels.zig");
const memory = @import("memory.zig");
const threads = @import("threads.zig");
const stream_file = @import("stream.zig");
const Stream = stream_file.Stream;
const Operation = stream_file.Operation;

const allocator = std.heap.c_allocator;

pub const Device = struct {
    pool: threads.Pool = .{},
    memory: memory.Pool,
    level: levels.Level,
    done: lock.Condition = .{},
    streams: ?*Stream = null,
    spare: ?*Operation = null,
    pipe: [2]std.c.fd_t,
    /// Not 0 once a launch failed; everything enqueued later is refused with this failure.
    failure_status: i32 = 0,
    failure_kernel: []const u8 = "",

    pub fn open(count: usize, level: levels.Level, limit_bytes: usize) !*Device {
        const device = try allocator.create(Device);
        errdefer allocator.destroy(device);
        device.* = .{ .memory = .{ .limit_bytes = limit_bytes }, .level = level, .pipe = undefined };
        if (std.c.pipe2(&device.pipe, .{ .NONBLOCK = true, .CLOEXEC = true }) != 0) return error.System;
        errdefer device.close_pipe();
        try device.pool.start(count);
        return device;
    }

    /// Waits for what is queued, then frees everything the device owns.
    pub fn close(device: *Device) void {
        device.pool.mutex.lock();
        while (device.any_busy()) device.done.wait(&device.pool.mutex);
        device.pool.mutex.unlock();
        device.pool.stop();
        var at = device.streams;
        while (at) |stream| {
            at = stream.sibling;
            allocator.destroy(stream);
        }
        while (device.spare) |operation| {
            device.spare = operation.following;
            allocator.destroy(operation);
        }
        device.memory.deinit();
        device.close_pipe();
        allocator.destroy(device);
    }

    fn close_pipe(device: *Device) void {
        _ = std.c.close(device.pipe[0]);
        _ = std.c.close(device.pipe[1]);
    }

    pub fn add_stream(device: *Device) !*Stream {
        const stream = try allocator.create(Stream);
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        stream.* = .{ .device = device, .sibling = device.streams };
        device.streams = stream;
        return stream;
    }

    /// Frees the stream once it is through; never blocks.
    pub fn remove_stream(device: *Device, stream: *Stream) void {
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        if (stream.busy) stream.leaving = true else device.unlink(stream);
    }

    /// Holds the mutex.
    pub fn unlink(device: *Device, stream: *Stream) void {
        var at = &device.streams;
        while (at.*) |candidate| : (at = &candidate.sibling) {
            if (candidate != stream) continue;
            at.* = stream.sibling;
            break;
        }
        allocator.destroy(stream);
        device.done.broadcast();
    }

    fn any_busy(device: *Device) bool {
        var at = device.streams;
        while (at) |stream| : (at = stream.sibling) if (stream.busy) return true;
        return false;
    }

    /// Blocks until all that was enqueued so far is through. Holds the mutex.
    pub fn wait(device: *Device, stream: *Stream) void {
        const target = stream.enqueued;
        while (stream.completed < target) device.done.wait(&device.pool.mutex);
    }

    /// An operation from the spare list. Holds the mutex.
    pub fn take_operation(device: *Device) !*Operation {
        if (device.spare) |spare| {
            device.spare = spare.following;
            return spare;
        }
        return allocator.create(Operation);
    }

    /// Holds the mutex.
    pub fn recycle(device: *Device, used: *Operation) void {
        used.following = device.spare;
        device.spare = used;
    }

    /// The first failure stays. Streams that wait for events of a failed device go on. Holds the mutex.
    pub fn fail(device: *Device, kernel: []const u8, status: i32) void {
        if (device.failure_status != 0) return;
        device.failure_status = status;
        device.failure_kernel = kernel;
        var at = device.streams;
        while (at) |stream| : (at = stream.sibling) {
            const first = stream.first orelse continue;
            if (first.action != .wait) continue;
            var waiter = &first.action.wait.event.waiting;
            while (waiter.*) |candidate| : (waiter = &candidate.waiting_next) {
                if (candidate != stream) continue;
                waiter.* = stream.waiting_next;
                device.pool.make_ready(stream);
                break;
            }
        }
    }

    /// Wakes whoever reads the pipe; a full pipe is awake already.
    pub fn notify(device: *Device) void {
        const byte = [1]u8{1};
        _ = std.c.write(device.pipe[1], &byte, 1);
    }

    pub fn find(device: *Device, name: []const u8) ?*const levels.Kernel {
        const table = levels.table(device.level);
        for (table.kernels[0..table.count]) |*kernel| {
            if (std.mem.eql(u8, std.mem.span(kernel.name), name)) return kernel;
        }
        return null;
    }
};
