// Captures and graphs.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "api.h"

namespace emu {

static Result cuStreamBeginCapture(void* handle, int mode) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    if (stream == &call.device->null_stream) return capture_unsupported;
    if (stream->capture) return invalid_value;
    auto capture = std::make_shared<Capture>();
    capture->graph = std::make_shared<Graph>();
    capture->mode = mode;
    capture->thread = uint64_t(syscall(SYS_gettid));
    driver().captures.push_back(capture);
    stream->capture = std::move(capture);
    stream->origin = true;
    stream->after.clear();
    return success;
}

// Whether work was captured that the origin stream never waited for.
static bool has_unjoined(const Graph& graph, const std::vector<uint32_t>& last) {
    std::vector<bool> followed(graph.nodes.size());
    for (const GraphNode& node : graph.nodes)
        for (uint32_t before : node.after) followed[before] = true;
    for (uint32_t node : last) followed[node] = true;
    return std::find(followed.begin(), followed.end(), false) != followed.end();
}

static Result cuStreamEndCapture(void* handle, Graph** out) {
    Call call;
    if (call.error) return call.error;
    *out = nullptr;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    const std::shared_ptr<Capture> capture = stream->capture;
    if (!capture) return invalid_value;
    if (!stream->origin) {
        capture->invalid = true;
        return capture_unmatched;
    }
    const bool unjoined = has_unjoined(*capture->graph, stream->after);
    for (Device* device : driver().devices)
        for (Stream* other : device->streams)
            if (other->capture == capture) other->capture = nullptr;
    if (capture->invalid) return capture_invalidated;
    if (unjoined) return capture_unjoined;
    *out = new Graph(*capture->graph);
    return success;
}

static Result cuStreamIsCapturing(void* handle, int* status) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, handle);
    if (stream == nullptr) return invalid_handle;
    *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    return success;
}

static Result cuGraphDestroy(Graph* graph) {
    delete graph;
    return success;
}

// The handle; a launch under way keeps the nodes it began with.
struct GraphHandle {
    std::shared_ptr<ExecutableGraph> graph;
};

static Result cuGraphInstantiateWithFlags(GraphHandle** out, const Graph* graph, uint64_t) {
    Call call;
    if (call.error) return call.error;
    *out = new GraphHandle{std::make_shared<ExecutableGraph>(ExecutableGraph{graph->nodes})};
    return success;
}

static Result cuGraphExecDestroy(GraphHandle* handle) {
    std::lock_guard<std::mutex> lock(driver().mutex);
    delete handle;
    return success;
}

static Result cuGraphLaunch(GraphHandle* handle, void* stream_handle) {
    Call call;
    if (call.error) return call.error;
    Stream* stream = stream_of(call, stream_handle);
    if (stream == nullptr) return invalid_handle;
    if (stream->capture) return not_supported; // a graph as a node of another
    Operation operation(Operation::Kind::graph);
    operation.graph = handle->graph;
    return enqueue(stream, std::move(operation));
}

namespace {
struct UpdateInfo {
    int result;
    void *node, *from;
};
enum : int { topology_changed = 2, node_type_changed = 3, attributes_changed = 8 };
} // namespace

static int difference(const std::vector<GraphNode>& was, const std::vector<GraphNode>& now) {
    if (was.size() != now.size()) return topology_changed;
    for (size_t i = 0; i < was.size(); ++i) {
        const Operation &a = was[i].operation, &b = now[i].operation;
        if (was[i].after != now[i].after) return topology_changed;
        if (a.kind != b.kind) return node_type_changed;
        if (a.shape.cluster != b.shape.cluster || a.shape.programmatic != b.shape.programmatic)
            return attributes_changed;
    }
    return 0;
}

static Result cuGraphExecUpdate(GraphHandle* handle, const Graph* graph, UpdateInfo* info) {
    Call call;
    if (call.error) return call.error;
    *info = {difference(handle->graph->nodes, graph->nodes), nullptr, nullptr};
    if (info->result) return graph_update_failure;
    handle->graph = std::make_shared<ExecutableGraph>(ExecutableGraph{graph->nodes});
    return success;
}

const Entry graph_entries[] = {EMU_ENTRY(cuStreamBeginCapture),
                               EMU_ENTRY(cuStreamEndCapture),
                               EMU_ENTRY(cuStreamIsCapturing),
                               EMU_ENTRY(cuGraphDestroy),
                               EMU_ENTRY(cuGraphInstantiateWithFlags),
                               EMU_ENTRY(cuGraphExecDestroy),
                               EMU_ENTRY(cuGraphLaunch),
                               EMU_ENTRY(cuGraphExecUpdate),
                               {nullptr, nullptr}};

} // namespace emu
