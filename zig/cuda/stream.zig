//! Streams of a CUDA device. Work goes to the driver at once; counts say what is queued and what is
//! done.
const std = @import("std");
const driver = @import("driver.zig");
const failure = @import("failure.zig");
const graph_file = @import("graph.zig");
const handles = @import("../handle.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Kernel = @import("module.zig").Kernel;
const fail = status_file.fail;

const allocator = std.heap.c_allocator;

/// Allocations and queries of events by the capturing thread must not break the capture.
const capture_relaxed = 2;

/// Does not wait for the legacy default stream.
pub const non_blocking = 1;

const Capture = enum { none, recording, broken };

pub const Stream = struct {
    handle: handles.Stream = .{ .backend = .cuda },
    device: *Device,
    native: driver.Stream,
    /// Not so for a stream of another library.
    owned: bool,
    /// Tickets of the device's count of work: the last that was queued here, the last known to be
    /// done.
    enqueued: std.atomic.Value(u64) = .init(0),
    completed: std.atomic.Value(u64) = .init(0),
    /// The handle and every mark that the waiting thread looks at.
    references: std.atomic.Value(u32) = .init(1),
    capture: Capture = .none,
    /// What broke the capture.
    broken_by: driver.Result = 0,
    node: std.DoublyLinkedList.Node = .{},

    /// Frees the handle; queued work runs to its end.
    pub fn destroy(stream: *Stream) i32 {
        const device = stream.device;
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        stream.abandon_capture();
        if (stream.state() == .busy) {
            device.retired.cover(device, stream) catch {
                _ = device.api.cuStreamSynchronize(stream.native);
            };
        }
        device.streams.remove(&stream.node);
        // The driver gives the stream's resources back when its work is done.
        if (stream.owned) _ = device.api.cuStreamDestroy(stream.native);
        device.retired.flush(device);
        stream.drop();
        return 0;
    }

    pub fn drop(stream: *Stream) void {
        if (stream.references.fetchSub(1, .acq_rel) == 1) allocator.destroy(stream);
    }

    /// Blocks until all that is queued now is done; returns the device's failure.
    pub fn wait(stream: *Stream) i32 {
        const device = stream.device;
        if (device.failure.happened()) return failure.status(device);
        if (stream.capture != .none) return status_file.captures();
        const enqueued = stream.enqueued.load(.acquire);
        const status = failure.check(device, device.call("cuStreamSynchronize", .{stream.native}));
        if (status == 0) stream.complete(enqueued);
        return status;
    }

    /// Tickets queued and done; equal when the stream is idle.
    pub fn query(stream: *Stream, out: *[2]f64) i32 {
        stream.device.ensure_current();
        _ = stream.state();
        const enqueued = stream.enqueued.load(.acquire);
        // Nothing of a failed device is waited for.
        if (stream.device.failure.happened()) stream.complete(enqueued);
        out.* = .{ @floatFromInt(enqueued), @floatFromInt(stream.completed.load(.acquire)) };
        return failure.status(stream.device);
    }

    /// One byte on the device's pipe behind all that is queued now, at once on a failed device.
    pub fn notify(stream: *Stream, ticket: *f64) i32 {
        const device = stream.device;
        if (stream.capture != .none) return status_file.captures();
        if (!device.failure.happened()) {
            device.ensure_current();
            const status = device.waiter.mark(stream);
            ticket.* = @floatFromInt(stream.enqueued.load(.acquire));
            if (status == 0 or !device.failure.happened()) return status;
        }
        ticket.* = @floatFromInt(stream.enqueued.load(.acquire));
        stream.complete(stream.enqueued.load(.acquire));
        device.ring();
        return 0;
    }

    pub fn copy(stream: *Stream, target: u64, source: u64, bytes: u64) i32 {
        if (stream.refuses(.capturable)) |status| return status;
        const arguments = .{ target, source, bytes, stream.native };
        return stream.submitted(stream.device.call("cuMemcpyAsync", arguments));
    }

    pub fn fill(stream: *Stream, target: u64, byte: u8, bytes: u64) i32 {
        if (stream.refuses(.capturable)) |status| return status;
        const arguments = .{ target, byte, bytes, stream.native };
        return stream.submitted(stream.device.call("cuMemsetD8Async", arguments));
    }

    /// Queues the kernel over `grid` items; the driver copies the parameters.
    pub fn launch(
        stream: *Stream,
        kernel: *const anyopaque,
        parameters: [*]const u8,
        bytes: usize,
        grid: u32,
    ) i32 {
        const launched: *const Kernel = @ptrCast(@alignCast(kernel));
        const device = stream.device;
        if (launched.device != device) {
            return fail(.invalid_argument, "the kernel is of another device", .{});
        }
        if (bytes != launched.params_bytes) {
            return status_file.wrong_params(launched.name, launched.params_bytes, bytes);
        }
        if (stream.refuses(.capturable)) |status| return status;
        const config = launched.config(launched.blocks(grid), stream.native);
        const arguments = [1]*const anyopaque{parameters};
        const function = launched.function;
        const result = device.call("cuLaunchKernelEx", .{ &config, function, &arguments, null });
        const status = stream.submitted(result);
        if (status == 0) device.last_launched.store(launched.name.ptr, .monotonic);
        return status;
    }

    /// From here on launches, copies and fills of the stream are recorded and do not run.
    pub fn begin_capture(stream: *Stream) i32 {
        const device = stream.device;
        if (device.failure.happened()) return failure.status(device);
        if (stream.capture != .none) return fail(.capture, "the stream captures already", .{});
        device.mutex.lock();
        defer device.mutex.unlock();
        const arguments = .{ stream.native, capture_relaxed };
        const result = device.call("cuStreamBeginCapture", arguments);
        if (result != driver.success) return failure.check(device, result);
        device.captures += 1;
        stream.capture = .recording;
        return 0;
    }

    pub fn end_capture(stream: *Stream, out: **handles.Graph) i32 {
        const device = stream.device;
        if (stream.capture == .none) return fail(.capture, "the stream does not capture", .{});
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        const template = stream.finish_capture() orelse return stream.broken_status();
        return graph_file.create(device, template, out);
    }

    /// Ends the capture in any state; the recorded graph, or null when the capture broke. Holds the
    /// mutex.
    fn finish_capture(stream: *Stream) ?driver.Graph {
        const device = stream.device;
        var recorded: ?driver.Graph = null;
        if (stream.capture == .recording) {
            stream.broken_by = device.api.cuStreamEndCapture(stream.native, &recorded);
        }
        stream.capture = .none;
        device.captures -= 1;
        device.retired.flush(device);
        if (stream.broken_by == driver.success) return recorded;
        if (recorded) |graph| _ = device.api.cuGraphDestroy(graph);
        return null;
    }

    pub fn abandon_capture(stream: *Stream) void {
        if (stream.capture == .none) return;
        if (stream.finish_capture()) |graph| _ = stream.device.api.cuGraphDestroy(graph);
    }

    fn broken_status(stream: *Stream) i32 {
        const device = stream.device;
        if (device.failure.happened()) return failure.status(device);
        var buffer: driver.Sentence = undefined;
        const cause = driver.describe(device.api, stream.broken_by, &buffer);
        const status = fail(.capture, "the capture was broken: {s}", .{cause});
        return driver.caused(device.api, stream.broken_by, status);
    }

    /// The status that keeps work from being queued, if any.
    pub fn refuses(stream: *Stream, what: enum { capturable, uncapturable }) ?i32 {
        const device = stream.device;
        if (device.failure.happened()) return failure.status(device);
        return switch (stream.capture) {
            .none => null,
            .recording => if (what == .capturable) null else status_file.not_capturable(),
            .broken => stream.broken_status(),
        };
    }

    /// Counts what the driver took; a refusal that breaks a capture ends it for the driver.
    pub fn submitted(stream: *Stream, result: driver.Result) i32 {
        if (result == driver.success) {
            if (stream.capture == .none) _ = stream.count();
            return 0;
        }
        const status = failure.check(stream.device, result);
        if (stream.capture == .recording and status == status_file.Status.capture.code()) {
            var recorded: ?driver.Graph = null;
            _ = stream.device.api.cuStreamEndCapture(stream.native, &recorded);
            if (recorded) |graph| _ = stream.device.api.cuGraphDestroy(graph);
            stream.capture = .broken;
            stream.broken_by = result;
        }
        return status;
    }

    /// The ticket of what was just submitted.
    pub fn count(stream: *Stream) u64 {
        const ticket = stream.device.work.fetchAdd(1, .acq_rel) + 1;
        _ = stream.enqueued.fetchMax(ticket, .acq_rel);
        return ticket;
    }

    pub fn complete(stream: *Stream, ticket: u64) void {
        _ = stream.completed.fetchMax(ticket, .acq_rel);
    }

    /// Asks the driver where the counts do not say. `captured`: asking is not allowed, work may be
    /// pending.
    pub fn state(stream: *Stream) enum { idle, busy, captured } {
        const enqueued = stream.enqueued.load(.acquire);
        if (enqueued == stream.completed.load(.acquire)) return .idle;
        const device = stream.device;
        if (device.failure.happened()) return .idle;
        if (stream.capture != .none or stream.is_captured_elsewhere()) return .captured;
        const result = device.api.cuStreamQuery(stream.native);
        if (result == driver.not_ready) return .busy;
        if (failure.check(device, result) != 0) {
            return if (device.failure.happened()) .idle else .busy;
        }
        stream.complete(enqueued);
        return .idle;
    }

    /// The owner of a foreign stream may be capturing it: a query would break its capture.
    fn is_captured_elsewhere(stream: *Stream) bool {
        if (stream.owned) return false;
        var status: c_int = 0;
        const result = stream.device.api.cuStreamIsCapturing(stream.native, &status);
        return result != driver.success or status != 0;
    }
};
