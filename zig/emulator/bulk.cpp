// Bulk copies (TMA). Loads land when no thread can go on; stores read shared memory when their
// thread waits for it, and write when it waits for that.
#include "proxy.h"
#include "tensor_map.h"

namespace emu {

void fence_proxy_async() { race::release(&me()->runner->proxy_tag); }

uint32_t swizzled(uint32_t address, uint32_t span) {
    const uint32_t rows = span == 128 ? 7 : span == 64 ? 3 : span == 32 ? 1 : 0;
    return address ^ ((address >> 7 & rows) << 4);
}

// --- to shared memory, with bytes counted by an mbarrier

namespace {
struct Delivery {
    uint32_t target, mbarrier, bytes; // bytes are what counts on the mbarrier
    uint32_t extent;                  // what lies between the first byte written and the last
};
using Write = std::function<void(uint8_t* arena, bool poisons)>;
} // namespace

// The target is poisoned until `write` fills it; then the bytes count on the mbarrier.
static void deliver(Delivery to, uint32_t alignment, Write write) {
    Runner* runner = me()->runner;
    if (to.target / window_bytes != to.mbarrier / window_bytes)
        fail("a bulk copy's mbarrier lies in another block than its target");
    void* p = shared_pointer(to.target, to.extent, alignment);
    mbarrier_at(to.mbarrier, "a bulk copy");
    {
        Proxy proxy(runner, &runner->start_tag);
        race::writes(p, to.extent);
    }
    write(runner->arena, true);
    start_asynchronous([runner, to, write = std::move(write)] {
        void* p = shared_pointer(to.target, to.extent, 1);
        write(runner->arena, false);
        Mbarrier& barrier = mbarrier_at(to.mbarrier, "a bulk copy");
        {
            Proxy proxy(runner);
            race::writes(p, to.extent);
            race::release(barrier.tag());
        }
        mbarrier_received(barrier, to.bytes);
    });
}

// Consecutive bytes.
static void deliver_bytes(uint32_t target, uint32_t mbarrier, uint32_t bytes, uint32_t alignment,
                          std::function<void(uint8_t* target)> write) {
    deliver({target, mbarrier, bytes, bytes}, alignment, [=](uint8_t* arena, bool poisons) {
        if (poisons)
            poison(arena + target, bytes);
        else
            write(arena + target);
    });
}

static void check_bulk(const void* global, uint32_t bytes) {
    if (bytes == 0 || bytes % 16) fail("a bulk copy of %u bytes: must be a multiple of 16", bytes);
    if (reinterpret_cast<uintptr_t>(global) % 16) misaligned(global, 16);
}

// The same place in every block of the mask; 0: in this block alone.
template <class F>
static void for_blocks(uint32_t target, uint32_t mbarrier, uint32_t mask, F each) {
    // What this thread has seen until now, the copy may rely on: that the target is free.
    race::release(&me()->runner->start_tag);
    if (mask == 0) return each(target, mbarrier);
    const uint32_t size = cluster_size();
    if (mask >> size) fail("a multicast to blocks %#x of a cluster of %u", mask, size);
    for (uint32_t rank = 0; rank < size; ++rank)
        if (mask >> rank & 1) each(map_shared(target, rank), map_shared(mbarrier, rank));
}

void bulk_load(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier,
               uint32_t mask) {
    check_bulk(source, bytes);
    for_blocks(target, mbarrier, mask, [&](uint32_t to, uint32_t barrier) {
        deliver_bytes(to, barrier, bytes, 16, [=](uint8_t* p) { raw_copy(p, source, bytes); });
    });
}

void bulk_share(uint32_t target, uint32_t source, uint32_t bytes, uint32_t mbarrier) {
    void* from = shared_pointer(source, bytes, 16);
    check_bulk(from, bytes);
    {
        Proxy proxy(me()->runner);
        race::reads(from, bytes);
    }
    race::release(&me()->runner->start_tag);
    deliver_bytes(target, mbarrier, bytes, 16, [=](uint8_t* p) { raw_copy(p, from, bytes); });
}

void store_async(uint32_t target, const uint32_t* words, int count, uint32_t mbarrier) {
    const uint32_t bytes = uint32_t(count) * 4;
    std::vector<uint32_t> kept(words, words + count);
    race::release(&me()->runner->start_tag);
    deliver_bytes(target, mbarrier, bytes, bytes,
                  [=](uint8_t* p) { raw_copy(p, kept.data(), bytes); });
}

// --- tensor maps

static const TensorMap& map_at(const void* p, int rank) {
    const auto& map = *static_cast<const TensorMap*>(p);
    if (reinterpret_cast<uintptr_t>(p) % 64) misaligned(p, 64);
    if (map.magic != tensor_map_magic) fail("%p holds no tensor map", p);
    if (rank && map.rank != rank)
        fail("a tensor map of rank %d used with %d coordinates", map.rank, rank);
    return map;
}

static uint32_t tile_bytes(const TensorMap& map) {
    uint32_t bytes = map.element_bytes;
    for (int axis = 0; axis < map.rank; ++axis) bytes *= map.box[axis];
    return bytes;
}

// Rows of a swizzled box begin at multiples of the swizzle's span, however narrow they are.
static uint32_t row_pitch(const TensorMap& map) {
    return map.swizzle_bytes ? map.swizzle_bytes : map.box[0] * map.element_bytes;
}

static uint32_t tile_extent(const TensorMap& map) {
    return tile_bytes(map) / (map.box[0] * map.element_bytes) * row_pitch(map);
}

// Calls each(offset in the tile, global address or null) for pieces of at most 16 bytes, which are
// inside the tensor or outside as a whole.
template <class F>
static void for_pieces(const TensorMap& map, const int* at, bool stores, F each) {
    // A store writes the sixteen bytes that hold a row's last element as a whole; a load does not
    // read what lies behind it. So does an H100.
    const uint64_t step = 16 / map.element_bytes;
    const uint64_t row_end = stores ? (map.extents[0] + step - 1) / step * step : map.extents[0];
    const uint32_t row_bytes = map.box[0] * map.element_bytes;
    const uint32_t rows = tile_bytes(map) / row_bytes;
    for (uint32_t row = 0; row < rows; ++row) {
        uint32_t rest = row;
        int64_t offset = 0;
        bool row_inside = true;
        for (int axis = 1; axis < map.rank; ++axis) {
            const int64_t x = at[axis] + int64_t(rest % map.box[axis]);
            rest /= map.box[axis];
            row_inside = row_inside && x >= 0 && x < int64_t(map.extents[axis]);
            offset += x * int64_t(map.strides[axis - 1]);
        }
        // Sixteen bytes stay together under every swizzle.
        for (uint32_t chunk = 0; chunk < row_bytes; chunk += 16) {
            const int64_t first = at[0] + int64_t(chunk / map.element_bytes);
            const int64_t last = first + 16 / map.element_bytes - 1;
            const bool whole = first >= 0 && last < int64_t(row_end);
            const uint32_t size = whole ? 16 : map.element_bytes;
            for (uint32_t byte = chunk; byte < chunk + 16; byte += size) {
                const int64_t x = at[0] + int64_t(byte / map.element_bytes);
                const bool inside = row_inside && x >= 0 && x < int64_t(row_end);
                uint8_t* global = map.base + offset + x * map.element_bytes;
                each(row * row_pitch(map) + byte, inside ? global : nullptr, size);
            }
        }
    }
}

static void check_tile(const TensorMap& map, const int* at, uint32_t shared) {
    // Not in the PTX ISA, but an H100 says so.
    if (int64_t(at[0]) * map.element_bytes % 16)
        fail_with(illegal_instruction,
                  "a tile at innermost coordinate %d: not a multiple of 16 bytes", at[0]);
    if (shared % 128)
        fail_with(misaligned_address, "shared address %#x is not 128-byte aligned", shared);
}

namespace {
struct Tile {
    TensorMap map;
    int at[5] = {};
    Tile(const TensorMap& map, const int* from) : map(map) {
        for (int axis = 0; axis < map.rank; ++axis) at[axis] = from[axis];
    }
};
} // namespace

void tensor_load(uint32_t target, const void* p, int rank, const int* at, uint32_t mbarrier,
                 uint32_t mask) {
    const Tile tile(map_at(p, rank), at);
    check_tile(tile.map, at, target);
    for_blocks(target, mbarrier, mask, [&](uint32_t to, uint32_t barrier) {
        const Delivery what{to, barrier, tile_bytes(tile.map), tile_extent(tile.map)};
        deliver(what, 128, [tile, to](uint8_t* arena, bool poisons) {
            const TensorMap& map = tile.map;
            for_pieces(map, tile.at, false,
                       [&](uint32_t offset, const uint8_t* global, uint32_t size) {
                           uint8_t* piece = arena + swizzled(to + offset, map.swizzle_bytes);
                           if (poisons)
                               poison(piece, size);
                           else if (global)
                               raw_copy(piece, global, size);
                           else
                               raw_fill(piece, map.nan_fill ? 0xff : 0, size);
                       });
        });
    });
}

void tensor_check(const void* map) { map_at(map, 0); }

// --- from shared memory

static void add_elements(uint8_t* target, const uint8_t* source, uint32_t bytes, Number kind) {
    const uint32_t step = kind == Number::f32 ? 4 : 2;
    for (uint32_t i = 0; i < bytes; i += step) {
        if (kind == Number::f32) {
            auto* to = reinterpret_cast<float*>(target + i);
            float v, old = *to, sum;
            raw_copy(&v, source + i, 4);
            do {
                sum = old + v;
            } while (!__atomic_compare_exchange(to, &old, &sum, true, __ATOMIC_RELAXED,
                                                __ATOMIC_RELAXED));
            continue;
        }
        auto* to = reinterpret_cast<uint16_t*>(target + i);
        uint16_t v, old = *to, sum;
        raw_copy(&v, source + i, 2);
        do {
            sum = kind == Number::f16 ? float_to_f16(f16_to_float(old) + f16_to_float(v))
                                      : float_to_bf16(bf16_to_float(old) + bf16_to_float(v));
        } while (
            !__atomic_compare_exchange_n(to, &old, sum, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    }
}

void read_store(BulkStore& store) {
    if (store.was_read) return;
    store.bytes.resize(store.size);
    {
        Proxy proxy(me()->runner);
        race::reads(store.source, store.size);
        race::release(&me()->runner->stored_tag);
    }
    raw_copy(store.bytes.data(), store.source, store.size);
    store.was_read = true;
}

static void start_store(uint32_t source, uint32_t size, uint32_t alignment,
                        std::function<void(const std::vector<uint8_t>&)> write) {
    BulkStore store{shared_pointer(source, size, alignment), size, std::move(write), {}, false};
    if (options().landing == Landing::lazy) {
        me()->stores.items.push_back(std::move(store));
        return;
    }
    read_store(store);
    store.write(store.bytes);
}

void bulk_store(void* target, uint32_t source, uint32_t bytes, bool add_f32) {
    check_bulk(target, bytes);
    auto* to = static_cast<uint8_t*>(target);
    start_store(source, bytes, 16, [=](const std::vector<uint8_t>& data) {
        if (add_f32)
            add_elements(to, data.data(), bytes, Number::f32);
        else
            raw_copy(to, data.data(), bytes);
    });
}

void tensor_store(const void* p, int rank, const int* at, uint32_t source, bool add) {
    const Tile tile(map_at(p, rank), at);
    check_tile(tile.map, at, source);
    for (int axis = 0; axis < rank; ++axis) // again an H100's word, not the PTX ISA's
        if (at[axis] < 0)
            fail_with(illegal_instruction, "a tile is stored at coordinate %d", at[axis]);
    if (add && tile.map.kind != Number::f32 && tile.map.kind != Number::f16 &&
        tile.map.kind != Number::bf16)
        fail("a tensor of this type cannot be added to");
    start_store(source, tile_extent(tile.map), 128, [=](const std::vector<uint8_t>& data) {
        for_pieces(tile.map, tile.at, true, [&](uint32_t offset, uint8_t* global, uint32_t size) {
            if (global == nullptr) return;
            // The swizzle works on addresses, so it needs to know where the tile lay.
            const uint8_t* piece =
                data.data() + swizzled(source + offset, tile.map.swizzle_bytes) - source;
            if (add)
                add_elements(global, piece, size, tile.map.kind);
            else
                raw_copy(global, piece, size);
        });
    });
}

void bulk_commit() { me()->stores.commit(); }

void bulk_wait(int pending, bool read_only) {
    auto& stores = me()->stores;
    const uint32_t due = stores.due(pending);
    for (uint32_t i = 0; i < due; ++i) read_store(stores.items[i]);
    if (due > 0) race::acquire(&me()->runner->stored_tag);
    if (read_only) return;
    for (uint32_t i = 0; i < due; ++i) stores.items[i].write(stores.items[i].bytes);
    stores.drop(due);
}

} // namespace emu
