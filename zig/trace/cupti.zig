//! What a process asks of the GPU: kernels and globals that it looks up, images that are loaded.
//!
//! CUPTI is opened at run time and used by the numbers that its headers give (cupti_callbacks.h,
//! cupti_driver_cbid.h, generated_cuda_meta.h of CUDA 13; they are the same since CUDA 12). A
//! kernel has to be looked up before it can be launched, so launches are not watched: they cost
//! nothing.
const std = @import("std");
const checksum = @import("checksum.zig").checksum;
const loaded = @import("loaded.zig");
const log = @import("log.zig");
const origins = @import("origins.zig");
const system = @import("system.zig");

const Result = c_int;
const Subscriber = ?*anyopaque;
const Callback = fn (
    user: ?*anyopaque,
    domain: u32,
    id: u32,
    data: *const anyopaque,
) callconv(.c) void;
const Subscribe = fn (*Subscriber, *const Callback, ?*anyopaque) callconv(.c) Result;
const Enable = fn (u32, Subscriber, u32, u32) callconv(.c) Result;

const domain_driver = 1;
const domain_resource = 3;
const module_loaded = 6;
const site_exit = 1;

const cuModuleLoadData = 19;
const cuModuleLoadDataEx = 20;
const cuModuleLoadFatBinary = 21;
const cuModuleGetFunction = 23;
const cuModuleGetGlobal = 24;
const cuModuleGetTexRef = 26;
const cuModuleGetSurfRef = 190;
const cuModuleGetGlobal_v2 = 241;
const cuLibraryLoadData = 678;
const cuLibraryGetKernel = 681;
const cuLibraryGetModule = 682;
const cuLibraryGetGlobal = 684;
const cuLibraryGetManaged = 685;
const cuLibraryGetUnifiedFunction = 700;
const cuModuleEnumerateFunctions = 738;
const cuLibraryEnumerateKernels = 740;

const driver_calls = [_]u32{
    cuModuleLoadData,          cuModuleLoadDataEx,          cuModuleLoadFatBinary,
    cuModuleGetFunction,       cuModuleGetGlobal,           cuModuleGetTexRef,
    cuModuleGetSurfRef,        cuModuleGetGlobal_v2,        cuLibraryLoadData,
    cuLibraryGetKernel,        cuLibraryGetModule,          cuLibraryGetGlobal,
    cuLibraryGetManaged,       cuLibraryGetUnifiedFunction, cuModuleEnumerateFunctions,
    cuLibraryEnumerateKernels,
};

const Call = extern struct {
    site: u32,
    function_name: ?[*:0]const u8,
    /// The arguments in order, each at its alignment: all of those read here take eight bytes.
    arguments: [*]const usize,
    result: ?*const c_int,
};

const Resource = extern struct {
    context: ?*anyopaque,
    stream: ?*anyopaque,
    descriptor: *const Module,
};
const Module = extern struct { id: u32, bytes: usize, image: ?[*]const u8 };

const at_once: std.c.RTLD = .{ .NOW = true };
const already_open: std.c.RTLD = .{ .NOW = true, .NOLOAD = true };

/// Where the user says that libcupti is.
pub var path: ?[:0]const u8 = null;

/// Subscribes to CUPTI; says so when that is not possible.
pub fn start() void {
    const before = system.now();
    if (subscribe()) |problem| {
        var line: log.Line = .begin("problem");
        line.text("problem", problem);
        line.end();
    }
    const spent = system.now() - before;
    log.opening = spent;
    _ = log.spent.fetchAdd(spent, .monotonic);
}

fn subscribe() ?[]const u8 {
    const library = open() orelse return "libcupti was not found: name its file (--cupti)";
    const subscribeTo = symbol(library, "cuptiSubscribe", Subscribe) orelse
        return "libcupti has no cuptiSubscribe";
    const enable = symbol(library, "cuptiEnableCallback", Enable) orelse
        return "libcupti has no cuptiEnableCallback";
    var subscriber: Subscriber = null;
    if (subscribeTo(&subscriber, on_call, null) != 0)
        return "CUPTI refused: another profiler of this process uses it";
    // One that an older CUPTI does not know is one that its driver does not have.
    for (driver_calls) |id| _ = enable(1, subscriber, domain_driver, id);
    if (enable(1, subscriber, domain_resource, module_loaded) != 0)
        return "CUPTI does not tell which images are loaded";
    return null;
}

fn symbol(library: *anyopaque, name: [*:0]const u8, comptime Function: type) ?*const Function {
    return @ptrCast(@alignCast(std.c.dlsym(library, name) orelse return null));
}

/// The path of FLASHBUN_CUPTI, then the one that the program has, then those of CUDA's packages
/// beside its libraries, then the system's.
fn open() ?*anyopaque {
    if (path) |given| return std.c.dlopen(given, at_once);
    const names = [_][:0]const u8{
        "libcupti.so.13",
        "libcupti.so.12",
        "libcupti.so.11.8",
        "libcupti.so",
    };
    for (names) |name| if (std.c.dlopen(name, already_open)) |library| return library;
    const folders = [_][]const u8{ "/", "/../../cuda_cupti/lib/", "/../extras/CUPTI/lib64/" };
    var libraries = loaded.iterate();
    while (libraries.next()) |library| {
        var whole: [loaded.path_bytes_max]u8 = undefined;
        const path_of_library = library.path(&whole) orelse continue;
        const folder = std.fs.path.dirname(path_of_library) orelse continue;
        for (folders) |relative| for (names) |name| {
            var buffer: [4096]u8 = undefined;
            const candidate = system.join(&buffer, &.{ folder, relative, name }) orelse continue;
            // The loader makes much of a file that is not there, and there are hundreds of these.
            if (!system.exists(candidate)) continue;
            if (std.c.dlopen(candidate, at_once)) |found| return found;
        };
    }
    for (names) |name| if (std.c.dlopen(name, at_once)) |library| return library;
    const toolkit = "/usr/local/cuda/extras/CUPTI/lib64/libcupti.so";
    return std.c.dlopen(toolkit, at_once);
}

fn on_call(_: ?*anyopaque, domain: u32, id: u32, data: *const anyopaque) callconv(.c) void {
    const before = system.now();
    if (domain == domain_resource) {
        const resource: *const Resource = @ptrCast(@alignCast(data));
        if (id == module_loaded) on_image(resource.descriptor);
        _ = log.images.fetchAdd(system.now() - before, .monotonic);
    } else if (domain == domain_driver) {
        const call: *const Call = @ptrCast(@alignCast(data));
        const succeeded = if (call.result) |result| result.* == 0 else true;
        if (call.site == site_exit and succeeded) on_success(id, call.arguments);
    }
    _ = log.spent.fetchAdd(system.now() - before, .monotonic);
}

fn on_success(id: u32, arguments: [*]const usize) void {
    switch (id) {
        cuModuleLoadData, cuModuleLoadDataEx, cuModuleLoadFatBinary, cuLibraryLoadData => {
            origins.remember(pointed(arguments[0]), arguments[1]);
        },
        cuLibraryGetModule => origins.copy(pointed(arguments[0]), arguments[1]),
        cuModuleGetFunction, cuLibraryGetKernel => say("kernel", arguments[1], arguments[2]),
        cuModuleGetTexRef, cuModuleGetSurfRef => say("global", arguments[1], arguments[2]),
        cuModuleGetGlobal, cuModuleGetGlobal_v2, cuLibraryGetGlobal, cuLibraryGetManaged => {
            say("global", arguments[2], arguments[3]);
        },
        // The device function behind a pointer that the host gets.
        cuLibraryGetUnifiedFunction => say("kernel", arguments[1], arguments[2]),
        cuModuleEnumerateFunctions => say_each("cuFuncGetName", arguments),
        cuLibraryEnumerateKernels => say_each("cuKernelGetName", arguments),
        else => {},
    }
}

fn pointed(address: usize) usize {
    return if (address == 0) 0 else @as(*const usize, @ptrFromInt(address)).*;
}

fn say(event: []const u8, handle: usize, name_address: usize) void {
    if (name_address == 0) return;
    const name = std.mem.span(@as([*:0]const u8, @ptrFromInt(name_address)));
    const origin = origins.of(handle);
    if (!origins.is_new(event, name, handle)) return;
    say_gpu();
    var line: log.Line = .begin(event);
    line.text("name", name);
    if (origin) |library| line.text("library", library);
    line.end();
}

/// Names of all that a list of handles holds: the caller of the list may launch any of it.
fn say_each(comptime function: [*:0]const u8, arguments: [*]const usize) void {
    const Name = fn (*[*:0]const u8, usize) callconv(.c) c_int;
    const driver = std.c.dlopen("libcuda.so.1", already_open) orelse return;
    const name_of = symbol(driver, function, Name) orelse return;
    const handles: [*]const usize = @ptrFromInt(arguments[0]);
    const count: u32 = @truncate(arguments[1]);
    for (handles[0..count]) |handle| {
        var name: [*:0]const u8 = undefined;
        if (name_of(&name, handle) == 0) say("kernel", arguments[2], @intFromPtr(name));
    }
}

fn on_image(module: *const Module) void {
    const image = (module.image orelse return)[0..module.bytes];
    const crc = checksum(image);
    say_gpu();
    var line: log.Line = .begin("cubin");
    line.number("bytes", image.len);
    line.number("crc32", crc);
    line.end();
}

var gpu_said: std.atomic.Value(bool) = .init(false);

/// What runs, once: the architecture and the CUDA version that the driver speaks.
fn say_gpu() void {
    if (gpu_said.swap(true, .monotonic)) return;
    const driver = std.c.dlopen("libcuda.so.1", already_open) orelse return;
    const GetOne = fn (*c_int) callconv(.c) c_int;
    const GetAttribute = fn (*c_int, c_int, c_int) callconv(.c) c_int;
    const version_of = symbol(driver, "cuDriverGetVersion", GetOne) orelse return;
    const attribute = symbol(driver, "cuDeviceGetAttribute", GetAttribute) orelse return;
    const current = symbol(driver, "cuCtxGetDevice", GetOne) orelse return;
    var values: [4]c_int = @splat(0);
    if (current(&values[0]) != 0) values[0] = 0;
    const major = 75;
    const minor = 76;
    if (attribute(&values[1], major, values[0]) != 0) return;
    if (attribute(&values[2], minor, values[0]) != 0) return;
    if (version_of(&values[3]) != 0) return;
    var line: log.Line = .begin("gpu");
    line.number("arch", @intCast(values[1] * 10 + values[2]));
    line.number("cuda", @intCast(values[3]));
    line.end();
}
