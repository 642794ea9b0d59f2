//! The CUDA driver: opened at run time, its functions resolved through cuGetProcAddress. No cudart,
//! no headers.
const std = @import("std");
const params = @import("params");
const Mutex = @import("../lock.zig").Mutex;
const status_file = @import("../status.zig");
const Status = status_file.Status;
const fail = status_file.fail;

/// What we ask of every function: the versions of CUDA 12.4, the first with cuKernelGetParamInfo.
const needed_version = 12040;
const default_path = "libcuda.so.1";

pub const Result = c_int;
pub const success = 0;
pub const out_of_memory = 2;
pub const not_ready = 600;
const no_device_result = 100;
pub const Processor = c_int;
pub const Context = *opaque {};
pub const Stream = *opaque {};
pub const Event = *opaque {};
pub const Graph = *opaque {};
pub const GraphExec = *opaque {};
pub const Library = *opaque {};
pub const Kernel = *opaque {};
pub const Function = *opaque {};

/// One launch attribute: an identifier and 64 bytes of value, of which the first word is used here.
pub const Attribute = extern struct {
    id: c_int,
    padding: u32 = 0,
    value: [16]u32 = @splat(0),

    pub const cluster_dimension = 4;
    pub const programmatic_serialization = 6;
};

pub const LaunchConfig = extern struct {
    grid: [3]c_uint,
    block: [3]c_uint,
    shared_bytes: c_uint,
    stream: ?Stream,
    attributes: ?[*]const Attribute,
    attribute_count: c_uint,
};

pub const UpdateInfo = extern struct {
    result: c_int = 0,
    error_node: ?*anyopaque = null,
    error_from_node: ?*anyopaque = null,
};

/// Every function of the driver that this runtime calls, under the driver's own names.
pub const Functions = struct {
    cuInit: Fn(.{c_uint}),
    cuDriverGetVersion: Fn(.{*c_int}),
    cuDeviceGetCount: Fn(.{*c_int}),
    cuDeviceGet: Fn(.{ *Processor, c_int }),
    cuDeviceGetName: Fn(.{ [*]u8, c_int, Processor }),
    cuDeviceGetAttribute: Fn(.{ *c_int, c_int, Processor }),
    cuDeviceTotalMem: Fn(.{ *usize, Processor }),
    cuDevicePrimaryCtxRetain: Fn(.{ *Context, Processor }),
    cuDevicePrimaryCtxRelease: Fn(.{Processor}),
    cuCtxSetCurrent: Fn(.{?Context}),
    cuMemGetInfo: Fn(.{ *usize, *usize }),
    cuMemAlloc: Fn(.{ *u64, usize }),
    cuMemFree: Fn(.{u64}),
    cuMemHostAlloc: Fn(.{ *u64, usize, c_uint }),
    cuMemFreeHost: Fn(.{u64}),
    cuMemcpyAsync: Fn(.{ u64, u64, usize, Stream }),
    cuMemsetD8Async: Fn(.{ u64, u8, usize, Stream }),
    cuStreamCreate: Fn(.{ *Stream, c_uint }),
    cuStreamDestroy: Fn(.{Stream}),
    cuStreamSynchronize: Fn(.{Stream}),
    cuStreamQuery: Fn(.{Stream}),
    cuStreamWaitEvent: Fn(.{ Stream, Event, c_uint }),
    cuStreamBeginCapture: Fn(.{ Stream, c_int }),
    cuStreamEndCapture: Fn(.{ Stream, *?Graph }),
    cuStreamIsCapturing: Fn(.{ Stream, *c_int }),
    cuEventCreate: Fn(.{ *Event, c_uint }),
    cuEventDestroy: Fn(.{Event}),
    cuEventRecord: Fn(.{ Event, Stream }),
    cuEventQuery: Fn(.{Event}),
    cuEventSynchronize: Fn(.{Event}),
    cuEventElapsedTime: Fn(.{ *f32, Event, Event }),
    cuGraphInstantiateWithFlags: Fn(.{ *GraphExec, Graph, c_ulonglong }),
    cuGraphLaunch: Fn(.{ GraphExec, Stream }),
    cuGraphExecUpdate: Fn(.{ GraphExec, Graph, *UpdateInfo }),
    cuGraphExecDestroy: Fn(.{GraphExec}),
    cuGraphDestroy: Fn(.{Graph}),
    cuLibraryLoadData: Fn(.{ *Library, [*]const u8, ?*u32, ?*u64, c_uint, ?*u32, ?*u64, c_uint }),
    cuLibraryUnload: Fn(.{Library}),
    cuLibraryGetKernel: Fn(.{ *Kernel, Library, [*:0]const u8 }),
    cuKernelGetFunction: Fn(.{ *Function, Kernel }),
    cuKernelGetAttribute: Fn(.{ *c_int, c_int, Kernel, Processor }),
    cuKernelSetAttribute: Fn(.{ c_int, c_int, Kernel, Processor }),
    cuKernelGetParamInfo: Fn(.{ Kernel, usize, *usize, *usize }),
    cuLaunchKernelEx: Fn(.{ *const LaunchConfig, Function, [*]const *const anyopaque, ?*u64 }),
    cuOccupancyMaxActiveBlocksPerMultiprocessor: Fn(.{ *c_int, Function, c_int, usize }),
    cuOccupancyMaxActiveClusters: Fn(.{ *c_int, Function, *const LaunchConfig }),
    cuTensorMapEncodeTiled: Fn(.{
        *params.struct_fb_tensor_map, c_int,        u32,   u64,   [*]const u64, [*]const u64,
        [*]const u32,                 [*]const u32, c_int, c_int, c_int,        c_int,
    }),
    cuGetErrorName: Fn(.{ Result, *?[*:0]const u8 }),
    cuGetErrorString: Fn(.{ Result, *?[*:0]const u8 }),
};

/// A function of C that returns a code.
pub fn Fn(comptime arguments: anytype) type {
    var types: [arguments.len]type = undefined;
    for (&types, arguments) |*one, argument| one.* = argument;
    const fixed = types;
    return *const @Fn(&fixed, &@splat(.{}), Result, .{ .@"callconv" = .c });
}

const GetProcAddress = *const fn (
    symbol: [*:0]const u8,
    out: *?*anyopaque,
    version: c_int,
    flags: u64,
    found: *c_int,
) callconv(.c) Result;

pub const Driver = struct {
    functions: Functions,
    version: c_int,
    emulated: bool,
};

var mutex: Mutex = .{};
var driver: Driver = undefined;
/// The path that was opened; empty before.
var opened_path: []const u8 = "";

/// The driver, once opened.
pub fn opened() ?*const Driver {
    mutex.lock();
    defer mutex.unlock();
    return if (opened_path.len == 0) null else &driver;
}

/// Opens the driver, once per process; a failed attempt leaves nothing behind and can be repeated.
pub fn open(wanted: ?[*:0]const u8, out: *params.struct_fb_driver_properties) i32 {
    mutex.lock();
    defer mutex.unlock();
    const path = std.mem.span(wanted orelse default_path);
    if (opened_path.len == 0) {
        const status = load(path);
        if (status != 0) return status;
    } else if (!std.mem.eql(u8, path, opened_path)) {
        const sentence = "{s} is asked for, but {s} is open already: a process opens one driver";
        return fail(.invalid_argument, sentence, .{ path, opened_path });
    }
    out.* = std.mem.zeroes(params.struct_fb_driver_properties);
    out.version = driver.version;
    out.emulated = @intFromBool(driver.emulated);
    const result = driver.functions.cuDeviceGetCount(&out.device_count);
    if (result != success) return refuse(&driver.functions, result, "the driver counts no devices");
    if (out.device_count == 0) return no_device();
    return 0;
}

fn load(path: [:0]const u8) i32 {
    const library = std.c.dlopen(path, .{ .NOW = true }) orelse return not_opened(path);
    const status = resolve(library, path);
    if (status != 0) {
        _ = std.c.dlclose(library);
        return status;
    }
    const kept = std.heap.c_allocator.dupe(u8, path) catch
        return fail(.out_of_memory, "the system has no host memory left", .{});
    const initialised = driver.functions.cuInit(0);
    if (initialised != success) {
        std.heap.c_allocator.free(kept);
        if (initialised == no_device_result) return no_device();
        return refuse(&driver.functions, initialised, "the driver does not start");
    }
    opened_path = kept;
    return 0;
}

fn not_opened(path: []const u8) i32 {
    const cause = std.mem.span(std.c.dlerror() orelse "no reason given");
    const reason = if (std.mem.startsWith(u8, cause, path))
        std.mem.trimStart(u8, cause[path.len..], ": ")
    else
        cause;
    const missing = std.mem.indexOf(u8, reason, "No such file") != null;
    const what: []const u8 = if (missing) "was not found" else "cannot be opened";
    const kind: Status = if (missing) .not_found else .unsupported;
    return fail(kind, "{s} {s}: {s}; a CUDA driver of {d}.{d} or later is needed", .{
        path, what, reason, needed_version / 1000, needed_version % 1000 / 10,
    });
}

fn no_device() i32 {
    const sentence = "the driver has no device (it speaks CUDA {d}.{d})";
    const major = @divTrunc(driver.version, 1000);
    return fail(.not_found, sentence, .{ major, minor(driver.version) });
}

fn resolve(library: *anyopaque, path: []const u8) i32 {
    const symbol = std.c.dlsym(library, "cuGetProcAddress_v2") orelse {
        const sentence = "{s} is no CUDA driver, or one before 12.0; {d}.{d} or later is needed";
        return fail(.unsupported, sentence, .{
            path, needed_version / 1000, needed_version % 1000 / 10,
        });
    };
    const find: GetProcAddress = @ptrCast(@alignCast(symbol));
    driver = .{
        .functions = undefined,
        .version = 0,
        .emulated = std.c.dlsym(library, "fb_emulated") != null,
    };
    // The version comes first: an older driver lacks functions of the table.
    if (!look_up(find, "cuDriverGetVersion") or
        driver.functions.cuDriverGetVersion(&driver.version) != success)
    {
        return fail(.unsupported, "{s} does not say which CUDA it speaks", .{path});
    }
    if (driver.version < needed_version) {
        const sentence = "the driver speaks CUDA {d}.{d}, {d}.{d} or later is needed";
        return fail(.unsupported, sentence, .{
            @divTrunc(driver.version, 1000), minor(driver.version),
            needed_version / 1000,           needed_version % 1000 / 10,
        });
    }
    inline for (comptime std.meta.fieldNames(Functions)) |name| {
        if (!look_up(find, name)) {
            return fail(.unsupported, "the CUDA driver {s} lacks {s}", .{ path, name });
        }
    }
    return 0;
}

fn look_up(find: GetProcAddress, comptime name: [:0]const u8) bool {
    var address: ?*anyopaque = null;
    var found: c_int = 0;
    if (find(name, &address, needed_version, 0, &found) != success) return false;
    @field(driver.functions, name) = @ptrCast(@alignCast(address orelse return false));
    return true;
}

fn minor(version: c_int) c_int {
    return @divTrunc(@rem(version, 1000), 10);
}

fn refuse(functions: *const Functions, result: Result, what: []const u8) i32 {
    var buffer: Sentence = undefined;
    const words = describe(functions, result, &buffer);
    return caused(functions, result, fail(.unsupported, "{s}: {s}", .{ what, words }));
}

/// The status of a failure that was just recorded, to which the driver's result is added.
pub fn caused(functions: *const Functions, result: Result, status: i32) i32 {
    status_file.add_cuda_result(result, name_of(functions, result));
    return status;
}

fn name_of(functions: *const Functions, result: Result) []const u8 {
    var name: ?[*:0]const u8 = null;
    _ = functions.cuGetErrorName(result, &name);
    return std.mem.span(name orelse "CUDA_ERROR_UNKNOWN");
}

/// Room for a result in words; longer ones are cut.
pub const Sentence = [320]u8;

/// The driver's name, number and sentence of a result.
pub fn describe(functions: *const Functions, result: Result, buffer: *Sentence) []const u8 {
    var sentence: ?[*:0]const u8 = null;
    _ = functions.cuGetErrorString(result, &sentence);
    var writer: std.Io.Writer = .fixed(buffer);
    writer.print("{s} ({d}): {s}", .{
        name_of(functions, result), result, sentence orelse "the driver knows no more",
    }) catch {};
    return writer.buffered();
}
