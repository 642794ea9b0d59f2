//! The C ABI: thin forwarders that check pointers and call the device interface.
//!
//! Every function returns a status (the version excepted) and writes through pointers.
//! Nothing here calls back, throws or aborts on bad input.
const std = @import("std");
const params = @import("params");
const handles = @import("handle.zig");
const interface = @import("device.zig");
const status_file = @import("status.zig");
const cublaslt = @import("cuda/cublaslt.zig");
const driver = @import("cuda/driver.zig");
const comm_file = @import("comm/comm.zig");
const mpi = @import("comm/mpi.zig");
const nccl = @import("comm/nccl.zig");
const CpuDevice = @import("cpu/runtime/device.zig").Device;
const CudaDevice = @import("cuda/device.zig").Device;
const CudaStream = @import("cuda/stream.zig").Stream;
const Module = @import("cuda/module.zig").Module;
const Device = handles.Device;
const Stream = handles.Stream;
const Event = handles.Event;
const Graph = handles.Graph;
const Comm = comm_file.Comm;
const call = interface.call;
const call_with = interface.call_with;
const fail = status_file.fail;
const null_handle = status_file.null_handle;

const allocator = std.heap.c_allocator;

export fn fb_abi_version() i32 {
    return params.FB_ABI_VERSION;
}

/// out: what failed last on this thread.
export fn fb_last_failure(out: ?*params.struct_fb_failure) i32 {
    (out orelse return null_handle("out")).* = status_file.last_failure().*;
    return 0;
}

/// Opens libcuda at this path, or libcuda.so.1, once per process.
export fn fb_driver_open(path: ?[*:0]const u8, out: ?*params.struct_fb_driver_properties) i32 {
    return driver.open(path, out orelse return null_handle("out"));
}

/// kind 0 is the CPU: count threads, level -1 takes the best the processor runs. kind 1 is CUDA:
/// count is the number of the device.
export fn fb_device_open(kind: i32, count: i32, level: i32, limit_bytes: u64, out: ?**Device) i32 {
    const target = out orelse return null_handle("out");
    return switch (kind) {
        0 => CpuDevice.open(count, level, limit_bytes, target),
        1 => CudaDevice.open(count, limit_bytes, target),
        else => fail(.invalid_argument, "kind must be 0 (cpu) or 1 (cuda) (got {d})", .{kind}),
    };
}

/// Waits for what is queued, then frees everything the device owns.
export fn fb_device_close(device: ?*Device) i32 {
    return call(device orelse return null_handle("device"), "close", .{});
}

export fn fb_device_properties(device: ?*Device, out: ?*params.struct_fb_device_properties) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "properties", .{out orelse return null_handle("out")});
}

/// The failure that poisoned the device, or 0.
export fn fb_device_failure(device: ?*Device) i32 {
    return call(device orelse return null_handle("device"), "failed", .{});
}

/// pinned: host memory that a CUDA device reaches; on the CPU all memory is host memory.
export fn fb_memory_alloc(device: ?*Device, bytes: u64, pinned: i32, out: ?*u64) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "alloc", .{ bytes, pinned != 0, out orelse return null_handle("out") });
}

/// Frees at once when no stream is busy, else when all that is queued now is done.
export fn fb_memory_free(device: ?*Device, address: u64) i32 {
    return call(device orelse return null_handle("device"), "free", .{address});
}

/// A frozen pool refuses every allocation.
export fn fb_memory_freeze(device: ?*Device, frozen: i32) i32 {
    return call(device orelse return null_handle("device"), "freeze", .{frozen != 0});
}

/// out: bytes in use, bytes kept for reuse, limit.
export fn fb_memory_stats(device: ?*Device, out: ?*[3]f64) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "stats", .{out orelse return null_handle("out")});
}

export fn fb_memory_copy(stream: ?*Stream, target: u64, source: u64, bytes: u64) i32 {
    if (bytes == 0) return 0;
    if (target == 0 or source == 0) return null_handle("target or source");
    return call(stream orelse return null_handle("stream"), "copy", .{ target, source, bytes });
}

export fn fb_memory_fill(stream: ?*Stream, target: u64, byte: i32, bytes: u64) i32 {
    if (bytes == 0) return 0;
    if (target == 0) return null_handle("target");
    const value: u8 = @truncate(@as(u32, @bitCast(byte)));
    return call(stream orelse return null_handle("stream"), "fill", .{ target, value, bytes });
}

export fn fb_stream_create(device: ?*Device, out: ?**Stream) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "create_stream", .{out orelse return null_handle("out")});
}

/// A handle for a stream that another library owns: a CUstream, or a stream handle of a CPU device.
export fn fb_stream_wrap(device: ?*Device, native: u64, out: ?**Stream) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "wrap_stream", .{ native, out orelse return null_handle("out") });
}

/// Frees the stream once all that is queued now is done.
export fn fb_stream_destroy(stream: ?*Stream) i32 {
    return call(stream orelse return null_handle("stream"), "destroy", .{});
}

/// Blocks until all that is queued now is done; returns the device's failure.
export fn fb_stream_wait(stream: ?*Stream) i32 {
    return call(stream orelse return null_handle("stream"), "wait", .{});
}

/// out: tickets queued and done so far, equal when the stream is idle.
export fn fb_stream_query(stream: ?*Stream, out: ?*[2]f64) i32 {
    const asked = stream orelse return null_handle("stream");
    return call(asked, "query", .{out orelse return null_handle("out")});
}

/// Enqueues one byte on the device's pipe. Works on a failed device, so that no one waits forever.
export fn fb_stream_notify(stream: ?*Stream, ticket: ?*f64) i32 {
    const asked = stream orelse return null_handle("stream");
    return call(asked, "notify", .{ticket orelse return null_handle("ticket")});
}

export fn fb_event_create(device: ?*Device, out: ?**Event) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "create_event", .{out orelse return null_handle("out")});
}

export fn fb_event_destroy(event: ?*Event) i32 {
    return call(event orelse return null_handle("event"), "destroy", .{});
}

export fn fb_event_record(event: ?*Event, stream: ?*Stream) i32 {
    const recorded = event orelse return null_handle("event");
    return call_with(recorded, "record", stream orelse return null_handle("stream"), .{});
}

export fn fb_event_wait(event: ?*Event, stream: ?*Stream) i32 {
    const waited = event orelse return null_handle("event");
    return call_with(waited, "wait", stream orelse return null_handle("stream"), .{});
}

/// Status 0 when the last record was reached, not_ready before.
export fn fb_event_query(event: ?*Event) i32 {
    return call(event orelse return null_handle("event"), "query", .{});
}

/// out: milliseconds from `first` to `second`, both reached.
export fn fb_event_elapsed(first: ?*Event, second: ?*Event, out: ?*f64) i32 {
    const start = first orelse return null_handle("first");
    const end = second orelse return null_handle("second");
    return call_with(start, "elapsed", end, .{out orelse return null_handle("out")});
}

/// From here on the stream's operations go into a graph and do not run.
export fn fb_capture_begin(stream: ?*Stream) i32 {
    return call(stream orelse return null_handle("stream"), "begin_capture", .{});
}

/// out: what was captured, ready to launch; nothing when the capture was broken.
export fn fb_capture_end(stream: ?*Stream, out: ?**Graph) i32 {
    const captured = stream orelse return null_handle("stream");
    return call(captured, "end_capture", .{out orelse return null_handle("out")});
}

export fn fb_graph_launch(graph: ?*Graph, stream: ?*Stream) i32 {
    const replayed = graph orelse return null_handle("graph");
    return call_with(replayed, "launch", stream orelse return null_handle("stream"), .{});
}

/// Later launches of the graph run what `source` captured.
export fn fb_graph_update(graph: ?*Graph, source: ?*Graph) i32 {
    const updated = graph orelse return null_handle("graph");
    return call_with(updated, "update", source orelse return null_handle("source"), .{});
}

/// Launches that are queued run to their end.
export fn fb_graph_free(graph: ?*Graph) i32 {
    return call(graph orelse return null_handle("graph"), "free", .{});
}

/// Kernels from the bytes of an image, for CUDA devices. The bytes are free afterwards.
export fn fb_module_load(device: ?*Device, bytes: ?[*]const u8, length: u64, out: ?*u64) i32 {
    const owner = device orelse return null_handle("device");
    const image = bytes orelse return null_handle("bytes");
    return call(owner, "load_module", .{ image[0..length], out orelse return null_handle("out") });
}

/// Unloads once all that is queued now is done; its kernels must not be launched any more.
export fn fb_module_unload(module: ?*Module) i32 {
    return (module orelse return null_handle("module")).unload();
}

/// out: the handle of a kernel that launches as the traits say; facts: what the kernel says of
/// itself.
export fn fb_module_kernel(
    module: ?*Module,
    name: ?[*:0]const u8,
    traits: ?*const params.struct_fb_kernel_traits,
    facts: ?*params.struct_fb_kernel_facts,
    out: ?*u64,
) i32 {
    const owner = module orelse return null_handle("module");
    return owner.find(
        std.mem.span(name orelse return null_handle("name")),
        traits orelse return null_handle("traits"),
        facts orelse return null_handle("facts"),
        out orelse return null_handle("out"),
    );
}

/// Aligned as strictly as anything that an image holds.
const images align(64) = @embedFile("images").*;

/// The kernel images that this library was built with, one blob; length 0 without.
export fn fb_images(address: ?*u64, length: ?*u64) i32 {
    (address orelse return null_handle("address")).* = @intFromPtr(&images);
    (length orelse return null_handle("length")).* = images.len;
    return 0;
}

/// out: the map that `spec` describes, for CUDA devices; remembered until the memory is freed.
export fn fb_tensor_map_encode(
    device: ?*Device,
    spec: ?*const params.struct_fb_tensor_map_spec,
    out: ?*align(1) params.struct_fb_tensor_map,
) i32 {
    const owner = device orelse return null_handle("device");
    const wanted = spec orelse return null_handle("spec");
    return call(owner, "encode_tensor_map", .{ wanted, out orelse return null_handle("out") });
}

/// out: the handle of a built-in kernel; facts: what a launch passes, what one item of its grid
/// covers.
export fn fb_kernel_find(
    device: ?*Device,
    name: ?[*:0]const u8,
    out: ?*u64,
    facts: ?*params.struct_fb_kernel_facts,
) i32 {
    const owner = device orelse return null_handle("device");
    return call(owner, "find_kernel", .{
        std.mem.span(name orelse return null_handle("name")),
        out orelse return null_handle("out"),
        facts orelse return null_handle("facts"),
    });
}

/// Copies the parameters and enqueues `grid` items.
export fn fb_launch(
    stream: ?*Stream,
    kernel: ?*const anyopaque,
    parameters: ?[*]const u8,
    bytes: i32,
    grid: i32,
) i32 {
    const launched = kernel orelse return null_handle("kernel");
    const source = parameters orelse return null_handle("parameters");
    const target = stream orelse return null_handle("stream");
    if (bytes < 0) return fail(.invalid_argument, "bytes must be 0 or more (got {d})", .{bytes});
    if (grid < 0) return fail(.invalid_argument, "grid must be 0 or more (got {d})", .{grid});
    if (grid == 0) return 0;
    const length: usize = @intCast(bytes);
    return call(target, "launch", .{ launched, source, length, @as(u32, @intCast(grid)) });
}

/// Opens cuBLASLt at this path, once per process. out: its version, as in 130100 for 13.1.0.
export fn fb_cublaslt_open(path: ?[*:0]const u8, out: ?*i32) i32 {
    const opened = path orelse return null_handle("path");
    return cublaslt.open(opened, out orelse return null_handle("version"));
}

/// Queues a product by cuBLASLt on a stream of a CUDA device, with room for its kernels that
/// nothing else on the device uses meanwhile.
export fn fb_cublaslt_matmul(
    stream: ?*Stream,
    product: ?*const params.struct_fb_matmul_params,
    workspace: u64,
    bytes: u64,
) i32 {
    const target = stream orelse return null_handle("stream");
    const asked = product orelse return null_handle("product");
    if (target.backend != .cuda) {
        return fail(.invalid_argument, "cuBLASLt needs a stream of a CUDA device", .{});
    }
    const queued: *CudaStream = @alignCast(@fieldParentPtr("handle", target));
    return cublaslt.multiply(queued, asked, workspace, bytes);
}

/// Opens the library of communication at this path, once per process: 0 is MPI, which starts with
/// it, when all ranks have come or the time is over, 1 is NCCL. out, of MPI: flavour (1 Open MPI, 2
/// MPICH), rank, ranks; of NCCL: its version.
export fn fb_comm_open(kind: i32, path: ?[*:0]const u8, timeout_ms: i32, out: ?*[4]i32) i32 {
    const opened = path orelse return null_handle("path");
    const facts = out orelse return null_handle("facts");
    return switch (kind) {
        0 => mpi.open(opened, timeout_ms, facts),
        1 => nccl.open(opened, facts),
        else => fail(.invalid_argument, "kind must be 0 (MPI) or 1 (NCCL) (got {d})", .{kind}),
    };
}

/// out: the 128 bytes by which ranks of NCCL find each other, at rank 0's host:port where given.
export fn fb_comm_identify(address: ?[*:0]const u8, out: ?*nccl.Id) i32 {
    return nccl.identify(address, out orelse return null_handle("id"));
}

/// NCCL's ranks find each other in the background: see fb_comm_state. The id is NCCL's alone.
export fn fb_comm_create(
    device: ?*Device,
    ranks: i32,
    rank: i32,
    id: ?*const nccl.Id,
    timeout_ms: i32,
    out: ?**Comm,
) i32 {
    const owner = device orelse return null_handle("device");
    return Comm.create(owner, ranks, rank, id, timeout_ms, out orelse return null_handle("comm"));
}

/// 0 when it takes work, not_ready before, else what failed since.
export fn fb_comm_state(comm: ?*Comm) i32 {
    return (comm orelse return null_handle("comm")).state();
}

/// Queues one operation between all ranks; the numbers are those of zig/comm/comm.zig.
export fn fb_comm_queue(
    comm: ?*Comm,
    stream: ?*Stream,
    operation: i32,
    dtype: i32,
    to: i32,
    from: i32,
    count: u64,
    source: u64,
    target: u64,
) i32 {
    const group = comm orelse return null_handle("comm");
    const queued = stream orelse return null_handle("stream");
    const known = std.enums.fromInt(comm_file.Operation, operation) orelse
        return fail(.invalid_argument, "there is no operation {d}", .{operation});
    const elements = std.enums.fromInt(comm_file.DType, dtype) orelse
        return fail(.unsupported, "elements of dtype {d} do not cross", .{dtype});
    return group.queue(queued, .{
        .operation = known,
        .dtype = elements,
        .to = to,
        .from = from,
        .count = count,
        .source = source,
        .target = target,
    });
}

/// Gives up what is queued and under way.
export fn fb_comm_abort(comm: ?*Comm) i32 {
    return (comm orelse return null_handle("comm")).abort();
}

/// Frees the handle, once what was queued is done.
export fn fb_comm_free(comm: ?*Comm) i32 {
    return (comm orelse return null_handle("comm")).free();
}

/// The process ends: with code 0 MPI ends with it, when all ranks end or the time is over; else the
/// whole job does.
export fn fb_comm_end(code: i32, timeout_ms: i32) i32 {
    return mpi.end(code, timeout_ms);
}

/// Host memory for one exported DLPack tensor, zeroed; 64-aligned.
export fn fb_dlpack_create(bytes: u64, out: ?*u64) i32 {
    const target = out orelse return null_handle("out");
    const block = allocator.alignedAlloc(u8, .@"64", bytes) catch
        return status_file.out_of_host_memory();
    @memset(block, 0);
    target.* = @intFromPtr(block.ptr);
    return 0;
}

export fn fb_dlpack_destroy(address: u64) i32 {
    if (address == 0) return null_handle("address");
    std.c.free(@ptrFromInt(address));
    return 0;
}

/// The deleter of exported tensors, called by the consumer on any thread: raises the flag that
/// manager_ctx points at.
export fn fb_dlpack_deleter(managed: ?*Managed) void {
    const exported = managed orelse return;
    const flag = exported.manager_ctx orelse return;
    @atomicStore(u32, flag, 1, .release);
}

const Managed = extern struct { major: u32, minor: u32, manager_ctx: ?*u32 };
