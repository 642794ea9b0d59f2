//! NCCL for CUDA devices: operations go to their streams at once, within captures too.
const std = @import("std");
const driver = @import("../cuda/driver.zig");
const lock = @import("../lock.zig");
const open_file = @import("../open.zig");
const status_file = @import("../status.zig");
const Device = @import("../cuda/device.zig").Device;
const Stream = @import("../cuda/stream.zig").Stream;
const comm_file = @import("comm.zig");
const Call = comm_file.Call;
const Comm = comm_file.Comm;
const DType = comm_file.DType;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

/// By which ranks find each other.
pub const Id = extern struct { bytes: [128]u8 };

const Native = *opaque {};
const Result = c_int;
const success = 0;
const in_progress = 7;

const Functions = struct {
    ncclGetVersion: *const fn (*c_int) callconv(.c) Result,
    ncclGetUniqueId: *const fn (*Id) callconv(.c) Result,
    ncclCommInitRank: *const fn (*?Native, c_int, Id, c_int) callconv(.c) Result,
    ncclCommGetAsyncError: *const fn (Native, *Result) callconv(.c) Result,
    ncclCommAbort: *const fn (Native) callconv(.c) Result,
    ncclCommDestroy: *const fn (Native) callconv(.c) Result,
    ncclGetErrorString: *const fn (Result) callconv(.c) ?[*:0]const u8,
    ncclGetLastError: *const fn (?Native) callconv(.c) ?[*:0]const u8,
    ncclGroupStart: *const fn () callconv(.c) Result,
    ncclGroupEnd: *const fn () callconv(.c) Result,
    ncclAllReduce: *const fn (
        usize,
        usize,
        usize,
        c_int,
        c_int,
        Native,
        driver.Stream,
    ) callconv(.c) Result,
    ncclReduceScatter: *const fn (
        usize,
        usize,
        usize,
        c_int,
        c_int,
        Native,
        driver.Stream,
    ) callconv(.c) Result,
    ncclAllGather: *const fn (
        usize,
        usize,
        usize,
        c_int,
        Native,
        driver.Stream,
    ) callconv(.c) Result,
    ncclBroadcast: *const fn (
        usize,
        usize,
        usize,
        c_int,
        c_int,
        Native,
        driver.Stream,
    ) callconv(.c) Result,
    ncclSend: *const fn (usize, usize, c_int, c_int, Native, driver.Stream) callconv(.c) Result,
    ncclRecv: *const fn (usize, usize, c_int, c_int, Native, driver.Stream) callconv(.c) Result,
};

const oldest_version = 22800;

var api: Functions = undefined;
/// 0 before it was opened.
var version: c_int = 0;
var mutex: lock.Mutex = .{};

/// out: its version, as in 22809 for 2.28.9.
pub fn open(path: [*:0]const u8, out: *[4]i32) i32 {
    mutex.lock();
    defer mutex.unlock();
    if (version == 0) {
        const library = open_file.library(path) orelse return status_file.last_failure().status;
        if (open_file.functions(Functions, library, &api)) |missing| {
            return fail(.unsupported, "{s} is no NCCL: it lacks {s}", .{ path, missing });
        }
        var found: c_int = 0;
        if (api.ncclGetVersion(&found) != success or found < oldest_version) {
            const sentence = "{s} is NCCL {d}.{d}, and 2.28 or later is needed";
            const minor = @divTrunc(@rem(found, 10000), 100);
            return fail(.unsupported, sentence, .{ path, @divTrunc(found, 10000), minor });
        }
        version = found;
    }
    out.* = .{ version, 0, 0, 0 };
    return 0;
}

extern "c" fn setenv(name: [*:0]const u8, value: [*:0]const u8, overwrite: c_int) c_int;
extern "c" fn unsetenv(name: [*:0]const u8) c_int;

/// With an address every rank makes the same id, and rank 0 listens there.
pub fn identify(address: ?[*:0]const u8, out: *Id) i32 {
    if (version == 0) return fail(.not_found, "no NCCL is open", .{});
    const variable = "NCCL_COMM_ID";
    const done = if (address) |given| setenv(variable, given, 1) else unsetenv(variable);
    if (done != 0) return status_file.out_of_host_memory();
    return refused("ncclGetUniqueId", api.ncclGetUniqueId(out));
}

const State = enum(u32) { starting, ready, failed, aborted };

pub fn create(device: *Device, ranks: i32, rank: i32, id: *const Id, out: **Comm) i32 {
    if (version == 0) return fail(.not_found, "no NCCL is open", .{});
    const group = allocator.create(Group) catch return status_file.out_of_host_memory();
    group.* = .{
        .comm = .{ .backend = .cuda, .ranks = ranks, .rank = rank },
        .device = device,
        .id = id.*,
    };
    // Ranks may come late: whoever made it is not held up.
    const thread = std.Thread.spawn(.{}, Group.start, .{group}) catch {
        allocator.destroy(group);
        return fail(.system, "no thread can be started", .{});
    };
    thread.detach();
    out.* = &group.comm;
    return 0;
}

pub const Group = struct {
    comm: Comm,
    device: *Device,
    id: Id,
    native: ?Native = null,
    now: std.atomic.Value(State) = .init(.starting),
    /// What NCCL answered when it failed.
    result: Result = success,
    text: [256:0]u8 = @splat(0),

    pub fn of(comm: *Comm) *Group {
        return @alignCast(@fieldParentPtr("comm", comm));
    }

    fn start(group: *Group) void {
        group.device.ensure_current();
        const comm = &group.comm;
        group.result = api.ncclCommInitRank(&group.native, comm.ranks, group.id, comm.rank);
        if (group.result != success) group.keep_reason();
        const reached: State = if (group.result == success) .ready else .failed;
        if (group.now.cmpxchgStrong(.starting, reached, .acq_rel, .acquire) != null) {
            // Nobody waited for it any more.
            if (group.native) |native| _ = api.ncclCommAbort(native);
        }
    }

    fn keep_reason(group: *Group) void {
        const said = std.mem.span(api.ncclGetLastError(group.native) orelse "");
        const length = @min(said.len, group.text.len - 1);
        @memcpy(group.text[0..length], said[0..length]);
    }

    pub fn state(group: *Group) i32 {
        switch (group.now.load(.acquire)) {
            .starting => return fail(.not_ready, "the ranks look for each other", .{}),
            .aborted => return fail(.ranks, "the communicator was aborted", .{}),
            .failed => return group.status(),
            .ready => {},
        }
        var result: Result = success;
        const asked = api.ncclCommGetAsyncError(group.native.?, &result);
        if (asked != success) result = asked;
        if (result == success or result == in_progress) return 0;
        group.result = result;
        group.keep_reason();
        group.now.store(.failed, .release);
        return group.status();
    }

    fn status(group: *Group) i32 {
        const name = std.mem.span(api.ncclGetErrorString(group.result) orelse "unknown");
        const text = std.mem.sliceTo(&group.text, 0);
        return fail(.ranks, "NCCL: {s} ({d}) {s}", .{ name, group.result, text });
    }

    pub fn queue(group: *Group, stream: *Stream, call: Call) i32 {
        if (group.now.load(.acquire) != .ready) return group.state();
        if (stream.device != group.device) {
            return fail(.invalid_argument, "the stream is of another device", .{});
        }
        if (stream.refuses(.capturable)) |status_of_stream| return status_of_stream;
        group.device.ensure_current();
        const result = enqueue(group.native.?, stream.native, group.comm.rank, call);
        if (result != success and result != in_progress) {
            group.result = result;
            group.keep_reason();
            return group.status();
        }
        return stream.submitted(driver.success);
    }

    /// Kernels that wait for other ranks end; nothing more can be queued.
    pub fn abort(group: *Group) i32 {
        const before = group.now.swap(.aborted, .acq_rel);
        if (before == .starting or before == .aborted) return 0;
        const native = group.native orelse return 0;
        group.device.ensure_current();
        return refused("ncclCommAbort", api.ncclCommAbort(native));
    }

    pub fn free(group: *Group) i32 {
        const before = group.now.swap(.aborted, .acq_rel);
        // The thread that still looks for ranks has it.
        if (before == .starting) return 0;
        if (before == .ready) {
            group.device.ensure_current();
            _ = api.ncclCommDestroy(group.native.?);
        }
        allocator.destroy(group);
        return 0;
    }
};

fn refused(what: []const u8, result: Result) i32 {
    if (result == success or result == in_progress) return 0;
    const name = std.mem.span(api.ncclGetErrorString(result) orelse "unknown");
    return fail(.system, "{s}: {s} ({d})", .{ what, name, result });
}

fn number(dtype: DType) c_int {
    return switch (dtype) {
        .u8 => 1,
        .i32 => 2,
        .f16 => 6,
        .f32 => 7,
        .bf16 => 9,
    };
}

const sum = 0;
const minimum = 3;

fn enqueue(native: Native, stream: driver.Stream, rank: i32, call: Call) Result {
    const dtype = number(call.dtype);
    const count = call.count;
    const source = call.source;
    const target = call.target;
    switch (call.operation) {
        .all_reduce_sum => {
            return api.ncclAllReduce(source, target, count, dtype, sum, native, stream);
        },
        .all_reduce_min => {
            return api.ncclAllReduce(source, target, count, dtype, minimum, native, stream);
        },
        .all_gather => return api.ncclAllGather(source, target, count, dtype, native, stream),
        .reduce_scatter => {
            return api.ncclReduceScatter(source, target, count, dtype, sum, native, stream);
        },
        .broadcast => {
            const from = if (rank == call.from and source != 0) source else target;
            const to = if (target == 0) from else target;
            return api.ncclBroadcast(from, to, count, dtype, call.from, native, stream);
        },
        .exchange => {
            var result = api.ncclGroupStart();
            if (result != success) return result;
            if (call.to >= 0) result = api.ncclSend(source, count, dtype, call.to, native, stream);
            if (result == success and call.from >= 0)
                result = api.ncclRecv(target, count, dtype, call.from, native, stream);
            const ended = api.ncclGroupEnd();
            return if (result == success) ended else result;
        },
        // Whoever asks gives an element to sum.
        .barrier => return api.ncclAllReduce(target, target, 1, dtype, sum, native, stream),
    }
}
