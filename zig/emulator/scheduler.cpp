// Fibers and who runs next.
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <map>
#include <string>

#include "launch.h"
#include "options.h"

// void emu_switch(void** save, void* load): the callee-saved registers go on the old stack and come
// from the new one.
asm(R"(
.text
.p2align 4
.type emu_switch,@function
emu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emu_switch,.-emu_switch
)");
extern "C" void emu_switch(void** save, void* load);

namespace emu {

__thread ThreadPlace* self;

double now_seconds() { return double(global_timer()) * 1e-9; }

uint64_t global_timer() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return uint64_t(t.tv_sec) * 1000000000 + uint64_t(t.tv_nsec);
}

uint64_t Runner::random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

// --- failing

// Gives the whole launch up; a fiber that fails is never continued.
void fail_as(Thread* thread, int code, const char* text) {
    const uint3 b = thread->block->index, t = thread->index;
    char place[160];
    snprintf(place, sizeof place, "block (%u,%u,%u) thread (%u,%u,%u): ", b.x, b.y, b.z, t.x, t.y,
             t.z);
    thread->runner->failed = true;
    thread->runner->launch->fail(code, std::string(place) + text);
}

static void leave_to_main(Runner* runner) {
    Thread* from = me();
    self = nullptr;
    race::switch_to(runner->main_fiber);
    emu_switch(&from->stack_pointer, runner->main_stack_pointer);
}

[[noreturn]] static void fail_list(int code, const char* format, va_list arguments) {
    char text[1000];
    vsnprintf(text, sizeof text, format, arguments);
    fail_as(me(), code, text);
    leave_to_main(me()->runner);
    __builtin_unreachable();
}

void fail_with(int code, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fail_list(code, format, arguments);
}

void fail(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fail_list(launch_failed, format, arguments);
}

void misaligned(const void* p, uint32_t bytes) {
    fail_with(misaligned_address, "%p is not aligned to the %u bytes of the access", p, bytes);
}

void trap() { fail("trap"); }

static void fail_deadlock(Runner* runner) {
    std::map<std::string, unsigned> reasons;
    Thread* first = nullptr;
    for (Group* group : runner->groups)
        for (unsigned i = 0; i < group->size; ++i) {
            Block& block = runner->blocks[group->first_place + i];
            for (unsigned t = 0; t < block.thread_count; ++t) {
                Thread* thread = block.fibers[t];
                if (thread->done) continue;
                ++reasons[thread->waits_for ? thread->waits_for : "nothing"];
                if (first == nullptr) first = thread;
            }
        }
    std::string text = "deadlock: nobody can go on;";
    for (auto& [what, count] : reasons)
        text += " " + std::to_string(count) +
                (count == 1 ? " thread waits in " : " threads wait in ") + what + ";";
    text.pop_back();
    fail_as(first, launch_timeout, text.c_str());
}

// --- choosing

static void land_one(Runner* runner) {
    const size_t i = runner->random() % runner->in_flight.size();
    InFlight operation = std::move(runner->in_flight[i]);
    runner->in_flight.erase(runner->in_flight.begin() + ptrdiff_t(i));
    ThreadPlace* before = self;
    self = operation.thread;
    operation.land();
    self = before;
    ++runner->events;
}

// Only threads that poll are left: true once nothing is to be hoped for.
static bool polls_in_vain(Runner* runner) {
    Launch& launch = *runner->launch;
    const bool idle = runner->events == runner->events_before;
    runner->events_before = runner->events;
    if (idle != runner->idle) {
        runner->idle = idle;
        launch.idle += idle ? 1 : -1;
        launch.idle_changed = now_seconds();
    }
    if (!idle) return false;
    usleep(20);
    return launch.idle == launch.runners &&
           now_seconds() - launch.idle_changed > options().timeout_seconds;
}

static bool room_for_group(Runner* runner) {
    const Launch& launch = *runner->launch;
    return launch.next < launch.groups && launch.resident < launch.resident_max &&
           (runner->groups.size() + 1) * launch.shape.cluster <= places_max;
}

// The fiber that runs next; none: the main side has something to do.
static Thread* pick(Runner* runner) {
    const Options& o = options();
    if (runner->failed) return nullptr;
    if (o.order == Order::random && !runner->in_flight.empty() && runner->random() % 64 == 0)
        land_one(runner);
    while (runner->ready.empty()) {
        if (runner->groups.empty()) return nullptr;
        if (!runner->in_flight.empty()) {
            land_one(runner); // the last moment allowed
            continue;
        }
        if (runner->pollers.empty()) {
            fail_deadlock(runner);
            return nullptr;
        }
        if (runner->launch->failed) return nullptr;
        if (room_for_group(runner)) {
            runner->wants_group = true; // perhaps the others wait for it
            return nullptr;
        }
        if (polls_in_vain(runner)) {
            fail_deadlock(runner);
            return nullptr;
        }
        runner->ready.assign(runner->pollers.begin(), runner->pollers.end());
        runner->pollers.clear();
    }
    auto& ready = runner->ready;
    Thread* next;
    if (o.order == Order::greedy) {
        next = ready.back();
        ready.pop_back();
        return next;
    }
    if (o.order == Order::random) std::swap(ready.front(), ready[runner->random() % ready.size()]);
    next = ready.front();
    ready.pop_front();
    return next;
}

static void switch_to(void** save, Thread* next) {
    self = next;
    race::switch_to(next->race_fiber);
    emu_switch(save, next->stack_pointer);
}

// Leaves this fiber for the next one.
static void go_on(Thread* from) {
    Thread* next = pick(from->runner);
    if (next == nullptr)
        leave_to_main(from->runner);
    else if (next != from)
        switch_to(&from->stack_pointer, next);
}

void wake(Thread* thread) {
    ++thread->runner->events;
    thread->runner->ready.push_back(thread);
}

void block_on(const char* what) {
    Thread* thread = me();
    thread->waits_for = what;
    go_on(thread);
    thread->waits_for = nullptr;
}

void yield() {
    me()->runner->pollers.push_back(me());
    block_on("a loop that polls");
}

void start_asynchronous(std::function<void()> land) {
    Thread* thread = me();
    if (options().landing == Landing::eager)
        land();
    else
        thread->runner->in_flight.push_back({thread, std::move(land)});
}

// --- fibers

static void thread_main() {
    Thread* thread = me();
    race::acquire(&thread->runner->start_tag);
    void* arguments[] = {thread->runner->launch->parameters};
    thread->runner->launch->shape.kernel->entry(arguments);
    finish_thread(thread);
    race::release(&thread->runner->start_tag);
    go_on(thread);
    __builtin_unreachable();
}

void prepare(Thread* thread) {
    if (thread->stack == nullptr) {
        thread->stack =
            static_cast<uint8_t*>(mmap(nullptr, stack_bytes + stack_guard, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        mprotect(thread->stack, stack_guard, PROT_NONE);
        Thread* lead = thread->home->fibers[thread->number - thread->lane];
        const bool apart = lead == thread || !options().races_by_warp;
        thread->race_fiber = apart ? race::create_fiber() : lead->race_fiber;
    }
    // Tops that all lie at the same offset of a page would share a few cache sets.
    uint8_t* end = thread->stack + stack_guard + stack_bytes - thread->number % 32 * 192;
    auto* top = reinterpret_cast<uintptr_t*>(end);
    *--top = 0;
    *--top = reinterpret_cast<uintptr_t>(&thread_main);
    for (int i = 0; i < 6; ++i) *--top = 0;
    thread->stack_pointer = top;
}

void run_groups(Runner* runner) {
    Launch& launch = *runner->launch;
    runner->failed = false;
    while (!launch.failed) {
        if (runner->groups.empty() || runner->wants_group) {
            runner->wants_group = false;
            if (!start_group(runner) && runner->groups.empty()) break;
        }
        race::release(&runner->start_tag);
        if (Thread* next = pick(runner)) switch_to(&runner->main_stack_pointer, next);
        race::acquire(&runner->start_tag);
    }
    runner->ready.clear();
    runner->pollers.clear();
    runner->in_flight.clear();
    for (Group* group : runner->groups) delete group;
    runner->groups.clear();
    if (runner->idle) --launch.idle;
    runner->idle = false;
}

} // namespace emu
