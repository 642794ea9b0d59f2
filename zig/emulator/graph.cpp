// What an operation does, alone and as part of a graph.
#include <algorithm>
#include <cstdio>

#include "driver.h"

namespace emu {

uint32_t resident_blocks(uint32_t threads, size_t shared_bytes) {
    const Capability& has = capability();
    if (threads == 0 || threads > 1024 || shared_bytes > has.shared_per_block()) return 0;
    const uint32_t shared = (uint32_t(shared_bytes) + has.shared_reserved + 127) / 128 * 128;
    const uint32_t by_shared = shared == 0 ? ~0u : has.shared_per_processor / shared;
    const uint32_t by_threads = has.threads_per_processor / ((threads + 31) / 32 * 32);
    return std::min({has.blocks_per_processor, by_threads, by_shared});
}

static Result run_kernel(const Operation& operation, std::string& failure) {
    install_fault_handler();
    const LaunchShape& shape = operation.shape;
    const uint32_t threads = shape.threads.x * shape.threads.y * shape.threads.z;
    const uint64_t resident =
        uint64_t(resident_blocks(threads, shape.shared_bytes)) * options().processors;
    int code = run_launch(shape, operation.parameters->data, resident, failure);
    if (code == 0 && !ends_untouched(failure)) code = illegal_address;
    if (code == 0) return success;
    failure = operation.function->name + ": " + failure;
    if (options().verbose) fprintf(stderr, "emulator: %s\n", failure.c_str());
    return Result(code);
}

// Nodes in any order that their edges allow.
static Result run_graph(const ExecutableGraph& graph, std::string& failure) {
    std::vector<bool> done(graph.nodes.size());
    uint64_t state = options().seed;
    for (size_t count = 0; count < graph.nodes.size(); ++count) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < graph.nodes.size(); ++i) {
            const auto& after = graph.nodes[i].after;
            if (!done[i] &&
                std::all_of(after.begin(), after.end(), [&](uint32_t n) { return done[n]; }))
                ready.push_back(i);
        }
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        const size_t next = options().order == Order::fifo ? ready.front()
                            : options().order == Order::greedy
                                ? ready.back()
                                : ready[(state >> 33) % ready.size()];
        const Result result = run_operation(graph.nodes[next].operation, failure);
        if (result != success) return result;
        done[next] = true;
    }
    return success;
}

Result run_operation(const Operation& operation, std::string& failure) {
    switch (operation.kind) {
    case Operation::Kind::kernel:
        return run_kernel(operation, failure);
    case Operation::Kind::copy:
        memmove(operation.target, operation.kept ? operation.kept->data() : operation.source,
                operation.bytes);
        return success;
    case Operation::Kind::fill:
        memset(operation.target, operation.value, operation.bytes);
        return success;
    case Operation::Kind::host:
        operation.host(operation.argument);
        return success;
    case Operation::Kind::graph:
        return run_graph(*operation.graph, failure);
    case Operation::Kind::none:
    case Operation::Kind::record:
    case Operation::Kind::wait:
        return success;
    }
    return success;
}

} // namespace emu
