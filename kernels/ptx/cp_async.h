// Asynchronous copies from global to shared memory, 4, 8 or 16 aligned bytes each. The first
// `source_bytes` bytes are read, the rest of the target becomes zero. Landed for the issuing thread
// after cp_async_wait, for others after a barrier. Before sm_80 the thread copies by itself, at
// once.
#pragma once
#include "memory.h"

#if FB_ARCH < 800
// Words of which the first `bytes` count, one at a time: a kernel's rows are whole, or none.
FB_DEVICE uint32_t word_of(const void* source, int word, uint32_t bytes) {
    const uint32_t first = 4 * word;
    if (bytes >= first + 4) return static_cast<const uint32_t*>(source)[word];
    uint32_t v = 0;
    for (uint32_t i = first; i < bytes; i++)
        v |= uint32_t(static_cast<const uint8_t*>(source)[i]) << 8 * (i - first);
    return v;
}

#define FB_CP_ASYNC(bytes, text)                                               \
    FB_DEVICE void cp_async_##bytes(uint32_t target, const void* source,       \
                                    uint32_t source_bytes = bytes) {           \
        for (int word = 0; word < bytes / 4; word++)                           \
            store_shared_4(target + 4 * word, word_of(source, word, source_bytes)); \
    }
#elif defined FB_EMULATED
#define FB_CP_ASYNC(bytes, text)                                         \
    FB_DEVICE void cp_async_##bytes(uint32_t target, const void* source, \
                                    uint32_t source_bytes = bytes) {     \
        emu::cp_async(target, source, bytes, source_bytes);              \
    }
#else
#define FB_CP_ASYNC(bytes, text)                                              \
    FB_DEVICE void cp_async_##bytes(uint32_t target, const void* source,      \
                                    uint32_t source_bytes = bytes) {          \
        asm volatile(text " [%0], [%1], " #bytes ", %2;" ::"r"(target),       \
                     "l"(__cvta_generic_to_global(source)), "r"(source_bytes) \
                     : "memory");                                             \
    }
#endif
// 16 bytes pass L1 by (cg); the others exist only through L1 (ca). There is no form with a cache
// policy: an H100 calls it an illegal instruction (driver 580, ptxas 13.0).
FB_CP_ASYNC(4, "cp.async.ca.shared.global")
FB_CP_ASYNC(8, "cp.async.ca.shared.global")
#if FB_ARCH >= 800
FB_CP_ASYNC(16, "cp.async.cg.shared.global.L2::128B")
#else
FB_DEVICE void cp_async_16(uint32_t target, const void* source, uint32_t source_bytes = 16) {
    uint4 v = make_uint4(0, 0, 0, 0);
    if (source_bytes == 16) v = *static_cast<const uint4*>(source);
    else if (source_bytes > 0)
        v = make_uint4(word_of(source, 0, source_bytes), word_of(source, 1, source_bytes),
                       word_of(source, 2, source_bytes), word_of(source, 3, source_bytes));
    store_shared_16(target, v);
}
#endif
#undef FB_CP_ASYNC

// Prefetches 256 bytes into L2: for rows of 256 bytes and more.
FB_DEVICE void cp_async_16_l2_256(uint32_t target, const void* source, uint32_t source_bytes = 16) {
#if FB_ARCH < 800
    cp_async_16(target, source, source_bytes);
#elif defined FB_EMULATED
    emu::cp_async(target, source, 16, source_bytes);
#else
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(target),
                 "l"(__cvta_generic_to_global(source)), "r"(source_bytes)
                 : "memory");
#endif
}

// 16 bytes, or zeros if `there` is 0.
FB_DEVICE void cp_async_16_if(uint32_t there, uint32_t target, const void* source) {
#if FB_ARCH < 800 || defined FB_EMULATED
    cp_async_16(target, source, there != 0 ? 16 : 0);
#else
    asm volatile("{ .reg .pred none; setp.eq.u32 none, %2, 0; "
                 "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, none; }" ::"r"(target),
                 "l"(__cvta_generic_to_global(source)), "r"(there)
                 : "memory");
#endif
}

FB_DEVICE void cp_async_commit() {
#ifdef FB_EMULATED
    emu::cp_async_commit();
#elif FB_ARCH >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most `pending` of this thread's latest groups are in flight.
template <int pending>
FB_DEVICE void cp_async_wait() {
#ifdef FB_EMULATED
    emu::cp_async_wait(pending);
#elif FB_ARCH >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

FB_DEVICE void cp_async_wait_all() {
#ifdef FB_EMULATED
    emu::cp_async_wait(-1);
#elif FB_ARCH >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}
