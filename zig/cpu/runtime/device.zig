//! The CPU device: threads, memory, streams and what failed first.
const std = @import("std");
const params = @import("params");
const handles = @import("../../handle.zig");
const lock = @import("../../lock.zig");
const status_file = @import("../../status.zig");
const kernels = @import("../kernel.zig");
const levels = @import("levels.zig");
const memory = @import("memory.zig");
const threads = @import("threads.zig");
const Event = @import("event.zig").Event;
const stream_file = @import("stream.zig");
const Stream = stream_file.Stream;
const Operation = stream_file.Operation;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

pub const Device = struct {
    handle: handles.Device = .{ .backend = .cpu },
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

    /// Level -1 takes the best that the processor runs.
    pub fn open(thread_count: i32, level: i32, limit_bytes: u64, out: **handles.Device) i32 {
        if (thread_count < 1 or thread_count > 1024) {
            return fail(.invalid_argument, "threads must be 1 to 1024 (got {d})", .{thread_count});
        }
        const best = levels.best();
        if (level < -1 or level > @backingInt(best)) {
            const sentence = "CPU level {d} is above {t}, the best of this processor";
            return fail(.unsupported, sentence, .{ level, best });
        }
        const chosen: levels.Level = if (level == -1) best else @fromBackingInt(@intCast(level));
        const device = start(@intCast(thread_count), chosen, limit_bytes) catch |cause| {
            const sentence = "the CPU device did not start {d} threads: {t}";
            return fail(.system, sentence, .{ thread_count, cause });
        };
        out.* = &device.handle;
        return 0;
    }

    fn start(count: usize, level: levels.Level, limit_bytes: usize) !*Device {
        const device = try allocator.create(Device);
        errdefer allocator.destroy(device);
        // Beyond the machine's memory the system would promise more than it has, and kill the
        // process.
        const most = std.process.totalSystemMemory() catch std.math.maxInt(usize);
        device.* = .{
            .memory = .{ .source = .{}, .limit_bytes = @min(limit_bytes, most) },
            .level = level,
            .pipe = undefined,
        };
        if (std.c.pipe2(&device.pipe, .{ .NONBLOCK = true, .CLOEXEC = true }) != 0) {
            return error.System;
        }
        errdefer device.close_pipe();
        try device.pool.start(count);
        return device;
    }

    /// Waits for what is queued, then frees everything the device owns.
    pub fn close(device: *Device) i32 {
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
        return 0;
    }

    fn close_pipe(device: *Device) void {
        _ = std.c.close(device.pipe[0]);
        _ = std.c.close(device.pipe[1]);
    }

    pub fn properties(device: *Device, out: *params.struct_fb_device_properties) i32 {
        out.* = std.mem.zeroes(params.struct_fb_device_properties);
        out.total_bytes = device.memory.limit_bytes;
        out.pool_bytes = device.memory.stats()[0];
        out.physical_bytes = physical_bytes();
        out.last_level_cache_bytes = last_level_cache_bytes();
        out.processors = @intCast(device.pool.threads.len);
        out.level = @backingInt(device.level);
        out.frozen = @intFromBool(device.memory.frozen);
        out.notify_fd = device.pipe[0];
        var buffer: [48]u8 = undefined;
        const brand = levels.brand(&buffer);
        @memcpy(out.name[0..brand.len], brand);
        return 0;
    }

    /// The failure that poisoned the device, or 0.
    pub fn failed(device: *Device) i32 {
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        return device.failure();
    }

    /// The same with the mutex held.
    pub fn failure(device: *Device) i32 {
        if (device.failure_status == 0) return 0;
        const status = device.failure_status;
        const reason = switch (status) {
            kernels.leads_out => ": mask offsets or page ids lead out",
            kernels.rank_late => ": another rank did not come in time",
            kernels.rank_lost => ": another rank is gone",
            else => "",
        };
        const sentence = "kernel {s} failed with status {d}{s}; the device takes no more work";
        const kind: status_file.Status = switch (status) {
            kernels.rank_late, kernels.rank_lost => .ranks,
            else => .device_failed,
        };
        return fail(kind, sentence, .{ device.failure_kernel, status, reason });
    }

    /// All memory of a CPU device is host memory.
    pub fn alloc(device: *Device, bytes: u64, pinned: bool, out: *u64) i32 {
        _ = pinned;
        out.* = device.memory.alloc(bytes) catch |refusal| return switch (refusal) {
            error.Frozen => status_file.frozen(bytes),
            error.OutOfMemory => status_file.out_of_memory(
                bytes,
                device.memory.limit_bytes -| device.memory.stats()[0],
                device.memory.limit_bytes,
            ),
        };
        return 0;
    }

    /// Frees at once when no stream is busy, else when all that is queued now is done.
    pub fn free(device: *Device, address: u64) i32 {
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        const release = allocator.create(stream_file.Release) catch
            return status_file.out_of_host_memory();
        const size = device.memory.take(address) orelse {
            allocator.destroy(release);
            return status_file.not_allocated(address);
        };
        release.* = .{ .address = address, .size = size, .holders = 0 };
        var at = device.streams;
        while (at) |stream| : (at = stream.sibling) {
            if (stream.completed == stream.enqueued) continue;
            const operation = device.take_operation() catch break;
            operation.action = .{ .release = release };
            release.holders += 1;
            stream.push(operation);
        }
        if (release.holders > 0) return 0;
        allocator.destroy(release);
        device.memory.give(address, size);
        return 0;
    }

    pub fn freeze(device: *Device, frozen: bool) i32 {
        device.memory.freeze(frozen);
        return 0;
    }

    pub fn stats(device: *Device, out: *[3]f64) i32 {
        for (out, device.memory.stats()) |*target, bytes| target.* = @floatFromInt(bytes);
        return 0;
    }

    pub fn create_stream(device: *Device, out: **handles.Stream) i32 {
        const stream = allocator.create(Stream) catch return status_file.out_of_host_memory();
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        stream.* = .{ .device = device, .sibling = device.streams };
        device.streams = stream;
        out.* = &stream.handle;
        return 0;
    }

    /// A native stream of this device is a handle already: it stays its owner's.
    pub fn wrap_stream(device: *Device, native: u64, out: **handles.Stream) i32 {
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        var at = device.streams;
        while (at) |stream| : (at = stream.sibling) {
            if (@intFromPtr(&stream.handle) != native) continue;
            out.* = &stream.handle;
            return 0;
        }
        return fail(.invalid_argument, "{x} is no stream of this device", .{native});
    }

    pub fn create_event(device: *Device, out: **handles.Event) i32 {
        const event = allocator.create(Event) catch return status_file.out_of_host_memory();
        event.* = .{ .device = device };
        out.* = &event.handle;
        return 0;
    }

    pub fn load_module(_: *Device, _: []const u8, _: *u64) i32 {
        const sentence = "the cpu device loads no modules: its kernels are built in";
        return fail(.unsupported, sentence, .{});
    }

    pub fn encode_tensor_map(
        _: *Device,
        _: *const params.struct_fb_tensor_map_spec,
        _: *align(1) params.struct_fb_tensor_map,
    ) i32 {
        return fail(.unsupported, "the cpu device has no tensor maps", .{});
    }

    pub fn find_kernel(
        device: *Device,
        name: []const u8,
        out: *u64,
        facts: *params.struct_fb_kernel_facts,
    ) i32 {
        const table = levels.table(device.level);
        for (table.kernels[0..table.count]) |*kernel| {
            if (!std.mem.eql(u8, std.mem.span(kernel.name), name)) continue;
            out.* = @intFromPtr(kernel);
            facts.* = std.mem.zeroes(params.struct_fb_kernel_facts);
            facts.params_bytes = @intCast(kernel.params_bytes);
            facts.item_rows = @intCast(kernel.item_rows);
            return 0;
        }
        return fail(.not_found, "no kernel is named {s}", .{name});
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

    /// The first failure stays. Streams that wait for events of a failed device go on. Holds the
    /// mutex.
    pub fn fail_with(device: *Device, kernel: []const u8, status: i32) void {
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

    /// Wakes the reader of the pipe; with a full pipe it is awake already.
    pub fn notify(device: *Device) void {
        const byte = [1]u8{1};
        _ = std.c.write(device.pipe[1], &byte, 1);
    }
};

fn last_level_cache_bytes() u64 {
    const level3_cache_size = 194;
    const bytes = sysconf(level3_cache_size);
    return if (bytes > 0) @intCast(bytes) else 0;
}

fn physical_bytes() u64 {
    const page_size = 30;
    const physical_pages = 85;
    const pages = sysconf(physical_pages);
    return if (pages > 0) @intCast(pages * sysconf(page_size)) else 0;
}

extern "c" fn sysconf(name: c_int) c_long;
