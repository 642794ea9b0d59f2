//! What must outlive queued work: memory, graphs and modules that were given back are released
//! behind a fence.
//!
//! A fence holds one event of every stream that was busy. Fences are reached in their order, so
//! whatever waits behind a reached fence can be released. Everything here holds the device's mutex.
const std = @import("std");
const driver = @import("driver.zig");
const memory = @import("memory.zig");
const failure = @import("failure.zig");
const Device = @import("device.zig").Device;
const Stream = @import("stream.zig").Stream;
const Module = @import("module.zig").Module;

const allocator = std.heap.c_allocator;
const disable_timing = 2;

pub const Item = union(enum) {
    block: struct { kind: memory.Kind, address: usize, size: usize },
    graph: driver.GraphExec,
    module: *Module,
};

const Fence = struct {
    /// The device's count of submitted work when the fence was made; 0 for one that covers a single
    /// stream.
    work: u64,
    events: std.ArrayListUnmanaged(driver.Event) = .empty,
    items: std.ArrayListUnmanaged(Item) = .empty,
    following: ?*Fence = null,
};

pub const Queue = struct {
    first: ?*Fence = null,
    last: ?*Fence = null,
    /// Items without a fence yet: no event can be recorded on a stream that is being captured.
    held: std.ArrayListUnmanaged(Item) = .empty,
    spare_events: std.ArrayListUnmanaged(driver.Event) = .empty,

    /// Releases the item once all that is queued now is done.
    pub fn retire(queue: *Queue, device: *Device, item: Item) void {
        queue.held.append(allocator, item) catch {
            // Without memory to remember it, wait for it.
            device.wait_for_streams();
            return release(device, item);
        };
        queue.flush(device);
    }

    /// Puts held items behind a fence, or releases them when no stream is busy.
    pub fn flush(queue: *Queue, device: *Device) void {
        queue.collect(device);
        if (queue.held.items.len == 0 or device.captures > 0) return;
        const work = device.work.load(.acquire);
        const covered = if (queue.last) |last| last.work == work else false;
        if (!covered and !device.failure.happened()) {
            queue.add_fence(device, work) catch return;
        }
        const last = queue.last orelse {
            for (queue.held.items) |item| release(device, item);
            queue.held.clearRetainingCapacity();
            return;
        };
        last.items.appendSlice(allocator, queue.held.items) catch return;
        queue.held.clearRetainingCapacity();
    }

    /// A fence for a stream that goes away while it is busy.
    pub fn cover(queue: *Queue, device: *Device, stream: *Stream) !void {
        const fence = try create(0);
        errdefer queue.discard(fence);
        try queue.mark(device, fence, stream);
        queue.append(fence);
    }

    /// Releases what waits behind reached fences.
    pub fn collect(queue: *Queue, device: *Device) void {
        while (queue.first) |fence| {
            if (!queue.is_reached(device, fence)) return;
            queue.first = fence.following;
            if (queue.first == null) queue.last = null;
            for (fence.items.items) |item| release(device, item);
            destroy(fence);
        }
    }

    /// Blocks until all fences are reached, and releases what waits behind them.
    pub fn drain(queue: *Queue, device: *Device) void {
        var at = queue.first;
        while (at) |fence| : (at = fence.following) {
            for (fence.events.items) |event| {
                _ = failure.check(device, device.api.cuEventSynchronize(event));
            }
        }
        queue.flush(device);
    }

    /// Nothing may be queued any more.
    pub fn deinit(queue: *Queue, device: *Device) void {
        while (queue.first) |fence| {
            queue.first = fence.following;
            for (fence.items.items) |item| release(device, item);
            for (fence.events.items) |event| _ = device.api.cuEventDestroy(event);
            destroy(fence);
        }
        for (queue.held.items) |item| release(device, item);
        for (queue.spare_events.items) |event| _ = device.api.cuEventDestroy(event);
        queue.held.deinit(allocator);
        queue.spare_events.deinit(allocator);
    }

    /// A fence over all busy streams; none when none is busy.
    fn add_fence(queue: *Queue, device: *Device, work: u64) !void {
        const fence = try create(work);
        errdefer queue.discard(fence);
        var node = device.streams.first;
        while (node) |found| : (node = found.next) {
            const stream: *Stream = @fieldParentPtr("node", found);
            switch (stream.state()) {
                .idle => {},
                .busy => try queue.mark(device, fence, stream),
                .captured => return error.Captured,
            }
        }
        // Where no stream is busy, what was queued before is behind earlier fences.
        if (fence.events.items.len == 0) return queue.discard(fence);
        queue.append(fence);
    }

    fn append(queue: *Queue, fence: *Fence) void {
        if (queue.last) |last| last.following = fence else queue.first = fence;
        queue.last = fence;
    }

    fn discard(queue: *Queue, fence: *Fence) void {
        queue.spare_events.appendSlice(allocator, fence.events.items) catch {};
        destroy(fence);
    }

    fn mark(queue: *Queue, device: *Device, fence: *Fence, stream: *Stream) !void {
        try fence.events.ensureUnusedCapacity(allocator, 1);
        var event: driver.Event = undefined;
        if (queue.spare_events.pop()) |spare| {
            event = spare;
        } else if (failure.check(device, device.api.cuEventCreate(&event, disable_timing)) != 0) {
            return error.Driver;
        }
        fence.events.appendAssumeCapacity(event);
        if (failure.check(device, device.api.cuEventRecord(event, stream.native)) != 0) {
            return error.Driver;
        }
    }

    /// On a failed device everything is.
    fn is_reached(queue: *Queue, device: *Device, fence: *Fence) bool {
        while (fence.events.getLastOrNull()) |event| {
            const result = device.api.cuEventQuery(event);
            if (result == driver.not_ready) return false;
            if (failure.check(device, result) != 0 and !device.failure.happened()) return false;
            queue.spare_events.append(allocator, event) catch {
                _ = device.api.cuEventDestroy(event);
            };
            _ = fence.events.pop();
        }
        return true;
    }
};

fn create(work: u64) !*Fence {
    const fence = try allocator.create(Fence);
    fence.* = .{ .work = work };
    return fence;
}

fn destroy(fence: *Fence) void {
    fence.events.deinit(allocator);
    fence.items.deinit(allocator);
    allocator.destroy(fence);
}

fn release(device: *Device, item: Item) void {
    switch (item) {
        .block => |block| switch (block.kind) {
            .device => device.memory.give(block.address, block.size),
            .pinned => device.pinned.give(block.address, block.size),
        },
        .graph => |graph| _ = device.api.cuGraphExecDestroy(graph),
        .module => |module| module.destroy(),
    }
}
