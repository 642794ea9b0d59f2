//! The device interface: what cpu/ and cuda/ both implement, and calls to whichever made a handle.
const std = @import("std");
const params = @import("params");
const handles = @import("handle.zig");
const fail = @import("status.zig").fail;

const cpu = struct {
    const Device = @import("cpu/runtime/device.zig").Device;
    const Stream = @import("cpu/runtime/stream.zig").Stream;
    const Event = @import("cpu/runtime/event.zig").Event;
    const Graph = @import("cpu/runtime/graph.zig").Graph;
};

const cuda = struct {
    const Device = @import("cuda/device.zig").Device;
    const Stream = @import("cuda/stream.zig").Stream;
    const Event = @import("cuda/event.zig").Event;
    const Graph = @import("cuda/graph.zig").Graph;
};

/// The methods of a backend's objects. All may be called from any thread, return a status
/// (status.zig) and write results through pointers; a failed device refuses work with what failed
/// first. Whatever is freed stays until the work that is queued by then is done. zig/abi.zig checks
/// pointers; a backend checks the rest.
fn Interface(comptime backend: type) type {
    const D = backend.Device;
    const S = backend.Stream;
    const E = backend.Event;
    const G = backend.Graph;
    return struct {
        pub const Device = struct {
            /// Waits for what is queued, then frees all that the device owns.
            pub const close = fn (*D) i32;
            pub const properties = fn (*D, *params.struct_fb_device_properties) i32;
            /// The failure that poisoned the device, or 0.
            pub const failed = fn (*D) i32;
            /// bytes, pinned (host memory that the device reads), the address.
            pub const alloc = fn (*D, u64, bool, *u64) i32;
            pub const free = fn (*D, u64) i32;
            /// A frozen pool refuses every allocation.
            pub const freeze = fn (*D, bool) i32;
            /// Bytes in use, kept for reuse, allowed.
            pub const stats = fn (*D, *[3]f64) i32;
            pub const create_stream = fn (*D, **handles.Stream) i32;
            /// A stream that another library owns.
            pub const wrap_stream = fn (*D, u64, **handles.Stream) i32;
            pub const create_event = fn (*D, **handles.Event) i32;
            /// Kernels from an image; the bytes are free afterwards. Unsupported on the CPU.
            pub const load_module = fn (*D, []const u8, *u64) i32;
            /// A built-in kernel by name; none on a GPU.
            pub const find_kernel = fn (*D, []const u8, *u64, *params.struct_fb_kernel_facts) i32;
            /// Unsupported on the CPU.
            pub const encode_tensor_map = fn (
                *D,
                *const params.struct_fb_tensor_map_spec,
                *align(1) params.struct_fb_tensor_map,
            ) i32;
        };
        pub const Stream = struct {
            pub const destroy = fn (*S) i32;
            /// Blocks until all that is queued now is done; returns the device's failure.
            pub const wait = fn (*S) i32;
            /// Tickets queued and done so far.
            pub const query = fn (*S, *[2]f64) i32;
            /// Queues one byte on the device's pipe, on a failed device too; its ticket.
            pub const notify = fn (*S, *f64) i32;
            /// target, source, bytes.
            pub const copy = fn (*S, u64, u64, u64) i32;
            /// target, byte, bytes.
            pub const fill = fn (*S, u64, u8, u64) i32;
            /// kernel, parameters (copied now) and their bytes, items of the grid.
            pub const launch = fn (*S, *const anyopaque, [*]const u8, usize, u32) i32;
            /// From here on what is queued is recorded and does not run.
            pub const begin_capture = fn (*S) i32;
            /// A graph, unless the capture was broken.
            pub const end_capture = fn (*S, **handles.Graph) i32;
        };
        pub const Event = struct {
            pub const destroy = fn (*E) i32;
            pub const record = fn (*E, *S) i32;
            /// The stream waits for the last record.
            pub const wait = fn (*E, *S) i32;
            /// 0 when the last record was reached, not_ready before.
            pub const query = fn (*E) i32;
            /// Milliseconds to a later event, both reached.
            pub const elapsed = fn (*E, *E, *f64) i32;
        };
        pub const Graph = struct {
            pub const launch = fn (*G, *S) i32;
            /// Later launches run what the other graph captured.
            pub const update = fn (*G, *G) i32;
            /// Launches that are queued run to their end.
            pub const free = fn (*G) i32;
        };
    };
}

comptime {
    @setEvalBranchQuota(10_000);
    for (.{ cpu, cuda }) |backend| {
        for (.{ "Device", "Stream", "Event", "Graph" }) |object_name| {
            require_methods(@field(backend, object_name), @field(Interface(backend), object_name));
        }
    }
}

fn require_methods(comptime Implementation: type, comptime Methods: type) void {
    for (std.meta.declarations(Methods)) |name| {
        const wanted = @field(Methods, name);
        if (!@hasDecl(Implementation, name))
            @compileError(@typeName(Implementation) ++ " has no method " ++ name);
        const given = @TypeOf(@field(Implementation, name));
        if (given == wanted) continue;
        @compileError(@typeName(Implementation) ++ "." ++ name ++ " is a " ++ @typeName(given) ++
            ", the interface says " ++ @typeName(wanted));
    }
}

/// Calls the method of this name of the object behind the handle.
pub inline fn call(handle: anytype, comptime method: []const u8, arguments: anytype) i32 {
    switch (handle.backend) {
        inline else => |backend| {
            const receiver = object(backend, handle);
            const function = method_of(@TypeOf(handle.*), receiver, method);
            return @call(.auto, function, .{receiver} ++ arguments);
        },
    }
}

/// Like call, with a second handle as first argument: both must be of one device.
pub inline fn call_with(
    first: anytype,
    comptime method: []const u8,
    second: anytype,
    arguments: anytype,
) i32 {
    if (first.backend != second.backend) return strangers();
    switch (first.backend) {
        inline else => |backend| {
            const receiver = object(backend, first);
            const argument = object(backend, second);
            if (receiver.device != argument.device) return strangers();
            const function = method_of(@TypeOf(first.*), receiver, method);
            return @call(.auto, function, .{ receiver, argument } ++ arguments);
        },
    }
}

fn strangers() i32 {
    return fail(.invalid_argument, "both must be of the same device", .{});
}

fn Object(comptime backend: handles.Backend, comptime Handle: type) type {
    return switch (backend) {
        .cpu => part(cpu, Handle),
        .cuda => part(cuda, Handle),
    };
}

/// What a backend, or the interface, has for a kind of handle.
fn part(comptime whole: type, comptime Handle: type) type {
    return switch (Handle) {
        handles.Device => whole.Device,
        handles.Stream => whole.Stream,
        handles.Event => whole.Event,
        handles.Graph => whole.Graph,
        else => @compileError(@typeName(Handle) ++ " is not a handle"),
    };
}

inline fn object(
    comptime backend: handles.Backend,
    handle: anytype,
) *Object(backend, @TypeOf(handle.*)) {
    return @alignCast(@fieldParentPtr("handle", handle));
}

/// The method of an object; only those of the interface are called.
inline fn method_of(comptime Handle: type, receiver: anytype, comptime method: []const u8) @TypeOf(
    @field(@TypeOf(receiver.*), method),
) {
    if (!@hasDecl(part(Interface(cpu), Handle), method))
        @compileError("the interface has no method " ++ method);
    return @field(@TypeOf(receiver.*), method);
}
