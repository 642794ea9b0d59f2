//! The C ABI: thin forwarders that check handles, take the device's mutex and turn errors into status codes.
//!
//! Every function returns a status (version and last error excepted) and writes through pointers. Nothing
//! here calls back, throws or aborts on bad input.
const std = @import("std");
const params = @import("params");
const status_file = @import("status.zig");
const levels = @import("cpu/levels.zig");
const Device = @import("cpu/device.zig").Device;
const streams = @import("cpu/stream.zig");
const Stream = streams.Stream;
const Event = streams.Event;
const Graph = streams.Graph;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

export fn fb_abi_version() i32 {
    return params.FB_ABI_VERSION;
}

/// Copies the last sentence of this thread, without a terminator; returns its length in bytes.
export fn fb_last_error(buffer: ?[*]u8, capacity: i32) i32 {
    const target = buffer orelse return 0;
    if (capacity <= 0) return 0;
    return @intCast(status_file.copy_last(target[0..@intCast(capacity)]));
}

/// Opens the CUDA driver once a process.
export fn fb_driver_open(path: ?[*:0]const u8, out: ?*params.struct_fb_driver_properties) i32 {
    _ = .{ path, out };
    return fail(.unsupported, "this build has no CUDA device", .{});
}

/// kind 0 is the CPU; level -1 takes the best the processor runs.
export fn fb_device_open(kind: i32, thread_count: i32, level: i32, limit_bytes: u64, out: ?**Device) i32 {
    const target = out orelse return null_handle("out");
    if (kind != 0) return fail(.unsupported, "device kind {d} is not built in; 0 (cpu) is", .{kind});
    if (thread_count < 1 or thread_count > 1024) return fail(.invalid_argument, "threads must be 1 to 1024 (got {d})", .{thread_count});
    const best = levels.best();
    if (level < -1 or level > @backingInt(best)) {
        return fail(.unsupported, "CPU level {d} is above {t}, the best of this processor", .{ level, best });
    }
    const chosen: levels.Level = if (level == -1) best else @fromBackingInt(@intCast(level));
    target.* = Device.open(@intCast(thread_count), chosen, limit_bytes) catch |cause| {
        return fail(.system, "the CPU device did not start {d} threads: {t}", .{ thread_count, cause });
    };
    return 0;
}

export fn fb_device_close(device: ?*Device) i32 {
    (device orelse return null_handle("device")).close();
    return 0;
}

export fn fb_device_properties(device: ?*Device, out: ?*params.struct_fb_device_properties) i32 {
    const owner = device orelse return null_handle("device");
    const target = out orelse return null_handle("out");
    target.* = std.mem.zeroes(params.struct_fb_device_properties);
    target.total_bytes = owner.memory.limit_bytes;
    target.physical_bytes = physical_bytes();
    target.last_level_cache_bytes = last_level_cache_bytes();
    target.pool_bytes = owner.memory.live_bytes;
    target.processors = @intCast(owner.pool.threads.len);
    target.level = @backingInt(owner.level);
    target.frozen = @intFromBool(owner.memory.frozen);
    target.notify_fd = owner.pipe[0];
    var buffer: [48]u8 = undefined;
    const brand = levels.brand(&buffer);
    @memcpy(target.name[0..brand.len], brand);
    return 0;
}

/// The failure that poisoned the device, or 0.
export fn fb_device_failure(device: ?*Device) i32 {
    const owner = device orelse return null_handle("device");
    owner.pool.mutex.lock();
    defer owner.pool.mutex.unlock();
    return failure(owner);
}

/// pinned is for CUDA; on the CPU all memory is host memory.
export fn fb_memory_alloc(device: ?*Device, bytes: u64, pinned: i32, out: ?*u64) i32 {
    const owner = device orelse return null_handle("device");
    const target = out orelse return null_handle("out");
    _ = pinned;
    target.* = owner.memory.alloc(bytes) catch |refusal| return switch (refusal) {
        error.Frozen => fail(.frozen, "the memory pool is frozen: {d} bytes were asked for", .{bytes}),
        else => fail(.out_of_memory, "{d} bytes asked, {d} of {d} free", .{
            bytes,
            owner.memory.limit_bytes -| owner.memory.live_bytes,
            owner.memory.limit_bytes,
        }),
    };
    return 0;
}

/// Frees at once when no stream is busy, else when all that is queued now is through.
export fn fb_memory_free(device: ?*Device, address: u64) i32 {
    const owner = device orelse return null_handle("device");
    if (!owner.memory.owns(address)) return fail(.invalid_argument, "no allocation starts at address {x}", .{address});
    owner.pool.mutex.lock();
    defer owner.pool.mutex.unlock();
    const release = allocator.create(streams.Release) catch return out_of_host_memory();
    release.* = .{ .address = address, .holders = 0 };
    var at = owner.streams;
    while (at) |stream| : (at = stream.sibling) {
        if (stream.completed == stream.enqueued) continue;
        const operation = owner.take_operation() catch break;
        operation.action = .{ .release = release };
        release.holders += 1;
        stream.push(operation);
    }
    if (release.holders > 0) return 0;
    allocator.destroy(release);
    owner.memory.free(address) catch {};
    return 0;
}

/// A frozen pool refuses every allocation.
export fn fb_memory_freeze(device: ?*Device, frozen: i32) i32 {
    const owner = device orelse return null_handle("device");
    owner.memory.mutex.lock();
    defer owner.memory.mutex.unlock();
    owner.memory.frozen = frozen != 0;
    return 0;
}

/// out: bytes in use, bytes kept for reuse, limit.
export fn fb_memory_stats(device: ?*Device, out: ?*[3]f64) i32 {
    const owner = device orelse return null_handle("device");
    const target = out orelse return null_handle("out");
    owner.memory.mutex.lock();
    defer owner.memory.mutex.unlock();
    const pool = &owner.memory;
    target.* = .{ @floatFromInt(pool.live_bytes), @floatFromInt(pool.spare_bytes), @floatFromInt(pool.limit_bytes) };
    return 0;
}

export fn fb_memory_copy(stream: ?*Stream, target: u64, source: u64, bytes: u64) i32 {
    if (bytes == 0) return 0;
    if (target == 0 or source == 0) return null_handle("target or source");
    return enqueue(stream, .{ .copy = .{ .target = target, .source = source, .bytes = bytes } });
}

export fn fb_memory_fill(stream: ?*Stream, target: u64, byte: i32, bytes: u64) i32 {
    if (bytes == 0) return 0;
    if (target == 0) return null_handle("target");
    return enqueue(stream, .{ .fill = .{ .target = target, .byte = @truncate(@as(u32, @bitCast(byte))), .bytes = bytes } });
}

export fn fb_stream_create(device: ?*Device, out: ?**Stream) i32 {
    const owner = device orelse return null_handle("device");
    const target = out orelse return null_handle("out");
    target.* = owner.add_stream() catch return out_of_host_memory();
    return 0;
}

/// On the CPU a native stream is a handle of this library: it stays its owner's.
export fn fb_stream_wrap(device: ?*Device, native: u64, out: ?*u64) i32 {
    if (device == null) return null_handle("device");
    const target = out orelse return null_handle("out");
    target.* = native;
    return 0;
}

/// Frees the stream once all that is queued now is through.
export fn fb_stream_destroy(stream: ?*Stream) i32 {
    const gone = stream orelse return null_handle("stream");
    if (gone.capture) |graph| {
        gone.device.pool.mutex.lock();
        graph.drop();
        gone.device.pool.mutex.unlock();
    }
    gone.device.remove_stream(gone);
    return 0;
}

/// Blocks until all that is queued now is through; returns the device's failure.
export fn fb_stream_wait(stream: ?*Stream) i32 {
    const waited = stream orelse return null_handle("stream");
    const device = waited.device;
    device.pool.mutex.lock();
    defer device.pool.mutex.unlock();
    device.wait(waited);
    return failure(device);
}

/// out: operations enqueued and completed so far.
export fn fb_stream_query(stream: ?*Stream, out: ?*[2]f64) i32 {
    const asked = stream orelse return null_handle("stream");
    const target = out orelse return null_handle("out");
    const device = asked.device;
    device.pool.mutex.lock();
    defer device.pool.mutex.unlock();
    target.* = .{ @floatFromInt(asked.enqueued), @floatFromInt(asked.completed) };
    return failure(device);
}

/// Enqueues one byte on the device's pipe. Works on a failed device, so that nobody waits for ever.
export fn fb_stream_notify(stream: ?*Stream, ticket: ?*f64) i32 {
    const asked = stream orelse return null_handle("stream");
    const target = ticket orelse return null_handle("ticket");
    const device = asked.device;
    device.pool.mutex.lock();
    defer device.pool.mutex.unlock();
    if (asked.capture != null) return fail(.capture, "a stream that captures cannot be waited for", .{});
    const operation = device.take_operation() catch return out_of_host_memory();
    operation.action = .notify;
    asked.push(operation);
    target.* = @floatFromInt(asked.enqueued);
    return 0;
}

export fn fb_event_create(device: ?*Device, out: ?**Event) i32 {
    const owner = device orelse return null_handle("device");
    const target = out orelse return null_handle("out");
    const event = allocator.create(Event) catch return out_of_host_memory();
    event.* = .{ .device = owner };
    target.* = event;
    return 0;
}

export fn fb_event_destroy(event: ?*Event) i32 {
    const gone = event orelse return null_handle("event");
    const device = gone.device;
    device.pool.mutex.lock();
    defer device.pool.mutex.unlock();
    gone.drop();
    return 0;
}

export fn fb_event_record(event: ?*Event, stream: ?*Stream) i32 {
    const recorded = event orelse return null_handle("event");
    const status = enqueue(stream, .{ .record = recorded });
    return status;
}

export fn fb_event_wait(event: ?*Event, stream: ?*Stream) i32 {
    const waited = event orelse return null_handle("event");
    return enqueue(stream, .{ .wait = .{ .event = waited, .generation = waited.recorded } });
}

/// Status 0 when the last record was reached, not_ready before.
export fn fb_event_query(event: ?*Event) i32 {
    const asked = event orelse return null_handle("event");
    asked.device.pool.mutex.lock();
    defer asked.device.pool.mutex.unlock();
    if (asked.reached < asked.recorded) return status_file.Status.not_ready.code();
    return 0;
}

/// out: milliseconds from `first` to `second`, both reached.
export fn fb_event_elapsed(first: ?*Event, second: ?*Event, out: ?*f64) i32 {
    const start = first orelse return null_handle("first");
    const end = second orelse return null_handle("second");
    const target = out orelse return null_handle("out");
    start.device.pool.mutex.lock();
    defer start.device.pool.mutex.unlock();
    if (start.reached == 0 or end.reached == 0) return fail(.not_ready, "an event was never reached", .{});
    target.* = @as(f64, @floatFromInt(end.nanoseconds - start.nanoseconds)) / std.time.ns_per_ms;
    return 0;
}

/// From here on the stream's operations go into a graph and do not run.
export fn fb_capture_begin(stream: ?*Stream) i32 {
    const captured = stream orelse return null_handle("stream");
    const device = captured.device;
    device.pool.mutex.lock();
    defer device.pool.mutex.unlock();
    if (captured.capture != null) return fail(.capture, "the stream captures already", .{});
    const graph = allocator.create(Graph) catch return out_of_host_memory();
    graph.* = .{ .device = device };
    captured.capture = graph;
    return 0;
}

export fn fb_capture_end(stream: ?*Stream, out: ?**Graph) i32 {
    const captured = stream orelse return null_handle("stream");
    const target = out orelse return null_handle("out");
    captured.device.pool.mutex.lock();
    defer captured.device.pool.mutex.unlock();
    target.* = captured.capture orelse return fail(.capture, "the stream does not capture", .{});
    captured.capture = null;
    return 0;
}

export fn fb_graph_launch(graph: ?*Graph, stream: ?*Stream) i32 {
    const replayed = graph orelse return null_handle("graph");
    return enqueue(stream, .{ .graph = replayed });
}

export fn fb_graph_update(graph: ?*Graph, source: ?*Graph) i32 {
    _ = .{ graph, source };
    return fail(.unsupported, "graphs of the cpu device are not updated", .{});
}

export fn fb_graph_free(graph: ?*Graph) i32 {
    const gone = graph orelse return null_handle("graph");
    const device = gone.device;
    device.pool.mutex.lock();
    defer device.pool.mutex.unlock();
    gone.drop();
    return 0;
}

/// Kernels from bytes are for CUDA devices.
export fn fb_module_load(device: ?*Device, bytes: ?[*]const u8, length: u64, out: ?*u64) i32 {
    _ = .{ bytes, length, out };
    if (device == null) return null_handle("device");
    return fail(.unsupported, "the cpu device loads no modules: its kernels are built in", .{});
}

export fn fb_module_unload(module: u64) i32 {
    _ = module;
    return fail(.unsupported, "the cpu device loads no modules: its kernels are built in", .{});
}

export fn fb_module_kernel(
    module: u64,
    name: ?[*:0]const u8,
    traits: ?*const params.struct_fb_kernel_traits,
    facts: ?*params.struct_fb_kernel_facts,
    out: ?*u64,
) i32 {
    _ = .{ module, name, traits, facts, out };
    return fail(.unsupported, "the cpu device loads no modules: its kernels are built in", .{});
}

/// The blob of embedded kernel images; length 0 without one.
export fn fb_images(address: ?*u64, length: ?*u64) i32 {
    (address orelse return null_handle("address")).* = 0;
    (length orelse return null_handle("length")).* = 0;
    return 0;
}

/// Tensor maps are for CUDA devices.
export fn fb_tensor_map_encode(
    device: ?*Device,
    spec: ?*const params.struct_fb_tensor_map_spec,
    out: ?*params.struct_fb_tensor_map,
) i32 {
    _ = .{ spec, out };
    if (device == null) return null_handle("device");
    return fail(.unsupported, "the cpu device has no tensor maps", .{});
}

/// out: the kernel's handle; facts: what a launch must pass and what one item of its grid covers.
export fn fb_kernel_find(
    device: ?*Device,
    name: ?[*:0]const u8,
    out: ?*u64,
    facts: ?*params.struct_fb_kernel_facts,
) i32 {
    const owner = device orelse return null_handle("device");
    const wanted = std.mem.span(name orelse return null_handle("name"));
    const target = out orelse return null_handle("out");
    const said = facts orelse return null_handle("facts");
    const kernel = owner.find(wanted) orelse return fail(.not_found, "no kernel is named {s}", .{wanted});
    target.* = @intFromPtr(kernel);
    said.* = std.mem.zeroes(params.struct_fb_kernel_facts);
    said.params_bytes = @intCast(kernel.params_bytes);
    said.item_rows = @intCast(kernel.item_rows);
    return 0;
}

/// Copies the parameters and enqueues `grid` items.
export fn fb_launch(stream: ?*Stream, kernel: ?*const levels.Kernel, parameters: ?[*]const u8, bytes: i32, grid: i32) i32 {
    const launched = kernel orelse return null_handle("kernel");
    const source = parameters orelse return null_handle("parameters");
    if (bytes != launched.params_bytes or bytes > streams.params_bytes_max) {
        return fail(.invalid_argument, "{s} takes {d} bytes of parameters (got {d})", .{ launched.name, launched.params_bytes, bytes });
    }
    if (grid < 0) return fail(.invalid_argument, "grid must be 0 or more (got {d})", .{grid});
    if (grid == 0) return 0;
    const target = stream orelse return null_handle("stream");
    target.device.pool.mutex.lock();
    defer target.device.pool.mutex.unlock();
    const operation = target.device.take_operation() catch return out_of_host_memory();
    operation.action = .{ .launch = .{ .kernel = launched, .grid = @intCast(grid) } };
    const length: usize = @intCast(bytes);
    @memcpy(operation.params[0..length], source[0..length]);
    return admit(target, operation);
}

/// Host memory for one exported DLPack tensor, zeroed; 64-aligned.
export fn fb_dlpack_create(bytes: u64, out: ?*u64) i32 {
    const target = out orelse return null_handle("out");
    const block = allocator.alignedAlloc(u8, .@"64", bytes) catch return out_of_host_memory();
    @memset(block, 0);
    target.* = @intFromPtr(block.ptr);
    return 0;
}

export fn fb_dlpack_destroy(address: u64) i32 {
    if (address == 0) return null_handle("address");
    std.c.free(@ptrFromInt(address));
    return 0;
}

/// The deleter of exported tensors, called by the consumer on any thread: raises the flag that manager_ctx points at.
export fn fb_dlpack_deleter(managed: ?*Managed) void {
    const exported = managed orelse return;
    const flag = exported.manager_ctx orelse return;
    @atomicStore(u32, flag, 1, .release);
}

const Managed = extern struct { major: u32, minor: u32, manager_ctx: ?*u32 };

fn enqueue(stream: ?*Stream, action: streams.Action) i32 {
    const target = stream orelse return null_handle("stream");
    target.device.pool.mutex.lock();
    defer target.device.pool.mutex.unlock();
    const operation = target.device.take_operation() catch return out_of_host_memory();
    operation.action = action;
    return admit(target, operation);
}

/// Queues or captures the operation, unless the device failed. Holds the mutex.
fn admit(stream: *Stream, operation: *streams.Operation) i32 {
    const device = stream.device;
    if (device.failure_status != 0) {
        device.recycle(operation);
        return failure(device);
    }
    if (stream.capture) |graph| {
        switch (operation.action) {
            .launch, .copy, .fill => graph.append(operation),
            else => {
                device.recycle(operation);
                return fail(.capture, "a stream that captures takes launches, copies and fills only", .{});
            },
        }
        return 0;
    }
    switch (operation.action) {
        .record => |event| {
            event.recorded += 1;
            event.references += 1;
        },
        .wait => |wait| wait.event.references += 1,
        .graph => |graph| graph.references += 1,
        else => {},
    }
    stream.push(operation);
    return 0;
}

fn failure(device: *Device) i32 {
    if (device.failure_status == 0) return 0;
    return fail(.device_failed, "kernel {s} failed with status {d}; the device takes no more work", .{
        device.failure_kernel, device.failure_status,
    });
}

fn null_handle(comptime name: []const u8) i32 {
    return fail(.invalid_argument, name ++ " must not be null", .{});
}

fn out_of_host_memory() i32 {
    return fail(.out_of_memory, "the system has no host memory left", .{});
}

fn last_level_cache_bytes() u64 {
    const level3_cache_size = 194;
    const bytes = sysconf(level3_cache_size);
    return if (bytes > 0) @intCast(bytes) else 0;
}

fn physical_bytes() u64 {
    const pages = 85;
    const page_size = 30;
    const count = sysconf(pages);
    return if (count > 0) @intCast(count * sysconf(page_size)) else 0;
}

extern "c" fn sysconf(name: c_int) c_long;
