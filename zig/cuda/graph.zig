//! Graphs of a CUDA device: what was captured, and its executable form.
const std = @import("std");
const driver = @import("driver.zig");
const failure = @import("failure.zig");
const handles = @import("../handle.zig");
const status_file = @import("../status.zig");
const Device = @import("device.zig").Device;
const Stream = @import("stream.zig").Stream;

const allocator = std.heap.c_allocator;
const update_failed = 910;

/// A recorded graph, shared by those that took it over.
const Template = struct {
    native: driver.Graph,
    references: u32 = 1,

    fn drop(template: *Template, device: *Device) void {
        template.references -= 1;
        if (template.references > 0) return;
        _ = device.api.cuGraphDestroy(template.native);
        allocator.destroy(template);
    }
};

pub const Graph = struct {
    handle: handles.Graph = .{ .backend = .cuda },
    device: *Device,
    template: *Template,
    executable: driver.GraphExec,
    node: std.DoublyLinkedList.Node = .{},

    pub fn launch(graph: *Graph, stream: *Stream) i32 {
        if (stream.refuses(.uncapturable)) |status| return status;
        const device = graph.device;
        const result = device.call("cuGraphLaunch", .{ graph.executable, stream.native });
        const status = stream.submitted(result);
        if (status == 0) device.last_launched.store("a graph", .monotonic);
        return status;
    }

    /// Later launches run what `source` recorded; those queued already run what they were queued
    /// with.
    pub fn update(graph: *Graph, source: *Graph) i32 {
        const device = graph.device;
        if (device.failure.happened()) return failure.status(device);
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        if (graph.template == source.template) return 0;
        const recorded = source.template.native;
        var info: driver.UpdateInfo = .{};
        const result = device.api.cuGraphExecUpdate(graph.executable, recorded, &info);
        if (result == update_failed) {
            var fresh: driver.GraphExec = undefined;
            const made = device.api.cuGraphInstantiateWithFlags(&fresh, recorded, 0);
            if (made != driver.success) return failure.check(device, made);
            device.retired.retire(device, .{ .graph = graph.executable });
            graph.executable = fresh;
        } else if (result != driver.success) {
            return failure.check(device, result);
        }
        source.template.references += 1;
        graph.template.drop(device);
        graph.template = source.template;
        return 0;
    }

    /// Launches that are queued run to their end.
    pub fn free(graph: *Graph) i32 {
        const device = graph.device;
        device.mutex.lock();
        defer device.mutex.unlock();
        device.make_current();
        device.graphs.remove(&graph.node);
        device.retired.retire(device, .{ .graph = graph.executable });
        graph.template.drop(device);
        allocator.destroy(graph);
        return 0;
    }
};

/// Takes the recorded graph over. Holds the device's mutex.
pub fn create(device: *Device, recorded: driver.Graph, out: **handles.Graph) i32 {
    var executable: driver.GraphExec = undefined;
    const result = device.api.cuGraphInstantiateWithFlags(&executable, recorded, 0);
    if (result != driver.success) {
        _ = device.api.cuGraphDestroy(recorded);
        return failure.check(device, result);
    }
    const graph = allocator.create(Graph) catch return forget(device, recorded, executable);
    const template = allocator.create(Template) catch {
        allocator.destroy(graph);
        return forget(device, recorded, executable);
    };
    template.* = .{ .native = recorded };
    graph.* = .{ .device = device, .template = template, .executable = executable };
    device.graphs.append(&graph.node);
    out.* = &graph.handle;
    return 0;
}

fn forget(device: *Device, recorded: driver.Graph, executable: driver.GraphExec) i32 {
    _ = device.api.cuGraphExecDestroy(executable);
    _ = device.api.cuGraphDestroy(recorded);
    return status_file.out_of_host_memory();
}
