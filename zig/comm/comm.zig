//! Communicators between processes: NCCL over the streams of a GPU, MPI over those of the CPU.
const params = @import("params");
const handles = @import("../handle.zig");
const status_file = @import("../status.zig");
const mpi = @import("mpi.zig");
const nccl = @import("nccl.zig");
const fail = status_file.fail;

/// Codes of kernels/params/types.h that cross between processes.
pub const DType = enum(i32) {
    f32 = params.FB_F32,
    f16 = params.FB_F16,
    bf16 = params.FB_BF16,
    i32 = params.FB_I32,
    u8 = params.FB_U8,

    pub fn bytes(dtype: DType) usize {
        return switch (dtype) {
            .f32, .i32 => 4,
            .f16, .bf16 => 2,
            .u8 => 1,
        };
    }
};

pub const Operation = enum(i32) {
    all_reduce_sum = 0,
    all_reduce_min = 1,
    all_gather = 2,
    reduce_scatter = 3,
    /// From rank `from`; `to` is not looked at.
    broadcast = 4,
    /// `count` elements of source to rank `to`, as many from rank `from` into target; -1: none.
    exchange = 5,
    barrier = 6,
};

/// One operation. `count` is what each rank gives, for a reduce-scatter what each gets.
pub const Call = struct {
    operation: Operation,
    dtype: DType,
    to: i32,
    from: i32,
    count: usize,
    source: usize,
    target: usize,
};

/// What every handle of a communicator points at.
pub const Comm = struct {
    backend: handles.Backend,
    ranks: i32,
    rank: i32,

    pub fn create(
        device: *handles.Device,
        ranks: i32,
        rank: i32,
        id: ?*const nccl.Id,
        timeout_ms: i32,
        out: **Comm,
    ) i32 {
        if (ranks < 1 or rank < 0 or rank >= ranks) {
            return fail(.invalid_argument, "there is no rank {d} of {d}", .{ rank, ranks });
        }
        return switch (device.backend) {
            .cpu => mpi.create(ranks, rank, timeout_ms, out),
            .cuda => nccl.create(
                @alignCast(@fieldParentPtr("handle", device)),
                ranks,
                rank,
                id orelse return status_file.null_handle("id"),
                out,
            ),
        };
    }

    /// 0 when it takes work, not_ready while ranks find each other, else what failed.
    pub fn state(comm: *Comm) i32 {
        return switch (comm.backend) {
            .cpu => 0,
            .cuda => nccl.Group.of(comm).state(),
        };
    }

    pub fn queue(comm: *Comm, stream: *handles.Stream, call: Call) i32 {
        if (stream.backend != comm.backend) {
            return fail(.invalid_argument, "the stream is of another kind of device", .{});
        }
        inline for (.{ call.to, call.from }) |peer| if (peer < -1 or peer >= comm.ranks) {
            return fail(.invalid_argument, "there is no rank {d} of {d}", .{ peer, comm.ranks });
        };
        return switch (comm.backend) {
            .cpu => mpi.Group.of(comm).queue(@alignCast(@fieldParentPtr("handle", stream)), call),
            .cuda => nccl.Group.of(comm).queue(
                @alignCast(@fieldParentPtr("handle", stream)),
                call,
            ),
        };
    }

    /// Gives up what is queued and under way; the others notice by their time-out.
    pub fn abort(comm: *Comm) i32 {
        return switch (comm.backend) {
            .cpu => mpi.Group.of(comm).abort(),
            .cuda => nccl.Group.of(comm).abort(),
        };
    }

    /// All that was queued must be done.
    pub fn free(comm: *Comm) i32 {
        return switch (comm.backend) {
            .cpu => mpi.Group.of(comm).free(),
            .cuda => nccl.Group.of(comm).free(),
        };
    }
};
