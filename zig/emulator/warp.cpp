// What the lanes of a warp and the threads of a block do together.
#include "runtime.h"

namespace emu {

static Meeting& meeting_for(Warp& warp, uint32_t mask, const char* what) {
    Meeting* free = nullptr;
    for (Meeting& m : warp.meetings) {
        if (m.arrived && m.mask == mask) return m;
        if (!m.arrived && free == nullptr) free = &m;
    }
    if (free == nullptr) fail("%s: the warp is split more than four ways", what);
    return *free;
}

void collective(uint32_t mask, const char* what, Collective run, void* argument) {
    Thread* thread = me();
    Warp& warp = *thread->warp;
    mask &= warp.lanes;
    if (!(mask >> thread->lane & 1))
        fail("%s: lane %u is not in mask %#x", what, thread->lane, mask);
    Meeting& meeting = meeting_for(warp, mask, what);
    if (meeting.arrived && meeting.run != run)
        fail("the warp has split: some lanes are in %s, others in %s", what, meeting.what);
    meeting.run = run;
    meeting.what = what;
    meeting.mask = mask;
    meeting.arguments[thread->lane] = argument;
    meeting.threads[thread->lane] = thread;
    meeting.arrived |= 1u << thread->lane;
    if (meeting.arrived != mask) return block_on(what);
    run(meeting.arguments, mask, &warp);
    meeting.arrived = 0;
    for (int lane = 0; lane < 32; ++lane)
        if ((mask >> lane & 1) && meeting.threads[lane] != thread) wake(meeting.threads[lane]);
}

void syncwarp(uint32_t mask) {
    Warp* warp = me()->warp;
    race::release(warp);
    collective(mask, "__syncwarp", [](void**, uint32_t, Warp*) {}, nullptr);
    race::acquire(warp);
}

namespace {
struct ShuffleLane {
    uint64_t v, out;
    int lane, width;
    Shuffle mode;
};
int shuffle_source(const ShuffleLane& x, int lane) {
    const int first = lane & ~(x.width - 1), at = lane & (x.width - 1);
    switch (x.mode) {
    case Shuffle::index:
        return first + (x.lane & (x.width - 1));
    case Shuffle::up:
        return at < x.lane ? lane : lane - x.lane;
    case Shuffle::down:
        return at + x.lane >= x.width ? lane : lane + x.lane;
    case Shuffle::flip:
        return (at ^ x.lane) >= x.width ? lane : first + (at ^ x.lane);
    }
    __builtin_unreachable();
}
void run_shuffle(void** arguments, uint32_t mask, Warp*) {
    for (int lane = 0; lane < 32; ++lane) {
        if (!(mask >> lane & 1)) continue;
        auto& x = *static_cast<ShuffleLane*>(arguments[lane]);
        const int from = shuffle_source(x, lane);
        if (!(mask >> from & 1)) fail("shfl reads lane %d, which is not in mask %#x", from, mask);
        x.out = static_cast<ShuffleLane*>(arguments[from])->v;
    }
}
struct Vote {
    uint64_t v;
    uint32_t out;
    uint32_t (*step)(uint32_t, uint32_t);
};
void run_ballot(void** arguments, uint32_t mask, Warp*) {
    uint32_t r = 0;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) r |= uint32_t(static_cast<Vote*>(arguments[i])->v) << i;
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) static_cast<Vote*>(arguments[i])->out = r;
}
void run_match(void** arguments, uint32_t mask, Warp*) {
    for (int i = 0; i < 32; ++i) {
        if (!(mask >> i & 1)) continue;
        auto& x = *static_cast<Vote*>(arguments[i]);
        x.out = 0;
        for (int j = 0; j < 32; ++j)
            if ((mask >> j & 1) && static_cast<Vote*>(arguments[j])->v == x.v) x.out |= 1u << j;
    }
}
void run_reduce(void** arguments, uint32_t mask, Warp*) {
    const int first = __builtin_ctz(mask);
    auto r = uint32_t(static_cast<Vote*>(arguments[first])->v);
    for (int i = first + 1; i < 32; ++i) {
        auto* x = static_cast<Vote*>(arguments[i]);
        if (mask >> i & 1) r = x->step(r, uint32_t(x->v));
    }
    for (int i = 0; i < 32; ++i)
        if (mask >> i & 1) static_cast<Vote*>(arguments[i])->out = r;
}
} // namespace

uint64_t shuffle(uint32_t mask, uint64_t v, int lane, Shuffle mode, int width) {
    if (width < 1 || width > 32 || (width & (width - 1))) fail("shfl: a width of %d", width);
    ShuffleLane x{v, v, lane, width, mode};
    collective(mask, "shfl", run_shuffle, &x);
    return x.out;
}

uint32_t ballot(uint32_t mask, bool yes) {
    Vote x{yes, 0, nullptr};
    collective(mask, "vote", run_ballot, &x);
    return x.out;
}

uint32_t match_any(uint32_t mask, uint64_t v) {
    Vote x{v, 0, nullptr};
    collective(mask, "match", run_match, &x);
    return x.out;
}

uint32_t reduce(uint32_t mask, uint32_t v, uint32_t (*step)(uint32_t, uint32_t)) {
    Vote x{v, 0, step};
    collective(mask, "redux", run_reduce, &x);
    return x.out;
}

bool elect_one() {
    collective(
        ~0u, "elect.sync",
        [](void**, uint32_t mask, Warp* warp) {
            if (mask != ~0u) fail("elect.sync needs a whole warp");
            (void)warp;
        },
        nullptr);
    // Which lane it is, is not promised; it is the same one every time.
    return me()->lane == (options().order == Order::random ? options().seed % 32 : 0);
}

void thread_fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

void pdl_wait() { my_block()->waited = true; }

// --- barriers of a block

void Barrier::release() {
    arrived = expected = 0;
    result = yes;
    yes = 0;
    ++phase;
    for (Thread* waiter : waiters) wake(waiter);
    waiters.clear();
}

static const char* const barrier_names[16] = {
    "barrier 0",  "barrier 1",  "barrier 2",  "barrier 3", "barrier 4",  "barrier 5",
    "barrier 6",  "barrier 7",  "barrier 8",  "barrier 9", "barrier 10", "barrier 11",
    "barrier 12", "barrier 13", "barrier 14", "barrier 15"};

void barrier(uint32_t id, uint32_t threads, bool wait) {
    if (id > 15) fail("barrier %u: there are 16", id);
    if (threads % 32) fail("barrier %u: %u threads are not whole warps", id, threads);
    Block& block = *my_block();
    Barrier& b = block.barriers[id];
    if (b.arrived && b.expected != threads)
        fail("barrier %u: expects %u threads here and %u elsewhere", id, threads, b.expected);
    b.expected = threads;
    ++b.arrived;
    char* tag = b.tag();
    race::release(tag);
    if (b.arrived == (threads ? threads : block.alive))
        b.release();
    else if (wait) {
        b.waiters.push_back(me());
        block_on(barrier_names[id]);
    }
    if (wait) race::acquire(tag);
}

int barrier_count(bool yes, uint32_t id) {
    Barrier& b = my_block()->barriers[id];
    b.yes += yes;
    barrier(id, 0, true);
    // No lane can have passed the next one before all have read this.
    const int result = int(b.result);
    barrier(id, 0, true);
    return result;
}

} // namespace emu
