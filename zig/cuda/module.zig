//! Modules of a CUDA device: kernels loaded from an image, checked against their traits, ready to
//! launch.
const std = @import("std");
const params = @import("params");
const driver = @import("driver.zig");
const failure = @import("failure.zig");
const image = @import("image.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Traits = params.struct_fb_kernel_traits;
const Facts = params.struct_fb_kernel_facts;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

const attribute = struct {
    const threads_max = 0;
    const static_shared = 1;
    const local = 3;
    const registers = 4;
    const dynamic_shared_max = 8;
    const large_cluster = 14;
};
/// Larger clusters are not on every device of an architecture.
const portable_cluster = 8;
const largest_cluster = 16;

pub const Kernel = struct {
    device: *Device,
    name: [:0]const u8,
    function: driver.Function,
    params_bytes: usize,
    threads: u32,
    shared_bytes: u32,
    cluster: u32,
    /// Most blocks of a launch, in whole clusters; 0: any.
    resident_blocks: u32 = 0,
    attributes: [2]driver.Attribute = undefined,
    attribute_count: u32 = 0,
    following: ?*Kernel = null,

    /// A cluster for every item; of a persistent kernel no more than run at once.
    pub fn blocks(kernel: *const Kernel, items: u32) u32 {
        const wanted = items *| kernel.cluster;
        return if (kernel.resident_blocks == 0) wanted else @min(wanted, kernel.resident_blocks);
    }

    pub fn config(
        kernel: *const Kernel,
        block_count: u32,
        stream: ?driver.Stream,
    ) driver.LaunchConfig {
        return .{
            .grid = .{ block_count, 1, 1 },
            .block = .{ kernel.threads, 1, 1 },
            .shared_bytes = kernel.shared_bytes,
            .stream = stream,
            .attributes = &kernel.attributes,
            .attribute_count = kernel.attribute_count,
        };
    }

    fn add_attribute(kernel: *Kernel, id: c_int, value: []const u32) void {
        const added = &kernel.attributes[kernel.attribute_count];
        added.* = .{ .id = id };
        @memcpy(added.value[0..value.len], value);
        kernel.attribute_count += 1;
    }
};

pub const Module = struct {
    device: *Device,
    library: driver.Library,
    kernels: ?*Kernel = null,
    node: std.DoublyLinkedList.Node = .{},

    pub fn load(device: *Device, bytes: []const u8, out: *u64) i32 {
        if (image.complaint(bytes)) |what| {
            return fail(.invalid_argument, "the kernel image of {d} bytes cannot be read: {s}", .{
                bytes.len, what,
            });
        }
        if (device.failure.happened()) return failure.status(device);
        const module = allocator.create(Module) catch return status_file.out_of_host_memory();
        module.* = .{ .device = device, .library = undefined };
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        const none = null;
        const result = device.api.cuLibraryLoadData(
            &module.library,
            bytes.ptr,
            none,
            none,
            0,
            none,
            none,
            0,
        );
        if (result != driver.success) {
            allocator.destroy(module);
            return unloadable(device, result);
        }
        device.modules.append(&module.node);
        out.* = @intFromPtr(module);
        return 0;
    }

    /// Unloads once all that is queued now is done; its kernels must not be launched any more.
    pub fn unload(module: *Module) i32 {
        const device = module.device;
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        device.modules.remove(&module.node);
        device.retired.retire(device, .{ .module = module });
        return 0;
    }

    pub fn destroy(module: *Module) void {
        _ = module.device.api.cuLibraryUnload(module.library);
        while (module.kernels) |kernel| {
            module.kernels = kernel.following;
            allocator.destroy(kernel);
        }
        allocator.destroy(module);
    }

    /// A kernel of the module, ready to launch as its traits say.
    pub fn find(
        module: *Module,
        name: [:0]const u8,
        traits: *const Traits,
        facts: *Facts,
        out: *u64,
    ) i32 {
        const device = module.device;
        if (complaint(device, traits)) |status| return status;
        if (device.failure.happened()) return failure.status(device);
        const kernel = allocator.create(Kernel) catch return status_file.out_of_host_memory();
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        const status = prepare(module, kernel, name, traits, facts);
        if (status != 0) {
            allocator.destroy(kernel);
            return status;
        }
        kernel.following = module.kernels;
        module.kernels = kernel;
        out.* = @intFromPtr(kernel);
        return 0;
    }
};

fn complaint(device: *Device, traits: *const Traits) ?i32 {
    if (traits.threads < 1 or traits.threads > 1024) {
        return fail(.invalid_argument, "threads must be 1 to 1024 (got {d})", .{traits.threads});
    }
    if (traits.cluster < 1 or traits.cluster > largest_cluster) {
        const sentence = "cluster must be 1 to {d} (got {d})";
        return fail(.invalid_argument, sentence, .{ largest_cluster, traits.cluster });
    }
    if (traits.cluster > 1 and device.facts.compute_major < 9) {
        return fail(.unsupported, "clusters need compute capability 9.0, {s} has {d}.{d}", .{
            device.name(), device.facts.compute_major, device.facts.compute_minor,
        });
    }
    if (traits.shared_bytes < 0) {
        const sentence = "shared_bytes must be 0 or more (got {d})";
        return fail(.invalid_argument, sentence, .{traits.shared_bytes});
    }
    return null;
}

fn prepare(
    module: *Module,
    kernel: *Kernel,
    name: [:0]const u8,
    traits: *const Traits,
    facts: *Facts,
) i32 {
    const device = module.device;
    const api = device.api;
    var handle: driver.Kernel = undefined;
    const found = api.cuLibraryGetKernel(&handle, module.library, name);
    if (found == 500) return fail(.not_found, "the image has no kernel {s}", .{name});
    if (found != driver.success) return unloadable(device, found);
    var function: driver.Function = undefined;
    const loaded = api.cuKernelGetFunction(&function, handle);
    if (loaded != driver.success) return unloadable(device, loaded);
    facts.* = std.mem.zeroes(Facts);
    facts.item_rows = traits.item_rows;
    if (ask(device, handle, facts, name)) |status| return status;
    if (fit(device, handle, traits, facts, name)) |status| return status;
    const kept = device.keep_name(name) orelse return status_file.out_of_host_memory();
    kernel.* = .{
        .device = device,
        .name = kept,
        .function = function,
        .params_bytes = @intCast(facts.params_bytes),
        .threads = @intCast(traits.threads),
        .shared_bytes = @intCast(traits.shared_bytes),
        .cluster = @intCast(traits.cluster),
    };
    if (kernel.cluster > 1) {
        kernel.add_attribute(driver.Attribute.cluster_dimension, &.{ kernel.cluster, 1, 1 });
    }
    if (traits.programmatic != 0) {
        kernel.add_attribute(driver.Attribute.programmatic_serialization, &.{1});
    }
    return occupy(kernel, traits, facts);
}

/// The kernel's one parameter, registers and memory.
fn ask(device: *Device, handle: driver.Kernel, facts: *Facts, name: []const u8) ?i32 {
    const api = device.api;
    var offset: usize = 0;
    var size: usize = 0;
    var result = api.cuKernelGetParamInfo(handle, 0, &offset, &size);
    if (result == driver.success) facts.params_bytes = @intCast(size);
    const two = api.cuKernelGetParamInfo(handle, 1, &offset, &size) == driver.success;
    if (result != driver.success or two) {
        return fail(.invalid_argument, "{s} must take one struct as its parameter", .{name});
    }
    inline for (.{
        .{ attribute.registers, &facts.registers },
        .{ attribute.local, &facts.local_bytes },
        .{ attribute.static_shared, &facts.static_shared_bytes },
    }) |asked| {
        result = api.cuKernelGetAttribute(asked[1], asked[0], handle, device.processor);
        if (result != driver.success) return failure.check(device, result);
    }
    return null;
}

/// Opts in to what the traits ask for, where the device has it.
fn fit(
    device: *Device,
    handle: driver.Kernel,
    traits: *const Traits,
    facts: *const Facts,
    name: []const u8,
) ?i32 {
    const api = device.api;
    const processor = device.processor;
    const most = device.facts.shared_bytes_per_block;
    const wanted = traits.shared_bytes + facts.static_shared_bytes;
    if (wanted > most) {
        const sentence = "{s} needs {d} bytes of shared memory, a block of {s} has {d}";
        return fail(.unsupported, sentence, .{ name, wanted, device.name(), most });
    }
    var value: c_int = 0;
    var result = api.cuKernelGetAttribute(&value, attribute.threads_max, handle, processor);
    if (result != driver.success) return failure.check(device, result);
    if (value < traits.threads) {
        const sentence = "{s} was compiled for {d} threads, not {d}";
        return fail(.unsupported, sentence, .{ name, value, traits.threads });
    }
    result = api.cuKernelGetAttribute(&value, attribute.dynamic_shared_max, handle, processor);
    // Never lower: the same kernel may be in another module entry with more.
    if (result == driver.success and value < traits.shared_bytes) {
        const opted = attribute.dynamic_shared_max;
        result = api.cuKernelSetAttribute(opted, traits.shared_bytes, handle, processor);
    }
    if (result == driver.success and traits.cluster > portable_cluster) {
        result = api.cuKernelSetAttribute(attribute.large_cluster, 1, handle, processor);
    }
    return if (result == driver.success) null else failure.check(device, result);
}

/// How many blocks run at once, by the driver's count.
fn occupy(kernel: *Kernel, traits: *const Traits, facts: *Facts) i32 {
    const device = kernel.device;
    const api = device.api;
    var each: c_int = 0;
    const threads: c_int = traits.threads;
    const function = kernel.function;
    const counted = api.cuOccupancyMaxActiveBlocksPerMultiprocessor(
        &each,
        function,
        threads,
        kernel.shared_bytes,
    );
    if (counted != driver.success) return failure.check(device, counted);
    facts.blocks_per_processor = each;
    var resident = each * device.facts.processors;
    if (kernel.cluster > 1 and resident > 0) {
        var clusters: c_int = 0;
        const config = kernel.config(kernel.cluster, null);
        const result = api.cuOccupancyMaxActiveClusters(&clusters, function, &config);
        if (result != driver.success) return failure.check(device, result);
        resident = clusters * traits.cluster;
    }
    if (resident == 0) {
        return fail(.unsupported, "no block of {s} fits on {s}", .{ kernel.name, device.name() });
    }
    if (traits.persistent != 0) kernel.resident_blocks = @intCast(resident);
    return 0;
}

fn unloadable(device: *Device, result: driver.Result) i32 {
    const status = failure.check(device, result);
    if (status != status_file.Status.unsupported.code()) return status;
    var buffer: driver.Sentence = undefined;
    const said = driver.describe(device.api, result, &buffer);
    const sentence = "the kernel image does not load on {s} ({d}.{d}, driver of CUDA {d}.{d}): {s}";
    const version = device.facts.driver_version;
    return driver.caused(device.api, result, fail(.unsupported, sentence, .{
        device.name(),
        device.facts.compute_major,
        device.facts.compute_minor,
        @divTrunc(version, 1000),
        @divTrunc(@rem(version, 1000), 10),
        said,
    }));
}
