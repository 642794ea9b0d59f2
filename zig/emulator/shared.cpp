// Shared memory by its 32-bit addresses, and the cluster that shares it.
#include "runtime.h"

namespace emu {

uint32_t shared_address(const void* pointer) {
    const auto at = static_cast<const uint8_t*>(pointer) - me()->runner->arena;
    if (at < 0 || at >= ptrdiff_t(window_bytes) * places_max)
        fail_with(illegal_address, "%p is not in shared memory", pointer);
    return uint32_t(at);
}

static bool inside(const Block& block, uint32_t offset, uint32_t bytes) {
    const auto dynamic = uint32_t(block.dynamic - block.window);
    if (offset >= dynamic && offset + bytes <= dynamic + block.dynamic_bytes) return true;
    for (const StaticVariable& v : block.statics)
        if (offset >= v.offset && offset + bytes <= v.offset + v.bytes) return true;
    return false;
}

static Block& block_of(uint32_t address) {
    const uint32_t place = address / window_bytes;
    const Group& group = *my_block()->group;
    if (place < group.first_place || place >= group.first_place + group.size)
        fail_with(illegal_address, "shared address %#x belongs to no block of the cluster",
                  address);
    Block& block = me()->runner->blocks[place];
    if (block.alive == 0)
        fail_with(illegal_address, "block %u of the cluster has ended", block.rank);
    return block;
}

void* shared_pointer(uint32_t address, uint32_t bytes, uint32_t alignment) {
    if (address % alignment)
        fail_with(misaligned_address, "shared address %#x is not %u-byte aligned", address,
                  alignment);
    Block& block = block_of(address);
    const uint32_t offset = address % window_bytes;
    if (!inside(block, offset, bytes)) {
        const auto dynamic = uint32_t(block.dynamic - block.window);
        fail_with(illegal_address, "%u bytes of shared memory at %#x: dynamic memory is [%#x, %#x)",
                  bytes, offset, dynamic, dynamic + block.dynamic_bytes);
    }
    return block.window + offset;
}

unsigned char* dynamic_shared() { return my_block()->dynamic; }

void* static_shared(const void* site, uint32_t bytes, uint32_t alignment) {
    Block& block = *my_block();
    for (const StaticVariable& v : block.statics)
        if (v.site == site) return block.window + v.offset;
    const uint32_t offset =
        (static_start + block.static_bytes + alignment - 1) / alignment * alignment;
    const uint32_t end = offset + bytes + static_gap;
    const auto dynamic = uint32_t(block.dynamic - block.window);
    const auto gaps = uint32_t(block.statics.size() + 1) * 2 * static_gap;
    if (end > static_start + static_max + gaps || end > static_start + static_open ||
        end + page > dynamic / page * page ||
        end - static_start + block.dynamic_bytes > shared_max + gaps)
        fail("%u bytes of static shared memory do not fit", bytes);
    block.static_bytes = end - static_start;
    block.statics.push_back({site, offset, bytes});
    return block.window + offset;
}

// --- clusters

uint32_t cluster_rank() { return my_block()->rank; }
uint32_t cluster_size() { return my_block()->group->size; }

uint32_t map_shared(uint32_t address, uint32_t rank) {
    const Group& group = *my_block()->group;
    if (rank >= group.size) fail("block %u of a cluster of %u", rank, group.size);
    return address % window_bytes + (group.first_place + rank) * window_bytes;
}

void cluster_arrive() {
    Thread* thread = me();
    Group& group = *my_block()->group;
    Barrier& barrier = group.barrier;
    if (thread->cluster_phase != ~0u) fail("barrier.cluster.arrive twice without a wait");
    thread->cluster_phase = barrier.phase;
    race::release(barrier.tag());
    if (++barrier.arrived >= group.live) barrier.release();
}

void cluster_wait() {
    Thread* thread = me();
    Barrier& barrier = thread->home->group->barrier;
    const unsigned phase = thread->cluster_phase;
    if (phase == ~0u) fail("barrier.cluster.wait without an arrive");
    thread->cluster_phase = ~0u;
    if (barrier.phase == phase) {
        barrier.waiters.push_back(thread);
        block_on("barrier.cluster.wait");
    }
    race::acquire(reinterpret_cast<char*>(&barrier) + (phase & 1));
}

} // namespace emu
