//! Graphs of the CPU device: recorded operations, shared by a graph and its queued launches.
const std = @import("std");
const handles = @import("../../handle.zig");
const Device = @import("device.zig").Device;
const stream_file = @import("stream.zig");
const Operation = stream_file.Operation;
const Stream = stream_file.Stream;

const allocator = std.heap.c_allocator;

pub const Recording = struct {
    first: ?*Operation = null,
    last: ?*Operation = null,
    references: u32 = 1,

    pub fn append(recording: *Recording, operation: *Operation) void {
        operation.following = null;
        if (recording.last) |last| last.following = operation else recording.first = operation;
        recording.last = operation;
    }

    /// Holds the mutex.
    pub fn drop(recording: *Recording) void {
        recording.references -= 1;
        if (recording.references > 0) return;
        var at = recording.first;
        while (at) |operation| {
            at = operation.following;
            allocator.destroy(operation);
        }
        allocator.destroy(recording);
    }
};

pub const Graph = struct {
    handle: handles.Graph = .{ .backend = .cpu },
    device: *Device,
    recording: *Recording,

    pub fn launch(graph: *Graph, stream: *Stream) i32 {
        return stream.enqueue(.{ .graph = graph.recording });
    }

    /// Later launches run what `source` recorded; those queued already run what they were queued
    /// with.
    pub fn update(graph: *Graph, source: *Graph) i32 {
        graph.device.pool.mutex.lock();
        defer graph.device.pool.mutex.unlock();
        source.recording.references += 1;
        graph.recording.drop();
        graph.recording = source.recording;
        return 0;
    }

    pub fn free(graph: *Graph) i32 {
        const device = graph.device;
        device.pool.mutex.lock();
        defer device.pool.mutex.unlock();
        graph.recording.drop();
        allocator.destroy(graph);
        return 0;
    }
};
