//! The CUDA runtime on a stub driver: what must hold without any GPU, and when the driver fails.
const std = @import("std");
const params = @import("params");
const driver = @import("driver.zig");
const stub = @import("stub.zig");
const handles = @import("../handle.zig");
const interface = @import("../device.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Kernel = @import("module.zig").Kernel;
const Module = @import("module.zig").Module;
const Status = status_file.Status;
const call = interface.call;
const call_with = interface.call_with;
const expectEqual = std.testing.expectEqual;

/// A device on the stub with one stream.
const Bench = struct {
    library: driver.Driver,
    device: *handles.Device,
    stream: *handles.Stream,

    fn open(bench: *Bench, limit_bytes: u64) !void {
        bench.library = stub.library();
        try expectEqual(0, Device.open_on(&bench.library, 0, limit_bytes, &bench.device));
        bench.stream = try bench.new_stream();
    }

    fn new_stream(bench: *Bench) !*handles.Stream {
        var stream: *handles.Stream = undefined;
        try expectEqual(0, call(bench.device, "create_stream", .{&stream}));
        return stream;
    }

    /// Nothing of the driver's is left.
    fn close(bench: *Bench) !void {
        try expectEqual(0, call(bench.device, "close", .{}));
        try expectEqual(0, stub.live_blocks());
        try expectEqual(0, stub.state.executables);
        try expectEqual(0, stub.state.libraries);
        try expectEqual(0, stub.state.events);
        try expectEqual(0, stub.state.streams);
        try expectEqual(0, stub.state.contexts);
    }

    fn alloc(bench: *Bench, bytes: u64) !u64 {
        var address: u64 = 0;
        try expectEqual(0, call(bench.device, "alloc", .{ bytes, false, &address }));
        return address;
    }

    fn free(bench: *Bench, address: u64) !void {
        try expectEqual(0, call(bench.device, "free", .{address}));
    }

    fn fill(bench: *Bench, stream: *handles.Stream) i32 {
        _ = bench;
        return call(stream, "fill", .{ 4096, 0, 64 });
    }

    fn used(bench: *Bench) !f64 {
        var stats: [3]f64 = undefined;
        try expectEqual(0, call(bench.device, "stats", .{&stats}));
        return stats[0];
    }

    fn kernel(bench: *Bench, name: [:0]const u8, traits: params.struct_fb_kernel_traits) !u64 {
        var module: u64 = 0;
        try expectEqual(0, call(bench.device, "load_module", .{ &image, &module }));
        const loaded: *Module = @ptrFromInt(module);
        var facts: params.struct_fb_kernel_facts = undefined;
        var found: u64 = 0;
        try expectEqual(0, loaded.find(name, &traits, &facts, &found));
        return found;
    }

    fn launch(bench: *Bench, kernel_handle: u64, grid: u32) i32 {
        const block: [24]u8 = @splat(0);
        const launched: *const anyopaque = @ptrFromInt(kernel_handle);
        return call(bench.stream, "launch", .{ launched, &block, 24, grid });
    }
};

/// The smallest ELF file with a section.
const image = small_elf: {
    var bytes: [128]u8 = @splat(0);
    bytes[0..5].* = "\x7fELF\x02".*;
    bytes[0x28] = 64;
    bytes[0x3a] = 64;
    bytes[0x3c] = 1;
    break :small_elf bytes;
};

fn traits_of(changes: anytype) params.struct_fb_kernel_traits {
    var traits = std.mem.zeroes(params.struct_fb_kernel_traits);
    traits.threads = 128;
    traits.cluster = 1;
    inline for (comptime std.meta.fieldNames(@TypeOf(changes))) |name| {
        @field(traits, name) = @field(changes, name);
    }
    return traits;
}

fn expect_sentence(part: []const u8) !void {
    const sentence = std.mem.sliceTo(&status_file.last_failure().text, 0);
    if (std.mem.indexOf(u8, sentence, part) != null) return;
    std.debug.print("\"{s}\" lacks \"{s}\"\n", .{ sentence, part });
    return error.WrongSentence;
}

test "memory that queued work may use is not handed out again before the work is done" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.held = true;
    const first = try bench.alloc(4096);
    const second_stream = try bench.new_stream();
    try expectEqual(0, bench.fill(second_stream));
    try bench.free(first);
    try expectEqual(4096, try bench.used());
    const second = try bench.alloc(4096);
    try std.testing.expect(second != first);
    // The stream goes, its work stays.
    try expectEqual(0, call(second_stream, "destroy", .{}));
    try bench.free(second);
    try expectEqual(8192, try bench.used());
    stub.reach();
    try expectEqual(0, try bench.used());
    try expectEqual(Status.invalid_argument.code(), call(bench.device, "free", .{first}));
    try bench.close();
}

test "frees in a row share one fence" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.held = true;
    var blocks: [20]u64 = undefined;
    for (&blocks) |*block| block.* = try bench.alloc(4096);
    try expectEqual(0, bench.fill(bench.stream));
    for (blocks) |block| try bench.free(block);
    try expectEqual(1, stub.state.events);
    stub.reach();
    try expectEqual(0, try bench.used());
    try bench.close();
}

test "out of memory: spare blocks go back first, pending ones are waited for, the state stays" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.held = true;
    const spare = try bench.alloc(600 << 20);
    try bench.free(spare);
    const large = try bench.alloc(700 << 20);
    try expectEqual(0, bench.fill(bench.stream));
    try bench.free(large);
    const other = try bench.alloc(800 << 20);
    try expectEqual(stub.state.submitted, stub.state.reached);
    var address: u64 = 0;
    const status = call(bench.device, "alloc", .{ 400 << 20, false, &address });
    try expectEqual(Status.out_of_memory.code(), status);
    try expect_sentence("419430400 bytes asked, 234881024 of 1073741824 free");
    const small = try bench.alloc(100 << 20);
    try bench.free(small);
    try bench.free(other);
    try bench.close();
}

test "a limit and a frozen pool refuse" {
    var bench: Bench = undefined;
    try bench.open(1 << 20);
    var address: u64 = 0;
    try expectEqual(
        Status.out_of_memory.code(),
        call(bench.device, "alloc", .{ 2 << 20, false, &address }),
    );
    try expectEqual(0, call(bench.device, "freeze", .{true}));
    for ([_]bool{ false, true }) |pinned| {
        const status = call(bench.device, "alloc", .{ 64, pinned, &address });
        try expectEqual(Status.frozen.code(), status);
    }
    try expectEqual(0, call(bench.device, "freeze", .{false}));
    try expectEqual(0, call(bench.device, "alloc", .{ 64, true, &address }));
    try bench.close();
}

test "a sticky error poisons the device; the first one and what was launched last are kept" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    const kernel = try bench.kernel("attention", traits_of(.{}));
    const block = try bench.alloc(4096);
    try expectEqual(0, bench.launch(kernel, 3));
    stub.state.sticky = 700;
    try expectEqual(Status.cuda.code(), call(bench.stream, "wait", .{}));
    stub.state.sticky = 719;
    try expectEqual(Status.cuda.code(), bench.launch(kernel, 3));
    try expect_sentence("CUDA_ERROR_STUB (700): to order, after launching attention");
    var address: u64 = 0;
    try expectEqual(Status.cuda.code(), call(bench.device, "alloc", .{ 8, false, &address }));
    // Nobody waits for ever, and what is given back is taken.
    var ticket: f64 = 0;
    var counts: [2]f64 = undefined;
    try expectEqual(0, call(bench.stream, "notify", .{&ticket}));
    try expectEqual(Status.cuda.code(), call(bench.stream, "query", .{&counts}));
    try expectEqual(counts[0], counts[1]);
    try std.testing.expect(counts[1] >= ticket);
    try bench.free(block);
    try expectEqual(Status.cuda.code(), call(bench.device, "failed", .{}));
    try expectEqual(0, call(bench.device, "close", .{}));
}

test "other errors leave the device alone" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    const kernel = try bench.kernel("attention", traits_of(.{}));
    for ([_]driver.Result{ 1, 701 }) |result| {
        stub.state.next = result;
        try expectEqual(Status.cuda.code(), bench.launch(kernel, 1));
    }
    stub.state.next = driver.out_of_memory;
    try expectEqual(Status.out_of_memory.code(), bench.launch(kernel, 1));
    try expectEqual(0, bench.launch(kernel, 1));
    try expectEqual(0, call(bench.device, "failed", .{}));
    try bench.close();
}

test "a handle that the context does not know is tried again with the context made current" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.next = 400;
    try expectEqual(0, bench.fill(bench.stream));
    try bench.close();
}

test "a broken capture is reported once more at its end, and the stream goes on" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    try expectEqual(0, call(bench.stream, "begin_capture", .{}));
    stub.state.next = 901;
    const capture = Status.capture.code();
    try expectEqual(capture, bench.fill(bench.stream));
    try expectEqual(false, stub.state.capturing);
    try expectEqual(capture, bench.fill(bench.stream));
    var graph: *handles.Graph = undefined;
    try expectEqual(capture, call(bench.stream, "end_capture", .{&graph}));
    try expect_sentence("the capture was broken: CUDA_ERROR_STUB (901)");
    try expectEqual(0, bench.fill(bench.stream));
    try bench.close();
}

test "memory freed while a stream is captured waits for the end of the capture" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.held = true;
    const block = try bench.alloc(4096);
    try expectEqual(0, bench.fill(bench.stream));
    try expectEqual(0, call(bench.stream, "begin_capture", .{}));
    try bench.free(block);
    stub.reach();
    try expectEqual(4096, try bench.used());
    var graph: *handles.Graph = undefined;
    try expectEqual(0, call(bench.stream, "end_capture", .{&graph}));
    try expectEqual(0, try bench.used());
    try bench.close();
}

test "a graph takes another over, in place or instantiated anew, and goes after its launches" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.held = true;
    var graphs: [2]*handles.Graph = undefined;
    for (&graphs) |*graph| {
        try expectEqual(0, call(bench.stream, "begin_capture", .{}));
        try expectEqual(0, bench.fill(bench.stream));
        try expectEqual(0, call(bench.stream, "end_capture", .{graph}));
    }
    try expectEqual(0, call_with(graphs[0], "launch", bench.stream, .{}));
    try expectEqual(0, call_with(graphs[0], "update", graphs[1], .{}));
    try expectEqual(2, stub.state.executables);
    try expectEqual(0, call(graphs[1], "free", .{}));
    // Its work is on the stream: the executable graph stays until then.
    try expectEqual(2, stub.state.executables);
    stub.reach();
    _ = try bench.used();
    try expectEqual(1, stub.state.executables);

    var third: *handles.Graph = undefined;
    try expectEqual(0, call(bench.stream, "begin_capture", .{}));
    try expectEqual(0, call(bench.stream, "end_capture", .{&third}));
    stub.state.update = 910;
    try expectEqual(0, call_with(graphs[0], "launch", bench.stream, .{}));
    try expectEqual(0, call_with(graphs[0], "update", third, .{}));
    try expectEqual(3, stub.state.executables);
    stub.reach();
    _ = try bench.used();
    try expectEqual(2, stub.state.executables);
    try bench.close();
}

test "an item takes a cluster, and a persistent kernel no more blocks than run at once" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    const plain = try bench.kernel("plain", traits_of(.{}));
    try expectEqual(0, bench.launch(plain, 1000));
    try expectEqual(1000, stub.state.grid);
    // 4 processors of 3 blocks.
    const persistent = try bench.kernel("persistent", traits_of(.{ .persistent = 1 }));
    try expectEqual(0, bench.launch(persistent, 1000));
    try expectEqual(12, stub.state.grid);
    try expectEqual(0, bench.launch(persistent, 7));
    try expectEqual(7, stub.state.grid);
    // 5 clusters of 2.
    const pairs = traits_of(.{ .persistent = 1, .cluster = 2 });
    const clustered = try bench.kernel("clustered", pairs);
    try expectEqual(0, bench.launch(clustered, 1000));
    try expectEqual(10, stub.state.grid);
    try expectEqual(0, bench.launch(clustered, 3));
    try expectEqual(6, stub.state.grid);
    const split = try bench.kernel("split", traits_of(.{ .cluster = 2 }));
    try expectEqual(0, bench.launch(split, 1000));
    try expectEqual(2000, stub.state.grid);
    try bench.close();
}

test "kernels that do not fit say why" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    var handle: u64 = 0;
    try expectEqual(0, call(bench.device, "load_module", .{ &image, &handle }));
    const module: *Module = @ptrFromInt(handle);
    var facts: params.struct_fb_kernel_facts = undefined;
    const cases = .{
        .{ "missing", traits_of(.{}), Status.not_found, "no kernel missing" },
        .{ "k", traits_of(.{ .threads = 512 }), Status.unsupported, "for 256 threads, not 512" },
        .{ "k", traits_of(.{ .shared_bytes = 200_000 }), Status.unsupported, "shared memory" },
        .{ "k", traits_of(.{ .cluster = 99 }), Status.invalid_argument, "cluster must be" },
        .{ "k", traits_of(.{ .threads = 0 }), Status.invalid_argument, "threads must be" },
    };
    inline for (cases) |case| {
        const traits = case[1];
        const status = module.find(case[0], &traits, &facts, &handle);
        try expectEqual(case[2].code(), status);
        try expect_sentence(case[3]);
    }
    try bench.close();
}

test "a module goes after the work that may run its kernels" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    stub.state.held = true;
    const kernel: *Kernel = @ptrFromInt(try bench.kernel("attention", traits_of(.{})));
    try expectEqual(0, bench.launch(@intFromPtr(kernel), 1));
    const owner: *Device = @alignCast(@fieldParentPtr("handle", bench.device));
    const module: *Module = @fieldParentPtr("node", owner.modules.first.?);
    try expectEqual(0, module.unload());
    try expectEqual(1, stub.state.libraries);
    stub.reach();
    _ = try bench.used();
    try expectEqual(0, stub.state.libraries);
    try bench.close();
}

test "tensor maps are encoded once and forgotten with their memory" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    const block = try bench.alloc(1 << 20);
    var spec = std.mem.zeroes(params.struct_fb_tensor_map_spec);
    spec.address = block + 4096;
    spec.rank = 2;
    spec.dtype = params.FB_BF16;
    spec.box = .{ 64, 64, 0, 0, 0 };
    spec.extents = .{ 128, 100, 0, 0, 0 };
    spec.strides[0] = 256;
    var map: params.struct_fb_tensor_map = undefined;
    for (0..3) |garbage| {
        spec.reserved[0] = @intCast(garbage);
        spec.extents[4] = garbage;
        try expectEqual(0, call(bench.device, "encode_tensor_map", .{ &spec, &map }));
    }
    try expectEqual(1, stub.state.encoded);
    try bench.free(block);
    try expectEqual(0, call(bench.device, "encode_tensor_map", .{ &spec, &map }));
    try expectEqual(2, stub.state.encoded);
    spec.dtype = 77;
    const status = call(bench.device, "encode_tensor_map", .{ &spec, &map });
    try expectEqual(Status.invalid_argument.code(), status);
    try bench.close();
}

test "the waiting thread writes a byte once a mark is reached" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    var said: params.struct_fb_device_properties = undefined;
    try expectEqual(0, call(bench.device, "properties", .{&said}));
    stub.state.held = true;
    try expectEqual(0, bench.fill(bench.stream));
    var ticket: f64 = 0;
    try expectEqual(0, call(bench.stream, "notify", .{&ticket}));
    var byte: [1]u8 = undefined;
    try expectEqual(-1, std.c.read(said.notify_fd, &byte, 1));
    stub.reach();
    const in = std.c.POLL.IN;
    var ready: [1]std.c.pollfd = .{.{ .fd = said.notify_fd, .events = in, .revents = 0 }};
    try expectEqual(1, std.c.poll(&ready, 1, 10_000));
    var counts: [2]f64 = undefined;
    try expectEqual(0, call(bench.stream, "query", .{&counts}));
    try std.testing.expect(counts[1] >= ticket);
    try bench.close();
}

test "handles of two devices do not mix" {
    var bench: Bench = undefined;
    try bench.open(1 << 30);
    var other: *handles.Device = undefined;
    try expectEqual(0, Device.open_on(&bench.library, 0, 1 << 20, &other));
    var event: *handles.Event = undefined;
    try expectEqual(0, call(other, "create_event", .{&event}));
    const status = call_with(event, "record", bench.stream, .{});
    try expectEqual(Status.invalid_argument.code(), status);
    try expectEqual(0, call(other, "close", .{}));
    try bench.close();
}
