// Loads, stores and hints that the language has no word for. Addresses of shared memory are 32-bit
// offsets.
#pragma once
#include "base.h"

FB_DEVICE uint32_t shared_address(const void* pointer) {
#ifdef FB_EMULATED
    return emu::shared_address(pointer);
#else
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
#endif
}

// The same number, which the compiler holds instead of finding it again: in a loop, the base of
// shared memory took a slow register's read for each load.
FB_DEVICE uint32_t hold(uint32_t x) {
#ifndef FB_EMULATED
    asm volatile("" : "+r"(x));
#endif
    return x;
}

FB_DEVICE uint32_t load_shared_4(uint32_t address) {
#ifdef FB_EMULATED
    return emu::load_shared<uint32_t>(address);
#else
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address) : "memory");
    return v;
#endif
}

FB_DEVICE uint2 load_shared_8(uint32_t address) {
#ifdef FB_EMULATED
    return emu::load_shared<uint2>(address);
#else
    uint2 v;
    asm volatile("ld.shared.v2.b32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "r"(address)
                 : "memory");
    return v;
#endif
}

FB_DEVICE uint4 load_shared_16(uint32_t address) {
#ifdef FB_EMULATED
    return emu::load_shared<uint4>(address);
#else
    uint4 v;
    asm volatile("ld.shared.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
#endif
}

FB_DEVICE void store_shared_4(uint32_t address, uint32_t v) {
#ifdef FB_EMULATED
    emu::store_shared(address, v);
#else
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(v) : "memory");
#endif
}

FB_DEVICE void store_shared_8(uint32_t address, uint2 v) {
#ifdef FB_EMULATED
    emu::store_shared(address, v);
#else
    asm volatile("st.shared.v2.b32 [%0], {%1,%2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
#endif
}

FB_DEVICE void store_shared_16(uint32_t address, uint4 v) {
#ifdef FB_EMULATED
    emu::store_shared(address, v);
#else
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
#endif
}

// Read-only for the whole launch (nc): nothing may write the data while the kernel runs.
FB_DEVICE uint32_t load_nc_4(const void* p) {
#ifdef FB_EMULATED
    return emu::load_global<uint32_t>(p);
#else
    uint32_t v;
    asm volatile("ld.global.nc.b32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
#endif
}

FB_DEVICE uint2 load_nc_8(const void* p) {
#ifdef FB_EMULATED
    return emu::load_global<uint2>(p);
#else
    uint2 v;
    asm volatile("ld.global.nc.v2.b32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#endif
}

FB_DEVICE uint4 load_nc_16(const void* p) {
#ifdef FB_EMULATED
    return emu::load_global<uint4>(p);
#else
    uint4 v;
    asm volatile("ld.global.nc.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
#endif
}

// For data read once: it does not push others out of L1.
FB_DEVICE uint4 load_nc_once_16(const void* p) {
#ifdef FB_EMULATED
    return emu::load_global<uint4>(p);
#else
    uint4 v;
#if FB_ARCH >= 800
#define FB_ONCE "ld.global.nc.L1::no_allocate.L2::256B.v4.b32"
#else
#define FB_ONCE "ld.global.nc.L1::no_allocate.v4.b32"
#endif
    asm volatile(FB_ONCE " {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
#undef FB_ONCE
    return v;
#endif
}

FB_DEVICE void store_4(void* p, uint32_t v) {
#ifdef FB_EMULATED
    emu::store_global(p, v);
#else
    asm volatile("st.global.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

FB_DEVICE void store_8(void* p, uint2 v) {
#ifdef FB_EMULATED
    emu::store_global(p, v);
#else
    asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
#endif
}

FB_DEVICE void store_16(void* p, uint4 v) {
#ifdef FB_EMULATED
    emu::store_global(p, v);
#else
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z),
                 "r"(v.w)
                 : "memory");
#endif
}

// Scope: the whole GPU.
FB_DEVICE uint32_t load_acquire_4(const void* p) {
#ifdef FB_EMULATED
    return emu::load_acquire(static_cast<const uint32_t*>(p));
#else
    uint32_t v;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
#endif
}

FB_DEVICE void store_release_4(void* p, uint32_t v) {
#ifdef FB_EMULATED
    emu::store_release(static_cast<uint32_t*>(p), v);
#else
    asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

FB_DEVICE uint32_t atomic_add_acq_rel_4(void* p, uint32_t v) {
#ifdef FB_EMULATED
    return emu::atomic_add_acq_rel(static_cast<uint32_t*>(p), v);
#else
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old)
                 : "l"(p), "r"(v)
                 : "memory");
    return old;
#endif
}

FB_DEVICE void reduce_add_release_4(void* p, uint32_t v) {
#ifdef FB_EMULATED
    emu::atomic_add_acq_rel(static_cast<uint32_t*>(p), v);
#else
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
#endif
}

FB_DEVICE void reduce_add_f32(float* p, float v) {
#ifdef FB_EMULATED
    atomicAdd(p, v);
#else
    asm volatile("red.relaxed.gpu.global.add.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");
#endif
}

// Inside every loop that waits for another block: `while (load_acquire_4(flag) < n) spin_pause();`
FB_DEVICE void spin_pause() {
#ifdef FB_EMULATED
    emu::yield();
#else
    asm volatile("nanosleep.u32 20;");
#endif
}

FB_DEVICE void prefetch_l1(const void* p) {
#ifndef FB_EMULATED
    asm volatile("prefetch.global.L1 [%0];" ::"l"(p));
#endif
}

FB_DEVICE void prefetch_l2(const void* p) {
#ifndef FB_EMULATED
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// Asks the L2 cache for `bytes`, which like the address are a multiple of 16. Before sm_90:
// nothing.
FB_DEVICE void prefetch_l2_bulk(const void* p, uint32_t bytes) {
#ifdef FB_EMULATED
    emu::prefetch_bulk(p, bytes);
#elif FB_ARCH >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes));
#endif
}

// Cache policies for the wrappers that take one.
FB_DEVICE uint64_t policy_evict_first() {
#ifdef FB_EMULATED
    return 1;
#else
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
#endif
}

FB_DEVICE uint64_t policy_evict_last() {
#ifdef FB_EMULATED
    return 2;
#else
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
#endif
}

FB_DEVICE uint4 load_nc_policy_16(const void* p, uint64_t policy) {
#ifdef FB_EMULATED
    emu::check_policy(policy);
    return emu::load_global<uint4>(p);
#else
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.b32 {%0,%1,%2,%3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p), "l"(policy));
    return v;
#endif
}
