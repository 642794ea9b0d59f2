//! The CUDA device: a primary context with its memory, streams, modules and what failed first.
const std = @import("std");
const params = @import("params");
const context = @import("context.zig");
const cublaslt = @import("cublaslt.zig");
const driver = @import("driver.zig");
const failure = @import("failure.zig");
const memory = @import("memory.zig");
const retire = @import("retire.zig");
const tensor_map = @import("tensor_map.zig");
const stream_file = @import("stream.zig");
const handles = @import("../handle.zig");
const lock = @import("../lock.zig");
const status_file = @import("../status.zig");
const Event = @import("event.zig").Event;
const Graph = @import("graph.zig").Graph;
const Module = @import("module.zig").Module;
const Stream = stream_file.Stream;
const Waiter = @import("waiter.zig").Waiter;
const Properties = params.struct_fb_device_properties;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

/// The oldest that the kernels are written for, Turing: ldmatrix and matrix products of f16.
const oldest_capability = 75;

pub const Device = struct {
    handle: handles.Device = .{ .backend = .cuda },
    api: *const driver.Functions,
    processor: driver.Processor,
    context: driver.Context,
    /// What never changes of the properties.
    facts: Properties,
    pipe: [2]std.c.fd_t,
    memory: memory.DevicePool,
    pinned: memory.PinnedPool,
    waiter: Waiter = .{},
    failure: failure.Failure = .{},
    /// Counts what was submitted on all streams; a count is the ticket of its work.
    work: std.atomic.Value(u64) = .init(0),
    last_launched: std.atomic.Value(?[*:0]const u8) = .init(null),
    products: cublaslt.Products = .{},

    /// For what follows, and for nothing that a launch needs.
    mutex: lock.Mutex = .{},
    streams: std.DoublyLinkedList = .{},
    events: std.DoublyLinkedList = .{},
    graphs: std.DoublyLinkedList = .{},
    modules: std.DoublyLinkedList = .{},
    retired: retire.Queue = .{},
    maps: tensor_map.Cache = .{},
    names: std.heap.ArenaAllocator = .init(allocator),
    captures: u32 = 0,

    pub fn open(ordinal: i32, limit_bytes: u64, out: **handles.Device) i32 {
        var said: params.struct_fb_driver_properties = undefined;
        if (driver.opened() == null) {
            const status = driver.open(null, &said);
            if (status != 0) return status;
        }
        return open_on(driver.opened().?, ordinal, limit_bytes, out);
    }

    pub fn open_on(
        found: *const driver.Driver,
        ordinal: i32,
        limit_bytes: u64,
        out: **handles.Device,
    ) i32 {
        const api = &found.functions;
        var processor: driver.Processor = undefined;
        if (ordinal < 0 or api.cuDeviceGet(&processor, ordinal) != driver.success) {
            return fail(.invalid_argument, "the driver shows no device {d}", .{ordinal});
        }
        var facts = describe(api, processor);
        facts.emulated = @intFromBool(found.emulated);
        facts.driver_version = found.version;
        facts.total_bytes = @min(limit_bytes, facts.physical_bytes);
        if (10 * facts.compute_major + facts.compute_minor < oldest_capability) {
            const sentence = "{s} has compute capability {d}.{d}, {d}.{d} or later is needed";
            return fail(.unsupported, sentence, .{
                std.mem.sliceTo(&facts.name, 0),
                facts.compute_major,
                facts.compute_minor,
                oldest_capability / 10,
                oldest_capability % 10,
            });
        }
        const device = allocator.create(Device) catch return status_file.out_of_host_memory();
        const status = device.start(api, processor, facts);
        if (status != 0) {
            allocator.destroy(device);
            return status;
        }
        out.* = &device.handle;
        return 0;
    }

    fn start(
        device: *Device,
        api: *const driver.Functions,
        processor: driver.Processor,
        facts: Properties,
    ) i32 {
        const emulated = facts.emulated != 0;
        device.* = .{
            .api = api,
            .processor = processor,
            .context = undefined,
            .facts = facts,
            .pipe = undefined,
            .memory = .{
                .source = .{ .api = api, .exact = emulated },
                .limit_bytes = facts.total_bytes,
            },
            .pinned = .{
                .source = .{ .api = api, .exact = emulated },
                .limit_bytes = std.math.maxInt(usize),
            },
        };
        const retained = api.cuDevicePrimaryCtxRetain(&device.context, processor);
        if (retained != driver.success) return failure.check(device, retained);
        if (std.c.pipe2(&device.pipe, .{ .NONBLOCK = true, .CLOEXEC = true }) != 0) {
            _ = api.cuDevicePrimaryCtxRelease(processor);
            return fail(.system, "the system gave no pipe", .{});
        }
        device.facts.notify_fd = device.pipe[0];
        device.waiter.start(device) catch |cause| {
            device.leave();
            return fail(.system, "the waiting thread did not start: {t}", .{cause});
        };
        return 0;
    }

    /// Waits for what is queued, then frees everything the device owns.
    pub fn close(device: *Device) i32 {
        device.mutex.lock();
        device.make_current();
        var node = device.streams.first;
        while (node) |found| : (node = found.next) {
            const stream: *Stream = @fieldParentPtr("node", found);
            stream.abandon_capture();
        }
        device.wait_for_streams();
        device.mutex.unlock();
        device.waiter.stop(device);
        while (device.graphs.first) |graph| {
            const owned: *Graph = @fieldParentPtr("node", graph);
            _ = owned.free();
        }
        while (device.modules.first) |module| {
            const owned: *Module = @fieldParentPtr("node", module);
            _ = owned.unload();
        }
        while (device.events.first) |event| {
            const owned: *Event = @fieldParentPtr("node", event);
            _ = owned.destroy();
        }
        while (device.streams.first) |stream| {
            const owned: *Stream = @fieldParentPtr("node", stream);
            _ = owned.destroy();
        }
        device.products.deinit();
        device.retired.deinit(device);
        device.maps.deinit();
        device.memory.deinit();
        device.pinned.deinit();
        device.names.deinit();
        device.leave();
        allocator.destroy(device);
        return 0;
    }

    /// Blocks until all work is done. Streams one by one: others may use the context, and to
    /// wait for the whole of it would break their captures. Holds the mutex.
    pub fn wait_for_streams(device: *Device) void {
        var node = device.streams.first;
        while (node) |found| : (node = found.next) {
            const stream: *Stream = @fieldParentPtr("node", found);
            if (stream.state() != .busy) continue;
            _ = failure.check(device, device.api.cuStreamSynchronize(stream.native));
        }
        device.retired.drain(device);
    }

    fn leave(device: *Device) void {
        _ = device.api.cuDevicePrimaryCtxRelease(device.processor);
        context.forget_all();
        _ = std.c.close(device.pipe[0]);
        _ = std.c.close(device.pipe[1]);
    }

    pub fn properties(device: *Device, out: *Properties) i32 {
        out.* = device.facts;
        out.pool_bytes = device.memory.stats()[0];
        out.frozen = @intFromBool(device.memory.frozen);
        return 0;
    }

    pub fn name(device: *const Device) []const u8 {
        return std.mem.sliceTo(&device.facts.name, 0);
    }

    /// The failure that poisoned the device, or 0.
    pub fn failed(device: *Device) i32 {
        return failure.status(device);
    }

    /// Pinned memory is host memory that the device reaches; the limit holds for device memory.
    pub fn alloc(device: *Device, bytes: u64, pinned: bool, out: *u64) i32 {
        if (device.failure.happened()) return failure.status(device);
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        device.retired.flush(device);
        if (pinned) return device.alloc_from(&device.pinned, bytes, out);
        return device.alloc_from(&device.memory, bytes, out);
    }

    fn alloc_from(device: *Device, pool: anytype, bytes: u64, out: *u64) i32 {
        pool.source.result = driver.success;
        out.* = pool.alloc(bytes) catch |first| retry: {
            if (first == error.Frozen) return status_file.frozen(bytes);
            // Blocks that were given back may wait for queued work: better late than never.
            device.retired.drain(device);
            break :retry pool.alloc(bytes) catch return device.no_memory(pool, bytes);
        };
        return 0;
    }

    fn no_memory(device: *Device, pool: anytype, bytes: u64) i32 {
        const result = pool.source.result;
        if (result != driver.success and result != driver.out_of_memory) {
            return failure.check(device, result);
        }
        const used, const spare, const limit = pool.stats();
        var free_bytes = limit -| used;
        var total: usize = 0;
        var left: usize = 0;
        const on_device = @TypeOf(pool) == *memory.DevicePool;
        if (on_device and device.api.cuMemGetInfo(&left, &total) == driver.success) {
            free_bytes = @min(free_bytes, left + spare);
        }
        return status_file.out_of_memory(bytes, free_bytes, limit);
    }

    /// Frees at once when no stream is busy, else when all that is queued now is done.
    pub fn free(device: *Device, address: u64) i32 {
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        inline for (.{ .device, .pinned }) |kind| {
            const pool = if (kind == .device) &device.memory else &device.pinned;
            if (pool.take(address)) |size| {
                if (kind == .device) device.maps.forget(address, size);
                device.retired.retire(device, .{
                    .block = .{ .kind = kind, .address = address, .size = size },
                });
                return 0;
            }
        }
        return status_file.not_allocated(address);
    }

    pub fn freeze(device: *Device, frozen: bool) i32 {
        device.memory.freeze(frozen);
        device.pinned.freeze(frozen);
        return 0;
    }

    /// Of device memory.
    pub fn stats(device: *Device, out: *[3]f64) i32 {
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        device.retired.flush(device);
        for (out, device.memory.stats()) |*target, bytes| target.* = @floatFromInt(bytes);
        return 0;
    }

    pub fn create_stream(device: *Device, out: **handles.Stream) i32 {
        if (device.failure.happened()) return failure.status(device);
        device.make_current();
        var native: driver.Stream = undefined;
        const result = device.api.cuStreamCreate(&native, stream_file.non_blocking);
        if (result != driver.success) return failure.check(device, result);
        const status = device.add_stream(native, true, out);
        if (status != 0) _ = device.api.cuStreamDestroy(native);
        return status;
    }

    /// A handle for a stream of another library, which stays its owner's.
    pub fn wrap_stream(device: *Device, native: u64, out: **handles.Stream) i32 {
        if (native == 0) return status_file.null_handle("native");
        return device.add_stream(@ptrFromInt(native), false, out);
    }

    fn add_stream(
        device: *Device,
        native: driver.Stream,
        owned: bool,
        out: **handles.Stream,
    ) i32 {
        const stream = allocator.create(Stream) catch return status_file.out_of_host_memory();
        stream.* = .{ .device = device, .native = native, .owned = owned };
        device.mutex.lock();
        defer device.mutex.unlock();
        device.streams.append(&stream.node);
        out.* = &stream.handle;
        return 0;
    }

    pub fn create_event(device: *Device, out: **handles.Event) i32 {
        if (device.failure.happened()) return failure.status(device);
        device.make_current();
        const event = allocator.create(Event) catch return status_file.out_of_host_memory();
        event.* = .{ .device = device, .native = undefined };
        const result = device.api.cuEventCreate(&event.native, 0);
        if (result != driver.success) {
            allocator.destroy(event);
            return failure.check(device, result);
        }
        device.mutex.lock();
        defer device.mutex.unlock();
        device.events.append(&event.node);
        out.* = &event.handle;
        return 0;
    }

    pub fn load_module(device: *Device, bytes: []const u8, out: *u64) i32 {
        return Module.load(device, bytes, out);
    }

    pub fn find_kernel(
        _: *Device,
        wanted: []const u8,
        _: *u64,
        _: *params.struct_fb_kernel_facts,
    ) i32 {
        const sentence = "no kernel is named {s}: those of a cuda device come from modules";
        return fail(.not_found, sentence, .{wanted});
    }

    pub fn encode_tensor_map(
        device: *Device,
        spec: *const params.struct_fb_tensor_map_spec,
        out: *align(1) params.struct_fb_tensor_map,
    ) i32 {
        if (device.failure.happened()) return failure.status(device);
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        return device.maps.encode(device, spec, out);
    }

    /// A copy that lives as long as the device. Holds the mutex.
    pub fn keep_name(device: *Device, given: []const u8) ?[:0]const u8 {
        return device.names.allocator().dupeSentinel(u8, given, 0) catch null;
    }

    /// Wakes the reader of the pipe; with a full pipe it is awake already.
    pub fn ring(device: *Device) void {
        const byte = [1]u8{1};
        _ = std.c.write(device.pipe[1], &byte, 1);
    }

    pub fn ensure_current(device: *const Device) void {
        context.ensure(device.api, device.context);
    }

    pub fn make_current(device: *const Device) void {
        context.set(device.api, device.context);
    }

    /// A driver call in the device's context. Where other code of this thread changed the context,
    /// the call is refused without effect and made again.
    pub inline fn call(
        device: *const Device,
        comptime function: []const u8,
        arguments: anytype,
    ) driver.Result {
        device.ensure_current();
        const result = @call(.auto, @field(device.api, function), arguments);
        if (!is_wrong_context(result)) return result;
        device.make_current();
        return @call(.auto, @field(device.api, function), arguments);
    }
};

fn is_wrong_context(result: driver.Result) bool {
    const invalid_context = 201;
    const invalid_handle = 400;
    return result == invalid_context or result == invalid_handle;
}

fn describe(api: *const driver.Functions, processor: driver.Processor) Properties {
    var out = std.mem.zeroes(Properties);
    _ = api.cuDeviceGetName(&out.name, out.name.len - 1, processor);
    _ = api.cuDeviceTotalMem(&out.physical_bytes, processor);
    var cache_bytes: i32 = 0;
    inline for (.{
        .{ 16, &out.processors },
        .{ 38, &cache_bytes },
        .{ 39, &out.threads_per_processor },
        .{ 75, &out.compute_major },
        .{ 76, &out.compute_minor },
        .{ 81, &out.shared_bytes_per_processor },
        .{ 82, &out.registers_per_processor },
        .{ 97, &out.shared_bytes_per_block },
    }) |asked| {
        _ = api.cuDeviceGetAttribute(asked[1], asked[0], processor);
    }
    out.last_level_cache_bytes = @intCast(@max(0, cache_bytes));
    return out;
}
