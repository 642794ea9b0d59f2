//! MPI for the CPU device: Open MPI or MPICH, whose handles differ. Collectives run as kernels of
//! one item, so that streams, graphs and failures know nothing of them.
const std = @import("std");
const lock = @import("../lock.zig");
const open_file = @import("../open.zig");
const status_file = @import("../status.zig");
const kernels = @import("../cpu/kernel.zig");
const Stream = @import("../cpu/runtime/stream.zig").Stream;
const sums = @import("sums.zig");
const comm_file = @import("comm.zig");
const waits = @import("waits.zig");
const Call = comm_file.Call;
const Comm = comm_file.Comm;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

/// A pointer of Open MPI, an int of MPICH: both fit a register.
const Handle = usize;
const Result = c_int;

const Functions = struct {
    MPI_Init_thread: *const fn (?*c_int, ?*anyopaque, c_int, *c_int) callconv(.c) Result,
    MPI_Initialized: *const fn (*c_int) callconv(.c) Result,
    MPI_Finalize: *const fn () callconv(.c) Result,
    MPI_Abort: *const fn (Handle, c_int) callconv(.c) Result,
    MPI_Get_library_version: *const fn ([*]u8, *c_int) callconv(.c) Result,
    MPI_Comm_rank: *const fn (Handle, *c_int) callconv(.c) Result,
    MPI_Comm_size: *const fn (Handle, *c_int) callconv(.c) Result,
    MPI_Comm_set_errhandler: *const fn (Handle, Handle) callconv(.c) Result,
    MPI_Op_create: *const fn (sums.Function, c_int, *Handle) callconv(.c) Result,
    MPI_Iallreduce: *const fn (
        usize,
        usize,
        c_int,
        Handle,
        Handle,
        Handle,
        *Handle,
    ) callconv(.c) Result,
    MPI_Iallgather: *const fn (
        usize,
        c_int,
        Handle,
        usize,
        c_int,
        Handle,
        Handle,
        *Handle,
    ) callconv(.c) Result,
    MPI_Ireduce_scatter_block: *const fn (
        usize,
        usize,
        c_int,
        Handle,
        Handle,
        Handle,
        *Handle,
    ) callconv(.c) Result,
    MPI_Ibcast: *const fn (usize, c_int, Handle, c_int, Handle, *Handle) callconv(.c) Result,
    MPI_Isend: *const fn (usize, c_int, Handle, c_int, c_int, Handle, *Handle) callconv(.c) Result,
    MPI_Irecv: *const fn (usize, c_int, Handle, c_int, c_int, Handle, *Handle) callconv(.c) Result,
    MPI_Ibarrier: *const fn (Handle, *Handle) callconv(.c) Result,
    MPI_Test: *const fn (*Handle, *c_int, usize) callconv(.c) Result,
};

pub const Flavour = enum(i32) { open_mpi = 1, mpich = 2 };

/// The library's constants: addresses of symbols in Open MPI, numbers of the common ABI in MPICH.
const Constants = struct {
    world: Handle,
    byte: Handle,
    float: Handle,
    int: Handle,
    short: Handle,
    sum: Handle,
    min: Handle,
    errors_return: Handle,
    in_place: usize,
    ignored: usize,
};

const mpich: Constants = .{
    .world = 0x44000000,
    .byte = 0x4c00010d,
    .float = 0x4c00040a,
    .int = 0x4c000405,
    .short = 0x4c000204,
    .sum = 0x58000003,
    .min = 0x58000002,
    .errors_return = 0x54000001,
    .in_place = std.math.maxInt(usize),
    .ignored = 1,
};

const open_mpi_names = .{
    .world = "ompi_mpi_comm_world",
    .byte = "ompi_mpi_byte",
    .float = "ompi_mpi_float",
    .int = "ompi_mpi_int",
    .short = "ompi_mpi_unsigned_short",
    .sum = "ompi_mpi_op_sum",
    .min = "ompi_mpi_op_min",
    .errors_return = "ompi_mpi_errors_return",
};

var api: Functions = undefined;
var constants: Constants = undefined;
var add_f16: Handle = 0;
var add_bf16: Handle = 0;
/// 0 before it was opened.
var flavour: i32 = 0;
/// One thread at a time calls the library.
var mutex: lock.Mutex = .{};
/// Of MPI's start and end, which wait for all ranks.
var caller: waits.Caller = .{};

const thread_serialized = 2;

/// out: the flavour, this process's rank, and how many there are.
pub fn open(path: [*:0]const u8, timeout_ms: i32, out: *[4]i32) i32 {
    mutex.lock();
    defer mutex.unlock();
    if (flavour == 0) {
        const status = load(path, timeout_ms);
        if (status != 0) return status;
    }
    out.* = .{ flavour, 0, 0, 0 };
    if (api.MPI_Comm_rank(constants.world, &out[1]) != 0 or
        api.MPI_Comm_size(constants.world, &out[2]) != 0)
    {
        return fail(.system, "MPI does not know its rank", .{});
    }
    return 0;
}

fn load(path: [*:0]const u8, timeout_ms: i32) i32 {
    const library = open_file.library(path) orelse return status_file.last_failure().status;
    if (open_file.functions(Functions, library, &api)) |missing| {
        return fail(.unsupported, "{s} lacks {s}: MPI 3.0 or later is needed", .{ path, missing });
    }
    var found: Flavour = .mpich;
    constants = mpich;
    if (std.c.dlsym(library, "ompi_mpi_comm_world") != null) {
        found = .open_mpi;
        constants.in_place = 1;
        constants.ignored = 0;
        inline for (comptime std.meta.fieldNames(@TypeOf(open_mpi_names))) |name| {
            const symbol = std.c.dlsym(library, @field(open_mpi_names, name)) orelse
                return fail(.unsupported, "{s} is an Open MPI without " ++ name, .{path});
            @field(constants, name) = @intFromPtr(symbol);
        }
    }
    const result = caller.within(timeout_ms, start_library) catch
        return fail(.system, "no thread can be started", .{});
    const code = result orelse {
        const sentence = "another rank did not start within {d} s";
        return fail(.ranks, sentence, .{seconds(timeout_ms)});
    };
    if (code != 0) return fail(.system, "{s} does not start", .{path});
    if (provided < thread_serialized) {
        return fail(.unsupported, "{s} takes no calls of several threads", .{path});
    }
    _ = api.MPI_Comm_set_errhandler(constants.world, constants.errors_return);
    if (api.MPI_Op_create(sums.add_f16, 1, &add_f16) != 0 or
        api.MPI_Op_create(sums.add_bf16, 1, &add_bf16) != 0)
    {
        return fail(.system, "{s} makes no operations", .{path});
    }
    flavour = @backingInt(found);
    return 0;
}

var provided: c_int = thread_serialized;

fn start_library() Result {
    var started: c_int = 0;
    _ = api.MPI_Initialized(&started);
    if (started != 0) return 0;
    return api.MPI_Init_thread(null, null, thread_serialized, &provided);
}

/// Leaves MPI at the end of the process: with code 0 once all ranks do, else at once with the whole
/// job. Fails where others do not come to their end.
pub fn end(code: i32, timeout_ms: i32) i32 {
    if (flavour == 0) return 0;
    mutex.lock();
    defer mutex.unlock();
    flavour = 0;
    if (code != 0) _ = api.MPI_Abort(constants.world, code);
    const left = caller.within(timeout_ms, end_library) catch null;
    if (left != null) return 0;
    return fail(.ranks, "another rank did not end within {d} s", .{seconds(timeout_ms)});
}

fn seconds(timeout_ms: i32) f64 {
    return @as(f64, @floatFromInt(timeout_ms)) / 1000;
}

fn end_library() Result {
    return api.MPI_Finalize();
}

pub fn create(ranks: i32, rank: i32, timeout_ms: i32, out: **Comm) i32 {
    if (flavour == 0) return fail(.not_found, "no MPI is open", .{});
    const group = allocator.create(Group) catch return status_file.out_of_host_memory();
    group.* = .{
        .comm = .{ .backend = .cpu, .ranks = ranks, .rank = rank },
        .timeout_ns = @as(u64, @intCast(@max(timeout_ms, 1))) * std.time.ns_per_ms,
    };
    out.* = &group.comm;
    return 0;
}

const Params = extern struct {
    group: *Group,
    operation: i32,
    dtype: i32,
    to: i32,
    from: i32,
    count: usize,
    source: usize,
    target: usize,
};

const exchange: kernels.Kernel = .of("exchange between ranks", Params, 1, run);

pub const Group = struct {
    comm: Comm,
    timeout_ns: u64,
    aborted: std.atomic.Value(bool) = .init(false),

    pub fn of(comm: *Comm) *Group {
        return @alignCast(@fieldParentPtr("comm", comm));
    }

    pub fn queue(group: *Group, stream: *Stream, call: Call) i32 {
        if (call.count * call.dtype.bytes() > std.math.maxInt(c_int)) {
            const sentence = "MPI moves less than 2 GiB at once ({d} elements were asked for)";
            return fail(.invalid_argument, sentence, .{call.count});
        }
        const parameters: Params = .{
            .group = group,
            .operation = @backingInt(call.operation),
            .dtype = @backingInt(call.dtype),
            .to = call.to,
            .from = call.from,
            .count = call.count,
            .source = call.source,
            .target = call.target,
        };
        return stream.launch(&exchange, @ptrCast(&parameters), @sizeOf(Params), 1);
    }

    pub fn abort(group: *Group) i32 {
        group.aborted.store(true, .release);
        return 0;
    }

    pub fn free(group: *Group) i32 {
        allocator.destroy(group);
        return 0;
    }

    /// Waits for a request, gently: other ranks may need this processor to get on.
    fn finish(group: *Group, request: *Handle) i32 {
        const started = now();
        while (true) {
            var done: c_int = 0;
            mutex.lock();
            const result = api.MPI_Test(request, &done, constants.ignored);
            mutex.unlock();
            if (result != 0) return kernels.rank_lost;
            if (done != 0) return 0;
            if (group.aborted.load(.acquire)) return kernels.rank_lost;
            const waited = now() - started;
            if (waited > group.timeout_ns) return kernels.rank_late;
            pause(waited);
        }
    }
};

fn run(p: *const Params, _: u32, _: [*]align(64) u8) i32 {
    const call: Call = .{
        .operation = @fromBackingInt(p.operation),
        .dtype = @fromBackingInt(p.dtype),
        .to = p.to,
        .from = p.from,
        .count = p.count,
        .source = p.source,
        .target = p.target,
    };
    var requests: [2]Handle = undefined;
    mutex.lock();
    const started = start(call, &requests) catch {
        mutex.unlock();
        return kernels.rank_lost;
    };
    mutex.unlock();
    for (requests[0..started]) |*request| {
        const status = p.group.finish(request);
        if (status != 0) return status;
    }
    return 0;
}

/// Starts the call; how many requests it has. Holds the mutex.
fn start(call: Call, requests: *[2]Handle) !usize {
    const c = &constants;
    const count: c_int = @intCast(call.count);
    const bytes: c_int = @intCast(call.count * call.dtype.bytes());
    const own = if (call.source == call.target) c.in_place else call.source;
    const adds: Handle = switch (call.dtype) {
        .f16 => add_f16,
        .bf16 => add_bf16,
        else => c.sum,
    };
    const elements: Handle = switch (call.dtype) {
        .f32 => c.float,
        .i32 => c.int,
        .f16, .bf16 => c.short,
        .u8 => c.byte,
    };
    const first = &requests[0];
    switch (call.operation) {
        .all_reduce_sum, .all_reduce_min => |operation| {
            const reduces = if (operation == .all_reduce_sum) adds else c.min;
            try ok(api.MPI_Iallreduce(own, call.target, count, elements, reduces, c.world, first));
        },
        .all_gather => try ok(api.MPI_Iallgather(
            call.source,
            bytes,
            c.byte,
            call.target,
            bytes,
            c.byte,
            c.world,
            first,
        )),
        .reduce_scatter => try ok(api.MPI_Ireduce_scatter_block(
            call.source,
            call.target,
            count,
            elements,
            adds,
            c.world,
            first,
        )),
        .broadcast => {
            // All ranks read and write target; the first one's is its source.
            const at = if (call.source == 0) call.target else call.source;
            try ok(api.MPI_Ibcast(at, bytes, c.byte, call.from, c.world, first));
        },
        .exchange => {
            var started: usize = 0;
            if (call.from >= 0) {
                const request = &requests[started];
                try ok(api.MPI_Irecv(call.target, bytes, c.byte, call.from, 1, c.world, request));
                started += 1;
            }
            if (call.to >= 0) {
                const request = &requests[started];
                try ok(api.MPI_Isend(call.source, bytes, c.byte, call.to, 1, c.world, request));
                started += 1;
            }
            return started;
        },
        .barrier => try ok(api.MPI_Ibarrier(c.world, first)),
    }
    return 1;
}

fn ok(result: Result) !void {
    if (result != 0) return error.Mpi;
}

const spin_ns = 50_000;
const shortest_ns = 20_000;
const longest_ns = 500_000;

/// Spins, then yields, then sleeps the longer the longer it waited.
fn pause(waited: u64) void {
    if (waited < spin_ns) {
        _ = std.os.linux.sched_yield();
        return;
    }
    const length = @min(@max(waited / 8, shortest_ns), longest_ns);
    const time: std.c.timespec = .{ .sec = 0, .nsec = @intCast(length) };
    _ = nanosleep(&time, null);
}

fn now() u64 {
    var time: std.c.timespec = undefined;
    _ = std.c.clock_gettime(.MONOTONIC, &time);
    return @as(u64, @intCast(time.sec)) * std.time.ns_per_s + @as(u64, @intCast(time.nsec));
}

extern "c" fn nanosleep(wanted: *const std.c.timespec, left: ?*std.c.timespec) c_int;
