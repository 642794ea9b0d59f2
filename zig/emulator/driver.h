// The driver's half of the emulated GPU: devices, memory, streams, events, graphs and images, as
// far as zig/cuda uses them. One lock guards it all; a worker for each device runs its streams'
// operations without it.
#pragma once
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "launch.h"

namespace emu {

// CUresult's values.
enum Result : int {
    success = 0,
    invalid_value = 1,
    out_of_memory = 2,
    not_initialized = 3,
    no_device = 100,
    invalid_device = 101,
    invalid_image = 200,
    invalid_context = 201,
    no_binary_for_gpu = 209,
    invalid_handle = 400,
    not_found = 500,
    not_ready = 600,
    launch_out_of_resources = 701,
    not_supported = 801,
    capture_unsupported = 900,
    capture_invalidated = 901,
    capture_unmatched = 903,
    capture_unjoined = 904,
    capture_isolation = 905,
    captured_event = 907,
    graph_update_failure = 910,
    invalid_cluster_size = 912,
};

// What GPUs of a compute capability have: H100, A100, T4.
struct Capability {
    uint32_t shared_per_processor, shared_reserved, threads_per_processor, blocks_per_processor;

    uint32_t shared_per_block() const { return shared_per_processor - shared_reserved; }
};

inline const Capability& capability() {
    static constexpr Capability hopper = {228 << 10, 1 << 10, 2048, 32};
    static constexpr Capability ampere = {164 << 10, 1 << 10, 2048, 32};
    static constexpr Capability turing = {64 << 10, 0, 1024, 16};
    const int compute = options().compute;
    return compute == 75 ? turing : compute == 80 ? ampere : hopper;
}

constexpr uint32_t registers_per_processor = 65536, shared_without_opt_in = 48 << 10;

struct ExecutableGraph;
struct Graph;
struct Library;

struct Function {
    const Kernel* kernel;
    Library* library;
    std::string name;
    uint32_t shared_max = shared_without_opt_in;
    uint32_t cluster_max = 8;
};

// The one parameter of a kernel, aligned as a tensor map inside wants it.
struct Parameters {
    explicit Parameters(const void* from, size_t bytes);
    ~Parameters();
    Parameters(const Parameters&) = delete;
    Parameters& operator=(const Parameters&) = delete;
    void* data;
};

struct EventState {
    uint64_t recorded = 0, done = 0, nanoseconds = 0;
    bool timed = true;
    // Where a capture recorded it.
    Graph* capture = nullptr;
    std::vector<uint32_t> capture_after;
};

struct Operation {
    enum class Kind { none, kernel, copy, fill, host, record, wait, graph } kind;
    explicit Operation(Kind kind = Kind::none) : kind(kind) {}
    uint64_t number = 0; // in the order of issue
    // kernel
    LaunchShape shape = {};
    Function* function = nullptr;
    std::shared_ptr<Parameters> parameters;
    // copy, fill
    void* target = nullptr;
    const void* source = nullptr;
    size_t bytes = 0;
    uint8_t value = 0;
    std::shared_ptr<std::vector<uint8_t>> kept; // a pageable source as it was
    // host
    void (*host)(void*) = nullptr;
    void* argument = nullptr;
    // record, wait
    std::shared_ptr<EventState> event;
    uint64_t generation = 0;
    // graph
    std::shared_ptr<ExecutableGraph> graph;
};

struct GraphNode {
    Operation operation;
    std::vector<uint32_t> after;
};
struct Graph {
    std::vector<GraphNode> nodes;
};
struct ExecutableGraph {
    std::vector<GraphNode> nodes;
};

struct Device;

struct Capture {
    std::shared_ptr<Graph> graph;
    int mode;
    uint64_t thread;
    bool invalid = false;
};

struct Stream {
    Device* device;
    std::deque<Operation> queue;
    bool running = false;
    bool leaving = false; // destroyed by its owner
    std::shared_ptr<Capture> capture;
    bool origin = false; // of the capture
    std::vector<uint32_t> after;
};

struct Device {
    int ordinal = 0;
    int retained = 0; // its primary context
    bool working = false;
    Result error = success; // sticky
    std::string failure;
    std::vector<Stream*> streams;
    Stream null_stream;
};

struct Driver {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Device*> devices;
    uint64_t operations = 0;
    bool initialized = false;
    std::string last_failure;
    std::vector<std::weak_ptr<Capture>> captures;
};
Driver& driver();

// --- stream.cpp: with the driver's lock held

Result enqueue(Stream* stream, Operation operation); // or into the stream's capture
void wait_until(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done);
bool drained(const Stream* stream);
void forget_if_gone(Stream*); // a destroyed stream that is done
// Refuses what could break a capture under way, and breaks the capture, as the driver does.
Result check_captures();

// --- graph.cpp

Result run_operation(const Operation& operation, std::string& failure);
// How many blocks per multiprocessor threads and shared memory allow; the registers are not known.
uint32_t resident_blocks(uint32_t threads, size_t shared_bytes);

// --- memory.cpp: with a lock of its own

enum class Memory { pageable, pinned, device };
struct Range {
    Memory memory;
    int device;
    uint8_t* start;
    size_t bytes;
};
void* allocate_device(int device, size_t bytes, Result& result);
Result free_device(void* p);
void* allocate_pinned(size_t bytes);
Result free_pinned(void* p);
Range range_of(const void* p);
void free_all(int device);
size_t bytes_in_use(int device);
// Whether the bytes after the ends of allocations are unchanged; changed ones are reported and
// repaired.
bool ends_untouched(std::string& failure);

// --- library.cpp

Library* load_library(const void* image, Result& result);
void unload_library(Library* library);
Function* find_function(Library* library, const char* name);

} // namespace emu
