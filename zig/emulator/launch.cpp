// Grids over the host's cores.
#include "launch.h"

#include <signal.h>

#include <algorithm>
#include <condition_variable>
#include <thread>

namespace emu {

void Launch::fail(int why, const std::string& text) {
    std::lock_guard<std::mutex> lock(mutex);
    if (failed) return;
    code = why;
    failure = text;
    failed = true;
}

static Runner* runner_of_this_thread() {
    static thread_local Runner* runner = nullptr;
    if (runner == nullptr) {
        adopt_host_thread();
        runner = new Runner();
    }
    return runner;
}

static void work_on(Launch& launch) {
    Runner* runner = runner_of_this_thread();
    runner->launch = &launch;
    ++launch.runners;
    run_groups(runner);
    --launch.runners;
    launch.idle_changed = now_seconds();
}

namespace {

// Threads that help the device's own with its grids.
class Helpers {
  public:
    explicit Helpers(unsigned count) : count_(count) {
        for (unsigned i = 0; i < count; ++i) std::thread([this] { serve(); }).detach();
    }

    // Returns when no thread uses the launch any more.
    void run(Launch& launch) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            launch_ = &launch;
            ++turn_;
            busy_ = count_;
        }
        work_.notify_all();
        work_on(launch);
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
    }

  private:
    void serve() {
        uint64_t seen = 0;
        for (;;) {
            Launch* launch;
            {
                std::unique_lock<std::mutex> lock(mutex_);
                work_.wait(lock, [&] { return turn_ != seen; });
                seen = turn_;
                launch = launch_;
            }
            work_on(*launch);
            std::lock_guard<std::mutex> lock(mutex_);
            if (--busy_ == 0) done_.notify_one();
        }
    }

    const unsigned count_;
    std::mutex mutex_;
    std::condition_variable work_, done_;
    Launch* launch_ = nullptr;
    uint64_t turn_ = 0;
    unsigned busy_ = 0;
};

} // namespace

static unsigned helper_count() {
    if (race::watched()) return 0; // one runner, so that the order is the schedule's alone
    const unsigned wanted =
        options().threads ? options().threads : std::thread::hardware_concurrency();
    return wanted > 1 ? wanted - 1 : 0;
}

// Groups in the order in which they start, where it is not their own.
static std::vector<uint32_t> group_order(uint64_t count) {
    std::vector<uint32_t> order;
    if (options().order == Order::fifo || count > 1u << 24) return order;
    for (uint64_t i = 0; i < count; ++i) order.push_back(uint32_t(count - 1 - i));
    if (options().order == Order::greedy) return order;
    uint64_t state = options().seed * 0x9E3779B97F4A7C15ull + count;
    for (uint64_t i = count; i > 1; --i) {
        state = state * 6364136223846793005ull + 1442695040888963407ull;
        std::swap(order[i - 1], order[(state >> 33) % i]);
    }
    return order;
}

int run_launch(const LaunchShape& shape, void* parameters, uint64_t resident_max,
               std::string& failure) {
    static Helpers* helpers = new Helpers(helper_count());
    static std::mutex one_at_a_time;
    std::lock_guard<std::mutex> lock(one_at_a_time);
    Launch launch;
    launch.shape = shape;
    launch.parameters = parameters;
    launch.groups = uint64_t(shape.grid.x) * shape.grid.y * shape.grid.z / shape.cluster;
    launch.resident_max = std::max<uint64_t>(resident_max, shape.cluster);
    launch.order = group_order(launch.groups);
    if (launch.groups == 1)
        work_on(launch);
    else
        helpers->run(launch);
    failure = launch.failure;
    return launch.code;
}

} // namespace emu
