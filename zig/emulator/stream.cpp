// Streams: who may run, and the worker that runs it.
#include <signal.h>
#include <unistd.h>
#include <sys/syscall.h>

#include <thread>

#include "driver.h"

namespace emu {

Driver& driver() {
    static Driver* only = new Driver(); // never destroyed: workers outlive main
    return *only;
}

Parameters::Parameters(const void* from, size_t bytes)
    : data(aligned_alloc(64, (bytes + 63) / 64 * 64)) {
    memcpy(data, from, bytes);
}
Parameters::~Parameters() { free(data); }

bool drained(const Stream* stream) { return stream->queue.empty() && !stream->running; }

void forget_if_gone(Stream* stream) {
    if (!stream->leaving || !drained(stream)) return;
    std::erase(stream->device->streams, stream);
    delete stream;
}

void wait_until(std::unique_lock<std::mutex>& lock, const std::function<bool()>& done) {
    driver().changed.wait(lock, done);
}

static bool may_run(const Stream& stream) {
    if (stream.queue.empty() || stream.running) return false;
    const Operation& next = stream.queue.front();
    return next.kind != Operation::Kind::wait || next.event->done >= next.generation;
}

// Streams promise no order among each other, so the schedule picks one.
static Stream* choose(Device* device, uint64_t& random_state) {
    std::vector<Stream*> ready;
    for (Stream* stream : device->streams)
        if (may_run(*stream)) ready.push_back(stream);
    if (ready.empty()) return nullptr;
    if (options().order == Order::random) {
        random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
        return ready[(random_state >> 33) % ready.size()];
    }
    Stream* best = ready[0];
    for (Stream* stream : ready) {
        const bool earlier = stream->queue.front().number < best->queue.front().number;
        if (earlier == (options().order == Order::fifo)) best = stream;
    }
    return best;
}

static void work(Device* device) {
    Driver& d = driver();
    uint64_t random_state = options().seed;
    std::unique_lock<std::mutex> lock(d.mutex);
    for (;;) {
        Stream* stream = nullptr;
        d.changed.wait(lock, [&] { return (stream = choose(device, random_state)) != nullptr; });
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        stream->running = true;
        const bool lost = device->error != success;
        lock.unlock();
        std::string failure;
        const Result result = lost ? success : run_operation(operation, failure);
        // Before the lock: what the operation holds may be the last of its kind.
        const std::shared_ptr<EventState> event = operation.event;
        const bool records = operation.kind == Operation::Kind::record;
        const uint64_t generation = operation.generation;
        operation = Operation();
        lock.lock();
        if (records && event->done < generation) {
            event->done = generation;
            event->nanoseconds = global_timer();
        }
        if (result != success && device->error == success) {
            device->error = result;
            device->failure = failure;
            d.last_failure = failure;
        }
        stream->running = false;
        forget_if_gone(stream);
        d.changed.notify_all();
    }
}

static void start_worker(Device* device) {
    if (device->working) return;
    device->working = true;
    // Signals meant for the process are not this library's business.
    sigset_t all, before;
    sigfillset(&all);
    for (int fault : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP}) sigdelset(&all, fault);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    std::thread([device] { work(device); }).detach();
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

Result enqueue(Stream* stream, Operation operation) {
    if (stream->capture) {
        if (stream->capture->invalid) return capture_invalidated;
        auto& nodes = stream->capture->graph->nodes;
        nodes.push_back({std::move(operation), stream->after});
        stream->after = {uint32_t(nodes.size() - 1)};
        return success;
    }
    Driver& d = driver();
    operation.number = d.operations++;
    stream->queue.push_back(std::move(operation));
    start_worker(stream->device);
    d.changed.notify_all();
    return success;
}

Result check_captures() {
    const auto thread = uint64_t(syscall(SYS_gettid));
    Result result = success;
    std::erase_if(driver().captures, [](const auto& weak) { return weak.expired(); });
    for (auto& weak : driver().captures) {
        const auto capture = weak.lock();
        if (capture->mode == 2 || (capture->mode == 1 && capture->thread != thread)) continue;
        capture->invalid = true;
        result = capture_unsupported;
    }
    return result;
}

} // namespace emu
