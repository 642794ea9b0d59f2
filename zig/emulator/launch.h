// One grid that runs on the host's cores.
#pragma once
#include <atomic>
#include <mutex>
#include <string>

#include "runtime.h"

namespace emu {

struct LaunchShape {
    const Kernel* kernel;
    dim3 grid, threads;
    uint32_t shared_bytes, cluster;
    bool programmatic;
};

// Runs a grid to its end. Returns 0 or a CUresult with the failure's sentence. `resident_max`: as
// many blocks may rely on each other.
int run_launch(const LaunchShape& shape, void* parameters, uint64_t resident_max,
               std::string& failure);

struct Launch {
    LaunchShape shape;
    void* parameters;
    uint64_t groups, resident_max;
    std::atomic<uint64_t> next{0}, resident{0};
    std::vector<uint32_t> order; // of the groups, where it is not their own
    std::atomic<int> runners{0}, idle{0};
    std::atomic<double> idle_changed{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    int code = 0;
    std::string failure;

    void fail(int code, const std::string& text);
};

} // namespace emu
