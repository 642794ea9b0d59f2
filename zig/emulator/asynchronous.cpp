// cp.async and mbarriers.
#include "runtime.h"

namespace emu {

// --- cp.async: lands when its thread waits, not before

void Copy::land() const {
    race::reads(source, source_bytes);
    race::writes(target, bytes);
    raw_copy(target, source, source_bytes);
    raw_fill(static_cast<uint8_t*>(target) + source_bytes, 0, bytes - source_bytes);
}

void cp_async(uint32_t target, const void* source, uint32_t bytes, uint32_t source_bytes) {
    Thread* thread = me();
    void* to = shared_pointer(target, bytes, bytes);
    if (reinterpret_cast<uintptr_t>(source) % bytes) misaligned(source, bytes);
    if (source_bytes > bytes) fail("cp.async reads %u bytes of %u", source_bytes, bytes);
    const Copy copy{to, source, bytes, source_bytes};
    if (options().landing == Landing::eager) return copy.land();
    race::writes(to, bytes);
    poison(to, bytes);
    thread->copies.items.push_back(copy);
}

void cp_async_commit() { me()->copies.commit(); }

void cp_async_wait(int pending) {
    auto& copies = me()->copies;
    const uint32_t due = copies.due(pending);
    for (uint32_t i = 0; i < due; ++i) copies.items[i].land();
    copies.drop(due);
}

void cp_async_mbarrier_arrive(uint32_t address, bool counted) {
    Thread* thread = me();
    Mbarrier& barrier = mbarrier_at(address, "cp.async.mbarrier.arrive");
    if (!counted) ++barrier.pending; // the arrival is one more than expected
    std::vector<Copy> all = thread->copies.items;
    thread->copies.clear();
    start_asynchronous([thread, address, all] {
        // Whichever thread this lands in, the copies are those of the one that issued them.
        void* const lands_in = race::watched() ? race::current_fiber() : nullptr;
        if (lands_in) race::switch_to(thread->race_fiber);
        for (const Copy& copy : all) copy.land();
        mbarrier_arrive(address, 1);
        if (lands_in) race::switch_to(lands_in);
    });
}

// --- mbarriers: their state lives here, the eight bytes in shared memory stay poisoned

Mbarrier& mbarrier_at(uint32_t address, const char* what) {
    const void* p = shared_pointer(address, 8, 8);
    Block& block = me()->runner->blocks[address / window_bytes];
    for (Mbarrier& barrier : block.mbarriers) {
        if (barrier.address != address) continue;
        if (__atomic_load_n(static_cast<const uint64_t*>(p), __ATOMIC_RELAXED) != ~uint64_t(0))
            fail("the mbarrier at %#x was written over", address % window_bytes);
        return barrier;
    }
    fail("%s on %#x, where no mbarrier was initialised", what, address % window_bytes);
}

static void complete_if_done(Mbarrier& barrier) {
    if (barrier.pending || barrier.bytes) return;
    barrier.phase ^= 1;
    barrier.pending = barrier.expected;
    for (Thread* waiter : barrier.waiters) wake(waiter);
    barrier.waiters.clear();
}

void mbarrier_init(uint32_t address, uint32_t count) {
    void* p = shared_pointer(address, 8, 8);
    if (count == 0 || count >= 1u << 20) fail("an mbarrier of %u arrivals", count);
    race::writes(p, 8);
    poison(p, 8);
    Block& block = me()->runner->blocks[address / window_bytes];
    for (Mbarrier& barrier : block.mbarriers)
        if (barrier.address == address)
            fail("the mbarrier at %#x is initialised twice", address % window_bytes);
    block.mbarriers.push_back({address, count, count, 0, 0, {}});
}

void mbarrier_invalidate(uint32_t address) {
    Mbarrier& barrier = mbarrier_at(address, "mbarrier.inval");
    if (!barrier.waiters.empty()) fail("mbarrier.inval while threads wait");
    barrier.address = ~0u;
}

void mbarrier_arrive(uint32_t address, uint32_t count) {
    Mbarrier& barrier = mbarrier_at(address, "mbarrier.arrive");
    race::reads(shared_pointer(address, 8, 8), 8);
    race::release(barrier.tag());
    if (barrier.pending < count)
        fail("the mbarrier at %#x gets more arrivals than its %u", address % window_bytes,
             barrier.expected);
    barrier.pending -= count;
    complete_if_done(barrier);
}

void mbarrier_expect(uint32_t address, uint32_t bytes) {
    if (bytes >= 1u << 20) fail("mbarrier.expect_tx of %u bytes", bytes);
    mbarrier_at(address, "mbarrier.expect_tx").bytes += int32_t(bytes);
}

void mbarrier_received(Mbarrier& barrier, uint32_t bytes) {
    barrier.bytes -= int32_t(bytes);
    complete_if_done(barrier);
}

bool mbarrier_test(uint32_t address, uint32_t parity, bool may_suspend) {
    Mbarrier& barrier = mbarrier_at(address, "mbarrier.try_wait");
    race::reads(shared_pointer(address, 8, 8), 8);
    if (barrier.phase == parity) {
        if (may_suspend) {
            barrier.waiters.push_back(me());
            block_on("mbarrier.try_wait");
        } else {
            yield();
        }
        if (barrier.phase == parity) return false;
    }
    race::acquire(reinterpret_cast<char*>(&barrier) + (parity & 1));
    return true;
}

} // namespace emu
