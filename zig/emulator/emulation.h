// The emulated GPU as a kernel compiled for the host sees it: one function for each instruction
// that plain C++ has not. kernels/ptx calls them; the emulator (the same folder's .cpp files) holds
// them.
#pragma once
#include "language.h"
#include "numbers.h"

#pragma GCC visibility push(default)
namespace emu {

// The visible part of a running block and thread.
struct BlockPlace {
    uint3 index;
    dim3 threads, grid;
};
struct ThreadPlace {
    uint3 index;
    const BlockPlace* block;
};
extern __thread ThreadPlace* self __attribute__((tls_model("initial-exec")));

// What an image says of each of its kernels, under the name fb_kernel_<name>.
struct Kernel {
    uint32_t version, params_bytes, threads, min_blocks;
    void (*entry)(void** arguments); // one argument, as cuLaunchKernel passes it
};
constexpr uint32_t kernel_version = 1;

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
void yield();
void trap();
uint64_t global_timer();
void pdl_wait();

// --- shared memory: an address is the block's place in the emulator << 24 | offset

uint32_t shared_address(const void* pointer);
void* shared_pointer(uint32_t address, uint32_t bytes, uint32_t alignment);
unsigned char* dynamic_shared();
void* static_shared(const void* site, uint32_t bytes, uint32_t alignment);

template <class T>
inline T load_shared(uint32_t address) {
    return *static_cast<const T*>(shared_pointer(address, sizeof(T), sizeof(T)));
}
template <class T>
inline void store_shared(uint32_t address, T v) {
    *static_cast<T*>(shared_pointer(address, sizeof(T), sizeof(T))) = v;
}

// --- global memory

void misaligned(const void* p, uint32_t bytes);
template <class T>
inline T load_global(const void* p) {
    if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) misaligned(p, sizeof(T));
    return *static_cast<const T*>(p);
}
inline void prefetch_bulk(const void* p, uint32_t bytes) {
    if ((reinterpret_cast<uintptr_t>(p) | bytes) % 16) misaligned(p, 16);
    const auto* all = static_cast<const volatile uint8_t*>(p);
    all[0]; // is to be there
    all[bytes - 1];
}
template <class T>
inline void store_global(void* p, T v) {
    if (reinterpret_cast<uintptr_t>(p) % sizeof(T)) misaligned(p, sizeof(T));
    *static_cast<T*>(p) = v;
}
inline uint32_t load_acquire(const uint32_t* p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
inline void store_release(uint32_t* p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
inline uint32_t atomic_add_acq_rel(uint32_t* p, uint32_t v) {
    return __atomic_fetch_add(p, v, __ATOMIC_ACQ_REL);
}
inline void check_policy(uint64_t policy) {
    if (policy != 1 && policy != 2) fail("%#lx is not a cache policy", (unsigned long)policy);
}

// --- warps and barriers

enum class Shuffle { index, up, down, flip };
uint64_t shuffle(uint32_t mask, uint64_t v, int lane, Shuffle mode, int width);
uint32_t ballot(uint32_t mask, bool yes);
uint32_t match_any(uint32_t mask, uint64_t v);
uint32_t reduce(uint32_t mask, uint32_t v, uint32_t (*step)(uint32_t, uint32_t));
void syncwarp(uint32_t mask);
bool elect_one();
void thread_fence();
void barrier(uint32_t id, uint32_t threads, bool wait); // 0 threads: the whole block
int barrier_count(bool yes, uint32_t id);

// --- tensor cores of a warp

void mma(float* d, const uint32_t* a, uint32_t b0, uint32_t b1, Number kind);
void ldmatrix(uint32_t* r, uint32_t address, int count, bool transposed);
void stmatrix(const uint32_t* r, uint32_t address, int count, bool transposed);

// --- copies by a thread

void cp_async(uint32_t target, const void* source, uint32_t bytes, uint32_t source_bytes);
void cp_async_commit();
void cp_async_wait(int pending); // -1: all, the open group too
void cp_async_mbarrier_arrive(uint32_t mbarrier, bool counted);

// --- mbarriers

void mbarrier_init(uint32_t address, uint32_t count);
void mbarrier_invalidate(uint32_t address);
void mbarrier_arrive(uint32_t address, uint32_t count);
void mbarrier_expect(uint32_t address, uint32_t bytes);
bool mbarrier_test(uint32_t address, uint32_t parity, bool may_suspend);

// --- clusters

uint32_t cluster_rank();
uint32_t cluster_size();
uint32_t map_shared(uint32_t address, uint32_t rank);
void cluster_arrive();
void cluster_wait();
void store_async(uint32_t target, const uint32_t* words, int count, uint32_t mbarrier);

// --- bulk copies (TMA)

void fence_proxy_async();
void bulk_load(uint32_t target, const void* source, uint32_t bytes, uint32_t mbarrier,
               uint32_t mask);
void bulk_store(void* target, uint32_t source, uint32_t bytes, bool add_f32);
void bulk_share(uint32_t target, uint32_t source, uint32_t bytes, uint32_t mbarrier);
// mask: blocks of the cluster that receive the tile, 0: only this one
void tensor_load(uint32_t target, const void* map, int rank, const int* at, uint32_t mbarrier,
                 uint32_t mask);
void tensor_store(const void* map, int rank, const int* at, uint32_t source, bool add);
void tensor_check(const void* map);
void bulk_commit();
void bulk_wait(int pending, bool read_only);

// --- tensor cores of a warpgroup

// a: four registers, or null: shared memory at descriptor a_place
void wgmma(float* d, int columns, const uint32_t* a, uint64_t a_place, uint64_t b_place,
           bool accumulate, bool transpose_a, bool transpose_b, Number kind);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);

} // namespace emu
#pragma GCC visibility pop

#ifndef EMU_RUNTIME // the emulator's own files
#include "mathematics.h"

#include "builtins.h"

#define FB_DYNAMIC_SHARED(name) unsigned char* const name = ::emu::dynamic_shared()

#define FB_SHARED(type, name, extent) \
    static char name##_site;          \
    using name##_type = type extent;  \
    name##_type& name =               \
        *static_cast<name##_type*>(::emu::static_shared(&name##_site, sizeof(name##_type), 16))

#define FB_KERNEL(name, Params, thread_count, block_count)                                        \
    static void name(const Params& p);                                                            \
    static void name##_entry(void** arguments) { name(*static_cast<const Params*>(*arguments)); } \
    extern "C" __attribute__((visibility("default"))) const emu::Kernel fb_kernel_##name = {      \
        emu::kernel_version, sizeof(Params), thread_count, block_count, name##_entry};            \
    static void name(const Params& p)

#endif
