// Blocks: where their shared memory lies, how they start and what they may leave behind.
#include <sys/mman.h>

#include <cstdio>
#include <string>

#include "launch.h"

namespace emu {

Runner::Runner() {
    constexpr size_t huge = size_t(2) << 20;
    auto* raw =
        static_cast<uint8_t*>(mmap(nullptr, size_t(window_bytes) * places_max + huge, PROT_NONE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    arena = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(raw) + huge - 1) & ~(huge - 1));
    main_fiber = race::current_fiber();
    proxy_fiber = race::create_fiber();
}

static uint32_t whole_pages(uint32_t bytes) { return (bytes + page - 1) / page * page; }

// Static memory may not run into the guard page before the dynamic one.
static uint32_t static_room(const Block& block) {
    const uint32_t room = window_used - whole_pages(block.dynamic_bytes + 1023) - 2 * page;
    return room < static_open ? room / page * page : static_open;
}

static void open_window(Block& block) {
    const uint32_t open = whole_pages((block.dynamic_bytes + 1023) / 1024 * 1024);
    uint8_t* end = block.window + window_used;
    if (block.open_bytes != block.dynamic_bytes) {
        mprotect(block.window, window_used, PROT_NONE);
        mprotect(block.window + static_start, static_room(block), PROT_READ | PROT_WRITE);
        if (open) mprotect(end - open, open, PROT_READ | PROT_WRITE);
        block.open_bytes = block.dynamic_bytes;
        poison(block.window + static_start, static_room(block));
    } else {
        poison(block.window + static_start, block.static_bytes + static_gap);
    }
    poison(end - open, open);
    block.dynamic = end - (block.dynamic_bytes + 1023) / 1024 * 1024;
    block.static_bytes = 0;
    block.statics.clear();
}

static void fail_block(Block& block, int code, const std::string& text) {
    fail_as(block.fibers[0], code, text.c_str());
}

static bool untouched(const uint8_t* from, const uint8_t* to) {
    for (; from < to; ++from)
        if (*from != 0xff) return false;
    return true;
}

void close_window(Block& block) {
    if (!untouched(block.dynamic + block.dynamic_bytes, block.window + window_used))
        fail_block(block, illegal_address, "wrote past the end of the dynamic shared memory");
    for (const StaticVariable& v : block.statics) {
        const uint8_t* end = block.window + v.offset + v.bytes;
        if (!untouched(end, end + static_gap))
            fail_block(block, illegal_address,
                       "wrote past the end of a static shared variable of " +
                           std::to_string(v.bytes) + " bytes");
    }
}

static void start_block(Runner* runner, Group* group, uint64_t number, unsigned rank) {
    const LaunchShape& shape = runner->launch->shape;
    const unsigned place = group->first_place + rank;
    const unsigned count = shape.threads.x * shape.threads.y * shape.threads.z;
    Block& block = runner->blocks[place];
    block.index = {unsigned(number % shape.grid.x), unsigned(number / shape.grid.x % shape.grid.y),
                   unsigned(number / shape.grid.x / shape.grid.y)};
    block.grid = shape.grid;
    static_cast<BlockPlace&>(block).threads = shape.threads;
    block.group = group;
    block.runner = runner;
    block.place = place;
    block.rank = rank;
    block.thread_count = block.alive = count;
    block.window = runner->arena + size_t(place) * window_bytes;
    block.dynamic_bytes = shape.shared_bytes;
    block.waited = false;
    for (Barrier& barrier : block.barriers) barrier = Barrier();
    block.warps.assign((count + 31) / 32, Warp());
    block.mbarriers.clear();
    block.wgmma_trace.assign((count + 127) / 128, {});
    open_window(block);
    while (block.fibers.size() < count) block.fibers.push_back(new Thread());
    for (unsigned i = 0; i < count; ++i) {
        Thread* thread = block.fibers[i];
        thread->index = {i % shape.threads.x, i / shape.threads.x % shape.threads.y,
                         i / shape.threads.x / shape.threads.y};
        thread->block = &block;
        thread->home = &block;
        thread->runner = runner;
        thread->number = i;
        thread->lane = i % 32;
        thread->warp = &block.warps[i / 32];
        thread->warp->lanes |= 1u << thread->lane;
        thread->waits_for = nullptr;
        thread->done = false;
        thread->cluster_phase = ~0u;
        thread->copies.clear();
        thread->stores.clear();
        thread->wgmmas.clear();
        thread->shadows.clear();
        thread->wgmmas_issued = 0;
        thread->wgmma_fenced = false;
        prepare(thread);
        runner->ready.push_back(thread);
    }
}

// Consecutive free places for a cluster; -1: none.
static int free_places(Runner* runner, unsigned size) {
    for (unsigned first = 0; first + size <= places_max; first += size) {
        bool taken = false;
        for (Group* group : runner->groups)
            taken = taken ||
                    (group->first_place < first + size && first < group->first_place + group->size);
        if (!taken) return int(first);
    }
    return -1;
}

bool start_group(Runner* runner) {
    Launch& launch = *runner->launch;
    const unsigned size = launch.shape.cluster;
    const int first = free_places(runner, size);
    if (first < 0) return false;
    uint64_t number = launch.next.fetch_add(1);
    if (number >= launch.groups) return false;
    if (!launch.order.empty()) number = launch.order[number];
    runner->random_state = (options().seed + number + 1) * 0x9E3779B97F4A7C15ull;
    auto* group = new Group();
    group->first_place = unsigned(first);
    group->size = size;
    for (unsigned rank = 0; rank < size; ++rank)
        start_block(runner, group, number * size + rank, rank);
    group->live = size * runner->blocks[first].thread_count;
    runner->groups.push_back(group);
    launch.resident += size;
    ++runner->events;
    return true;
}

static void finish_group(Group* group, Runner* runner) {
    for (unsigned rank = 0; rank < group->size; ++rank) {
        Block& block = runner->blocks[group->first_place + rank];
        for (const InFlight& operation : runner->in_flight)
            if (operation.thread->home == &block)
                return fail_block(block, launch_failed,
                                  "the block ends with an asynchronous copy in flight");
        close_window(block);
        if (runner->launch->shape.programmatic && !block.waited)
            fail_block(block, launch_failed,
                       "launched to overlap the kernel before it, but no thread calls pdl_wait");
    }
    runner->launch->resident -= group->size;
    std::erase(runner->groups, group);
    delete group;
}

void finish_thread(Thread* thread) {
    if (!thread->copies.items.empty()) fail("the thread ends with a cp.async never waited for");
    if (!thread->wgmmas.items.empty()) fail("the thread ends with a wgmma never waited for");
    if (!thread->shadows.empty()) fail("the thread ends with wgmma accumulators never waited for");
    for (BulkStore& store : thread->stores.items) {
        if (!store.was_read)
            fail("the thread ends while a bulk store may still read its shared memory");
        store.write(store.bytes);
    }
    thread->stores.clear();
    Block& block = *thread->home;
    thread->done = true;
    --block.alive;
    ++thread->runner->events;
    // Barriers of the whole block wait only for threads that live.
    Barrier& barrier = block.barriers[0];
    if (block.alive && barrier.expected == 0 && barrier.arrived == block.alive) barrier.release();
    if (--block.group->live == 0) finish_group(block.group, thread->runner);
}

} // namespace emu
