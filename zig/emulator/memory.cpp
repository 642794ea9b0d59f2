// Device and pinned memory. Every allocation ends at a page that cannot be touched, starts as NaN,
// and its addresses are never used again.
#include <sys/mman.h>

#include <cstdio>
#include <map>

#include "driver.h"

namespace emu {

namespace {
struct Allocation {
    uint8_t *mapping, *start;
    size_t mapping_bytes, bytes;
    Memory memory;
    int device;
};

// Addresses a race detector allows, the same in every process where they are free.
constexpr uintptr_t arena_start = 0x7e9000000000;
constexpr size_t arena_bytes = size_t(1) << 38;
constexpr size_t alignment = 256;
// Filling more would only fill the host's memory.
constexpr size_t filled_max = size_t(1) << 30;

std::mutex mutex;
std::map<uint8_t*, Allocation> allocations;
std::map<uint8_t*, size_t> freed; // to say what a late access hit
uint8_t *arena, *arena_next;
size_t in_use[64];
} // namespace

static size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// [pages][untouchable page] from the arena.
static uint8_t* take_pages(size_t bytes) {
    if (arena == nullptr) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* hint = reinterpret_cast<void*>(arena_start);
        void* p = mmap(hint, arena_bytes, PROT_NONE, flags | MAP_FIXED_NOREPLACE, -1, 0);
        if (p == MAP_FAILED) p = mmap(nullptr, arena_bytes, PROT_NONE, flags, -1, 0);
        if (p == MAP_FAILED) return nullptr;
        arena = arena_next = static_cast<uint8_t*>(p);
    }
    if (arena_next + bytes + page > arena + arena_bytes) return nullptr;
    uint8_t* start = arena_next;
    if (mprotect(start, bytes, PROT_READ | PROT_WRITE) != 0) return nullptr;
    arena_next += bytes + page;
    return start;
}

static void* allocate(size_t bytes, Memory memory, int device) {
    const size_t used = round_up(bytes, alignment), pages = round_up(used, page);
    uint8_t* mapping = take_pages(pages);
    if (mapping == nullptr) return nullptr;
    uint8_t* start = mapping + pages - used;
    memset(mapping, 0xff, pages < filled_max ? pages : filled_max);
    allocations[start] = {mapping, start, pages, bytes, memory, device};
    return start;
}

static std::string size_of(size_t bytes) { return std::to_string(bytes) + " bytes"; }

// Pages go back, addresses do not.
static Result release(void* p, Memory memory) {
    const auto it = allocations.find(static_cast<uint8_t*>(p));
    if (it == allocations.end() || it->second.memory != memory) return invalid_value;
    const Allocation a = it->second;
    mmap(a.mapping, a.mapping_bytes, PROT_NONE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    freed[a.start] = a.bytes;
    allocations.erase(it);
    return success;
}

void* allocate_device(int device, size_t bytes, Result& result) {
    std::lock_guard<std::mutex> lock(mutex);
    result = bytes == 0 ? invalid_value : out_of_memory;
    if (bytes == 0 || bytes > options().memory - in_use[device]) return nullptr;
    void* p = allocate(bytes, Memory::device, device);
    if (p == nullptr) return nullptr;
    in_use[device] += bytes;
    result = success;
    return p;
}

Result free_device(void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    const auto it = allocations.find(static_cast<uint8_t*>(p));
    if (it == allocations.end()) return invalid_value;
    const Allocation a = it->second;
    const Result result = release(p, Memory::device);
    if (result == success) in_use[a.device] -= a.bytes;
    return result;
}

void* allocate_pinned(size_t bytes) {
    std::lock_guard<std::mutex> lock(mutex);
    return allocate(bytes, Memory::pinned, 0);
}

Result free_pinned(void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    return release(p, Memory::pinned);
}

void free_all(int device) {
    std::lock_guard<std::mutex> lock(mutex);
    std::vector<void*> all;
    for (auto& [start, a] : allocations)
        if (a.memory == Memory::device && a.device == device) all.push_back(start);
    for (void* p : all) release(p, Memory::device);
    in_use[device] = 0;
}

size_t bytes_in_use(int device) {
    std::lock_guard<std::mutex> lock(mutex);
    return in_use[device];
}

// The allocation that starts at or before p; null: none.
static const Allocation* allocation_before(const void* p) {
    auto it = allocations.upper_bound(static_cast<uint8_t*>(const_cast<void*>(p)));
    return it == allocations.begin() ? nullptr : &(--it)->second;
}

Range range_of(const void* p) {
    std::lock_guard<std::mutex> lock(mutex);
    const Allocation* a = allocation_before(p);
    if (a && static_cast<const uint8_t*>(p) < a->start + a->bytes)
        return {a->memory, a->device, a->start, a->bytes};
    const auto* at = static_cast<const uint8_t*>(p);
    // What lies between allocations is not the host's.
    if (arena && at >= arena && at < arena + arena_bytes) return {Memory::device, -1, nullptr, 0};
    return {Memory::pageable, 0, nullptr, 0};
}

bool ends_untouched(std::string& failure) {
    std::lock_guard<std::mutex> lock(mutex);
    for (auto& [start, a] : allocations) {
        uint8_t* guard = a.mapping + a.mapping_bytes;
        for (uint8_t* p = start + a.bytes; p < guard; ++p) {
            if (*p == 0xff) continue;
            failure = "wrote " + size_of(size_t(p - start - ptrdiff_t(a.bytes))) +
                      " past the end of an allocation of " + size_of(a.bytes);
            memset(start + a.bytes, 0xff, size_t(guard - start) - a.bytes);
            return false;
        }
    }
    return true;
}

// Called by a kernel that faulted, so this thread does not hold the lock.
void describe_address(const void* address, char* text, size_t size) {
    const auto* at = static_cast<const uint8_t*>(address);
    std::lock_guard<std::mutex> lock(mutex);
    if (at == nullptr || reinterpret_cast<intptr_t>(at) < 0) {
        snprintf(text, size, "at no valid address: 0, or one made of poison");
        return;
    }
    const Allocation* a = allocation_before(at);
    if (a && at < a->mapping + a->mapping_bytes + page) {
        snprintf(text, size, "%td bytes past the start of an allocation of %zu bytes",
                 at - a->start, a->bytes);
        return;
    }
    auto it = freed.upper_bound(const_cast<uint8_t*>(at));
    if (it != freed.begin() && at < (--it)->first + it->second + page) {
        snprintf(text, size, "%td bytes into freed memory of %zu bytes", at - it->first,
                 it->second);
        return;
    }
    if (arena && at >= arena && at < arena_next) {
        snprintf(text, size, "%p, just before an allocation", address);
        return;
    }
    snprintf(text, size, "%p, which is no memory of the device", address);
}

} // namespace emu
