// The running half of the emulated GPU: blocks, warps, threads and the runner that holds them.
//
// Every thread of a block is a fiber. The blocks of a cluster live on one runner, which is one
// thread of the operating system, so nothing inside a cluster ever runs at the same time: order is
// the scheduler's choice, and it may choose badly on purpose.
#pragma once
#include <cstddef>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#define EMU_RUNTIME
#include "emulation.h"
#include "options.h"
#include "race.h"

namespace emu {

struct Block;
struct Group;
struct Launch;
struct Runner;
struct Thread;
struct Warp;

// The first byte of a runner's arena is shared address 0. A wgmma descriptor holds 18 bits of an
// address, so a block's memory lies in the first 256 KiB of its window:
// [guard][static][guard][dynamic, up to the end][guard, up to the next window].
constexpr uint32_t window_bytes = 1u << 24, window_used = 256 << 10;
constexpr uint32_t places_max = 16;
constexpr uint32_t page = 4096;
// A page beside the 48 KiB of static memory is for the gaps behind its variables.
constexpr uint32_t static_start = page, static_max = 48 << 10, static_gap = 64;
constexpr uint32_t static_open = static_max + page;
constexpr uint32_t shared_max = 227 << 10;
constexpr uint32_t stack_bytes = 64 << 10, stack_guard = 64 << 10;

struct Barrier {
    unsigned arrived = 0, expected = 0, phase = 0, yes = 0, result = 0;
    std::vector<Thread*> waiters;
    char* tag() { return reinterpret_cast<char*>(this) + (phase & 1); }
    void release();
};

// Runs once, on the fiber of the last lane to arrive, for all lanes of `mask`.
using Collective = void (*)(void** arguments, uint32_t mask, Warp* warp);

// Lanes that met at one instruction; a warp may be split four ways.
struct Meeting {
    Collective run;
    const char* what;
    uint32_t mask, arrived;
    void* arguments[32];
    Thread* threads[32];
};
struct Warp {
    Meeting meetings[4];
    uint32_t lanes; // that exist
};

// Operations of one thread in flight: those of committed groups, then those of the open one.
template <class T>
struct Groups {
    std::vector<T> items;
    std::vector<uint32_t> ends; // of the committed groups

    void commit() { ends.push_back(uint32_t(items.size())); }
    // How many of the oldest items belong to no group of the latest `pending`; -1: all.
    uint32_t due(int pending) const {
        if (pending < 0) return uint32_t(items.size());
        return ends.size() > size_t(pending) ? ends[ends.size() - 1 - size_t(pending)] : 0;
    }
    void drop(uint32_t count) {
        items.erase(items.begin(), items.begin() + count);
        size_t gone = 0;
        while (gone < ends.size() && ends[gone] <= count) ++gone;
        ends.erase(ends.begin(), ends.begin() + ptrdiff_t(gone));
        for (uint32_t& end : ends) end -= count;
    }
    void clear() {
        items.clear();
        ends.clear();
    }
};

struct Copy {
    void* target;
    const void* source;
    uint32_t bytes, source_bytes;
    void land() const;
};

struct WgmmaIssue {
    float* d;
    int columns;
    bool a_in_registers, accumulate, transpose_a, transpose_b;
    Number kind;
    uint32_t a[4];
    uint64_t a_place, b_place;
};

// Accumulators as they will be; those in the thread's hands are poisoned until it waits.
struct Shadow {
    float* d;
    std::vector<float> values;
};

// Reads shared memory as late as its thread's wait allows, and writes as late as the next one.
struct BulkStore {
    const void* source;
    uint32_t size;
    std::function<void(const std::vector<uint8_t>&)> write;
    std::vector<uint8_t> bytes;
    bool was_read;
};

struct Thread : ThreadPlace {
    void* stack_pointer;
    uint8_t* stack; // its guard, then itself
    unsigned lane, number;
    Warp* warp;
    Block* home;
    Runner* runner;
    const char* waits_for;
    bool done;
    unsigned cluster_phase;
    void* race_fiber;
    Groups<Copy> copies;
    Groups<BulkStore> stores;
    Groups<WgmmaIssue> wgmmas;
    std::vector<Shadow> shadows;
    unsigned wgmmas_issued;
    bool wgmma_fenced;
};

struct StaticVariable {
    const void* site;
    uint32_t offset, bytes;
};

struct Mbarrier {
    uint32_t address;
    uint32_t pending, expected, phase;
    int32_t bytes;
    std::vector<Thread*> waiters;
    char* tag() { return reinterpret_cast<char*>(this) + (phase & 1); }
};

struct Block : BlockPlace {
    Group* group;
    Runner* runner;
    unsigned place, rank, thread_count, alive;
    uint8_t *window, *dynamic;
    uint32_t dynamic_bytes, static_bytes;
    uint32_t open_bytes = ~0u; // the dynamic size that the window is protected for
    bool waited;               // for earlier kernels (programmatic dependent launch)
    Barrier barriers[16];
    std::vector<Warp> warps;
    std::vector<StaticVariable> statics;
    std::deque<Mbarrier> mbarriers; // a deque: references stay valid
    std::vector<Thread*> fibers;
    // The descriptors each warpgroup has issued, to notice warps that disagree.
    std::vector<std::vector<std::pair<uint64_t, uint64_t>>> wgmma_trace;
};

// Blocks that live and die together: a cluster.
struct Group {
    unsigned first_place, size, live;
    Barrier barrier;
};

// An asynchronous operation on behalf of a thread.
struct InFlight {
    Thread* thread;
    std::function<void()> land;
};

struct Runner {
    uint8_t* arena = nullptr;
    Block blocks[places_max];
    std::vector<Group*> groups;
    std::deque<Thread*> ready;
    std::vector<Thread*> pollers;
    std::vector<InFlight> in_flight;
    void *main_stack_pointer = nullptr, *main_fiber = nullptr, *proxy_fiber = nullptr;
    char proxy_tag = 0, start_tag = 0, stored_tag = 0;
    Launch* launch = nullptr;
    uint64_t random_state = 1, events = 0, events_before = 0;
    bool wants_group = false, failed = false, idle = false;
    int fault_signal = 0;
    bool fault_writes = false;
    void* fault_address = nullptr;

    Runner();
    uint64_t random();
};

inline Thread* me() { return static_cast<Thread*>(self); }
inline Block* my_block() { return me()->home; }

// What the driver says of a kernel that failed.
constexpr int illegal_address = 700, launch_timeout = 702, illegal_instruction = 715,
              misaligned_address = 716, launch_failed = 719;

// --- scheduler.cpp

void block_on(const char* what); // until woken
void wake(Thread* thread);
void run_groups(Runner* runner);
void prepare(Thread* thread); // to start at its beginning
void fail_as(Thread* thread, int code, const char* text);
[[noreturn]] void fail_with(int code, const char* format, ...)
    __attribute__((format(printf, 2, 3)));
double now_seconds();

// --- block.cpp

bool start_group(Runner* runner); // false: no block is left, or there is no room
void finish_thread(Thread* thread);
void close_window(Block& block); // checks what should be untouched

// --- fault.cpp

void install_fault_handler();
void adopt_host_thread(); // gives it a stack for signals
// What lies at an address of device memory or nearby.
void describe_address(const void* address, char* text, size_t size);

// --- the instructions' other halves

void collective(uint32_t mask, const char* what, Collective run, void* argument);
void read_store(BulkStore& store);
Mbarrier& mbarrier_at(uint32_t address, const char* what);
void mbarrier_received(Mbarrier& barrier, uint32_t bytes);
void start_asynchronous(std::function<void()> land);
uint32_t swizzled(uint32_t address, uint32_t span);

// --- memory as the hardware touches it: not through memcpy, which a sanitizer would intercept and
// blame on the calling thread

inline void raw_fill(void* target, int byte, size_t count) {
    asm volatile("rep stosb" : "+D"(target), "+c"(count) : "a"(byte) : "memory");
}
inline void raw_copy(void* target, const void* source, size_t count) {
    typedef long long Vector __attribute__((vector_size(16), aligned(1), may_alias));
    if (count == 16) {
        *static_cast<Vector*>(target) = *static_cast<const Vector*>(source);
        return;
    }
    asm volatile("rep movsb" : "+D"(target), "+S"(source), "+c"(count)::"memory");
}
inline void poison(void* target, size_t count) { raw_fill(target, 0xff, count); }

} // namespace emu
