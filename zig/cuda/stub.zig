//! A driver for tests: it keeps time and memory in numbers, runs nothing, and fails to order.
//!
//! Work that is submitted is reached at once, unless `held`: then when `reach` is called.
const std = @import("std");
const params = @import("params");
const driver = @import("driver.zig");

pub const State = struct {
    held: bool = false,
    submitted: u64 = 0,
    reached: u64 = 0,
    free_bytes: usize = 1 << 30,
    /// What every call that works on the device returns from now on.
    sticky: driver.Result = 0,
    /// What the next submission returns.
    next: driver.Result = 0,
    /// What the next update of a graph returns.
    update: driver.Result = 0,
    capturing: bool = false,
    grid: u32 = 0,
    copies: u32 = 0,
    encoded: u32 = 0,
    executables: i32 = 0,
    libraries: i32 = 0,
    events: i32 = 0,
    streams: i32 = 0,
    contexts: i32 = 0,
};

pub var state: State = .{};
var blocks: std.AutoHashMapUnmanaged(u64, usize) = .empty;
var next_address: u64 = 1 << 40;

const allocator = std.heap.c_allocator;

/// Completes everything that was submitted.
pub fn reach() void {
    state.reached = state.submitted;
}

pub fn live_blocks() usize {
    return blocks.count();
}

/// The driver of this stub, in its first state.
pub fn library() driver.Driver {
    state = .{};
    blocks.clearRetainingCapacity();
    var found: driver.Driver = .{ .functions = undefined, .version = 13000, .emulated = false };
    inline for (comptime std.meta.fieldNames(driver.Functions)) |name| {
        @field(found.functions, name) = &@field(calls, name);
    }
    return found;
}

fn submit() driver.Result {
    if (state.sticky != 0) return state.sticky;
    const result = state.next;
    state.next = 0;
    if (result != 0 or state.capturing) return result;
    state.submitted += 1;
    if (!state.held) reach();
    return 0;
}

fn is_reached(mark: u64) driver.Result {
    if (state.sticky != 0) return state.sticky;
    return if (mark <= state.reached) 0 else driver.not_ready;
}

fn token(comptime Handle: type, id: usize) Handle {
    return @ptrFromInt(id * 16);
}

/// What was submitted before each event was recorded.
var marks: [256]u64 = @splat(0);
var last_event: usize = 0;

fn mark_of(event: driver.Event) *u64 {
    return &marks[@intFromPtr(event) / 16 % marks.len];
}

const Result = driver.Result;

const calls = struct {
    fn cuInit(_: c_uint) callconv(.c) Result {
        return 0;
    }
    fn cuDriverGetVersion(version: *c_int) callconv(.c) Result {
        version.* = 13000;
        return 0;
    }
    fn cuDeviceGetCount(count: *c_int) callconv(.c) Result {
        count.* = 1;
        return 0;
    }
    fn cuDeviceGet(device: *driver.Processor, ordinal: c_int) callconv(.c) Result {
        device.* = ordinal;
        return if (ordinal == 0) 0 else 101;
    }
    fn cuDeviceGetName(name: [*]u8, _: c_int, _: driver.Processor) callconv(.c) Result {
        @memcpy(name[0..5], "stub\x00");
        return 0;
    }
    fn cuDeviceGetAttribute(out: *c_int, id: c_int, _: driver.Processor) callconv(.c) Result {
        out.* = switch (id) {
            16 => 4,
            75 => 9,
            97 => 100_000,
            else => 0,
        };
        return 0;
    }
    fn cuDeviceTotalMem(bytes: *usize, _: driver.Processor) callconv(.c) Result {
        bytes.* = 1 << 30;
        return 0;
    }
    fn cuDevicePrimaryCtxRetain(out: *driver.Context, _: driver.Processor) callconv(.c) Result {
        out.* = token(driver.Context, 1);
        state.contexts += 1;
        return 0;
    }
    fn cuDevicePrimaryCtxRelease(_: driver.Processor) callconv(.c) Result {
        state.contexts -= 1;
        return state.sticky;
    }
    fn cuCtxSetCurrent(_: ?driver.Context) callconv(.c) Result {
        return 0;
    }
    fn cuMemGetInfo(free: *usize, total: *usize) callconv(.c) Result {
        free.* = state.free_bytes;
        total.* = 1 << 30;
        return state.sticky;
    }
    fn cuMemAlloc(address: *u64, bytes: usize) callconv(.c) Result {
        if (state.sticky != 0) return state.sticky;
        if (bytes > state.free_bytes) return driver.out_of_memory;
        blocks.put(allocator, next_address, bytes) catch return driver.out_of_memory;
        address.* = next_address;
        next_address += std.mem.alignForward(usize, bytes, 4096);
        state.free_bytes -= bytes;
        return 0;
    }
    fn cuMemFree(address: u64) callconv(.c) Result {
        const found = blocks.fetchRemove(address) orelse return 1;
        state.free_bytes += found.value;
        return state.sticky;
    }
    fn cuMemHostAlloc(address: *u64, bytes: usize, _: c_uint) callconv(.c) Result {
        return cuMemAlloc(address, bytes);
    }
    fn cuMemFreeHost(address: u64) callconv(.c) Result {
        return cuMemFree(address);
    }
    fn cuMemcpyAsync(_: u64, _: u64, _: usize, _: driver.Stream) callconv(.c) Result {
        state.copies += 1;
        return submit();
    }
    fn cuMemsetD8Async(_: u64, _: u8, _: usize, _: driver.Stream) callconv(.c) Result {
        return submit();
    }
    fn cuStreamCreate(out: *driver.Stream, _: c_uint) callconv(.c) Result {
        if (state.sticky != 0) return state.sticky;
        out.* = token(driver.Stream, 1);
        state.streams += 1;
        return 0;
    }
    fn cuStreamDestroy(_: driver.Stream) callconv(.c) Result {
        state.streams -= 1;
        return state.sticky;
    }
    fn cuStreamSynchronize(_: driver.Stream) callconv(.c) Result {
        reach();
        return state.sticky;
    }
    fn cuStreamQuery(_: driver.Stream) callconv(.c) Result {
        return is_reached(state.submitted);
    }
    fn cuStreamWaitEvent(_: driver.Stream, _: driver.Event, _: c_uint) callconv(.c) Result {
        return submit();
    }
    fn cuStreamBeginCapture(_: driver.Stream, _: c_int) callconv(.c) Result {
        state.capturing = true;
        return state.sticky;
    }
    fn cuStreamEndCapture(_: driver.Stream, out: *?driver.Graph) callconv(.c) Result {
        state.capturing = false;
        out.* = token(driver.Graph, 1);
        return submit_nothing();
    }
    fn cuStreamIsCapturing(_: driver.Stream, out: *c_int) callconv(.c) Result {
        out.* = 0;
        return 0;
    }
    fn cuEventCreate(out: *driver.Event, _: c_uint) callconv(.c) Result {
        last_event += 1;
        out.* = token(driver.Event, last_event);
        state.events += 1;
        return state.sticky;
    }
    fn cuEventDestroy(_: driver.Event) callconv(.c) Result {
        state.events -= 1;
        return state.sticky;
    }
    fn cuEventRecord(event: driver.Event, _: driver.Stream) callconv(.c) Result {
        mark_of(event).* = state.submitted;
        return submit_nothing();
    }
    fn cuEventQuery(event: driver.Event) callconv(.c) Result {
        return is_reached(mark_of(event).*);
    }
    fn cuEventSynchronize(_: driver.Event) callconv(.c) Result {
        reach();
        return state.sticky;
    }
    fn cuEventElapsedTime(out: *f32, _: driver.Event, _: driver.Event) callconv(.c) Result {
        out.* = 1;
        return state.sticky;
    }
    fn cuGraphInstantiateWithFlags(
        out: *driver.GraphExec,
        _: driver.Graph,
        _: c_ulonglong,
    ) callconv(.c) Result {
        out.* = token(driver.GraphExec, 1);
        state.executables += 1;
        return submit_nothing();
    }
    fn cuGraphLaunch(_: driver.GraphExec, _: driver.Stream) callconv(.c) Result {
        return submit();
    }
    fn cuGraphExecUpdate(
        _: driver.GraphExec,
        _: driver.Graph,
        _: *driver.UpdateInfo,
    ) callconv(.c) Result {
        return state.update;
    }
    fn cuGraphExecDestroy(_: driver.GraphExec) callconv(.c) Result {
        state.executables -= 1;
        return 0;
    }
    fn cuGraphDestroy(_: driver.Graph) callconv(.c) Result {
        return 0;
    }
    fn cuLibraryLoadData(
        out: *driver.Library,
        _: [*]const u8,
        _: ?*u32,
        _: ?*u64,
        _: c_uint,
        _: ?*u32,
        _: ?*u64,
        _: c_uint,
    ) callconv(.c) Result {
        out.* = token(driver.Library, 1);
        state.libraries += 1;
        return submit_nothing();
    }
    fn cuLibraryUnload(_: driver.Library) callconv(.c) Result {
        state.libraries -= 1;
        return 0;
    }
    fn cuLibraryGetKernel(
        out: *driver.Kernel,
        _: driver.Library,
        name: [*:0]const u8,
    ) callconv(.c) Result {
        out.* = token(driver.Kernel, 1);
        return if (std.mem.eql(u8, std.mem.span(name), "missing")) 500 else 0;
    }
    fn cuKernelGetFunction(out: *driver.Function, _: driver.Kernel) callconv(.c) Result {
        out.* = token(driver.Function, 1);
        return submit_nothing();
    }
    fn cuKernelGetAttribute(
        out: *c_int,
        id: c_int,
        _: driver.Kernel,
        _: driver.Processor,
    ) callconv(.c) Result {
        out.* = if (id == 0) 256 else 40;
        return 0;
    }
    fn cuKernelSetAttribute(
        _: c_int,
        _: c_int,
        _: driver.Kernel,
        _: driver.Processor,
    ) callconv(.c) Result {
        return 0;
    }
    fn cuKernelGetParamInfo(
        _: driver.Kernel,
        index: usize,
        _: *usize,
        bytes: *usize,
    ) callconv(.c) Result {
        bytes.* = 24;
        return if (index == 0) 0 else 1;
    }
    fn cuLaunchKernelEx(
        config: *const driver.LaunchConfig,
        _: driver.Function,
        _: [*]const *const anyopaque,
        _: ?*u64,
    ) callconv(.c) Result {
        state.grid = config.grid[0];
        return submit();
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        out: *c_int,
        _: driver.Function,
        _: c_int,
        _: usize,
    ) callconv(.c) Result {
        out.* = 3;
        return 0;
    }
    fn cuOccupancyMaxActiveClusters(
        out: *c_int,
        _: driver.Function,
        _: *const driver.LaunchConfig,
    ) callconv(.c) Result {
        out.* = 5;
        return 0;
    }
    fn cuTensorMapEncodeTiled(
        out: *params.struct_fb_tensor_map,
        _: c_int,
        _: u32,
        address: u64,
        _: [*]const u64,
        _: [*]const u64,
        _: [*]const u32,
        _: [*]const u32,
        _: c_int,
        _: c_int,
        _: c_int,
        _: c_int,
    ) callconv(.c) Result {
        state.encoded += 1;
        out.@"opaque"[0] = address;
        return 0;
    }
    fn cuGetErrorName(_: Result, out: *?[*:0]const u8) callconv(.c) Result {
        out.* = "CUDA_ERROR_STUB";
        return 0;
    }
    fn cuGetErrorString(_: Result, out: *?[*:0]const u8) callconv(.c) Result {
        out.* = "to order";
        return 0;
    }
};

/// For calls that fail to order but add no work.
fn submit_nothing() Result {
    if (state.sticky != 0) return state.sticky;
    const result = state.next;
    state.next = 0;
    return result;
}
