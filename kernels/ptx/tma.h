// Bulk copies (sm_90), issued by one thread. Loads count their bytes on an mbarrier. Stores read
// shared memory behind the caller's back: write, fence_proxy_async_shared by every writer, barrier,
// store, bulk_commit, and bulk_wait_read before the memory is written again.
//
// Plain copies: multiples of 16 bytes, 16-byte aligned on both sides. Tiles: boxes of a tensor map
// at element coordinates, innermost axis first, whose innermost one is a multiple of 16 bytes (an
// H100 calls others an illegal instruction). Their shared memory is 128-byte aligned (1024 for the
// pattern of a 128-byte swizzle to start over) and dense, but rows of a swizzled box begin at
// multiples of the swizzle's span. What lies outside of the tensor is loaded as zeros, counted like
// the rest, and not stored; but a store writes the 16 bytes that hold a row's last element as a
// whole (so an H100), and wants coordinates of at least 0.
#pragma once
#include "base.h"

#include "../params/tensor_map.h"

// --- plain copies

FB_DEVICE void bulk_load(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier) {
#ifdef FB_EMULATED
    emu::bulk_load(target, source, bytes, barrier, 0);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(target),
                 "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}

FB_DEVICE void bulk_load_policy(uint32_t target, const void* source, uint32_t bytes,
                                uint32_t barrier, uint64_t policy) {
#ifdef FB_EMULATED
    emu::check_policy(policy);
    emu::bulk_load(target, source, bytes, barrier, 0);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(target),
                 "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
#endif
}

// To the same place of every block in the mask, each counting on its own barrier.
FB_DEVICE void bulk_load_multicast(uint32_t target, const void* source, uint32_t bytes,
                                   uint32_t barrier, uint16_t mask) {
#ifdef FB_EMULATED
    emu::bulk_load(target, source, bytes, barrier, mask);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1], %2, [%3], %4;" ::"r"(target),
                 "l"(__cvta_generic_to_global(source)), "r"(bytes), "r"(barrier), "h"(mask)
                 : "memory");
#endif
}

FB_DEVICE void bulk_store(void* target, uint32_t source, uint32_t bytes) {
#ifdef FB_EMULATED
    emu::bulk_store(target, source, bytes, false);
#else
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(target)),
                 "r"(source), "r"(bytes)
                 : "memory");
#endif
}

// target[i] += source[i], in f32.
FB_DEVICE void bulk_add_f32(void* target, uint32_t source, uint32_t bytes) {
#ifdef FB_EMULATED
    emu::bulk_store(target, source, bytes, true);
#else
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                     __cvta_generic_to_global(target)),
                 "r"(source), "r"(bytes)
                 : "memory");
#endif
}

// Into the shared memory of another block of the cluster (target and barrier mapped).
FB_DEVICE void bulk_share(uint32_t target, uint32_t source, uint32_t bytes, uint32_t barrier) {
#ifdef FB_EMULATED
    emu::bulk_share(target, source, bytes, barrier);
#else
    asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];" ::"r"(target),
                 "r"(source), "r"(bytes), "r"(barrier)
                 : "memory");
#endif
}

// --- groups of stores

FB_DEVICE void bulk_commit() {
#ifdef FB_EMULATED
    emu::bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Waits until at most `pending` of this thread's latest groups are not written.
template <int pending>
FB_DEVICE void bulk_wait() {
#ifdef FB_EMULATED
    emu::bulk_wait(pending, false);
#else
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
#endif
}

// Waits until at most `pending` of them still read shared memory.
template <int pending>
FB_DEVICE void bulk_wait_read() {
#ifdef FB_EMULATED
    emu::bulk_wait(pending, true);
#else
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
#endif
}

// --- tiles

// Fetches the map itself, before the first tile needs it.
FB_DEVICE void tensor_prefetch(const fb_tensor_map* map) {
#ifdef FB_EMULATED
    emu::tensor_check(map);
#else
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

#ifndef FB_EMULATED
#define FB_TENSOR_LOAD(rank) \
    "cp.async.bulk.tensor." #rank "d.shared::cluster.global.mbarrier::complete_tx::bytes"
#define FB_TENSOR(rank, at2, at3, at4, ...)                                                        \
    FB_DEVICE void tensor_load_(uint32_t target, const fb_tensor_map* map, uint32_t barrier,       \
                                const int (&at)[rank]) {                                           \
        asm volatile(FB_TENSOR_LOAD(rank) " [%0], [%1, " at3 "], [%2];" ::"r"(target), "l"(map),   \
                     "r"(barrier), __VA_ARGS__                                                     \
                     : "memory");                                                                  \
    }                                                                                              \
    FB_DEVICE void tensor_load_policy_(uint32_t target, const fb_tensor_map* map,                  \
                                       uint32_t barrier, const int (&at)[rank], uint64_t policy) { \
        asm volatile(FB_TENSOR_LOAD(rank) ".L2::cache_hint [%0], [%1, " at4                        \
                                          "], [%2], %3;" ::"r"(target),                            \
                     "l"(map), "r"(barrier), "l"(policy), __VA_ARGS__                              \
                     : "memory");                                                                  \
    }                                                                                              \
    FB_DEVICE void tensor_load_multicast_(uint32_t target, const fb_tensor_map* map,               \
                                          uint32_t barrier, const int (&at)[rank],                 \
                                          uint16_t mask) {                                         \
        asm volatile(FB_TENSOR_LOAD(rank) ".multicast::cluster [%0], [%1, " at4                    \
                                          "], [%2], %3;" ::"r"(target),                            \
                     "l"(map), "r"(barrier), "h"(mask), __VA_ARGS__                                \
                     : "memory");                                                                  \
    }                                                                                              \
    FB_DEVICE void tensor_store_(const fb_tensor_map* map, const int (&at)[rank],                  \
                                 uint32_t source) {                                                \
        asm volatile("cp.async.bulk.tensor." #rank "d.global.shared::cta.bulk_group [%0, " at2     \
                     "], [%1];" ::"l"(map),                                                        \
                     "r"(source), __VA_ARGS__                                                      \
                     : "memory");                                                                  \
    }                                                                                              \
    FB_DEVICE void tensor_add_(const fb_tensor_map* map, const int (&at)[rank], uint32_t source) { \
        asm volatile("cp.reduce.async.bulk.tensor." #rank                                          \
                     "d.global.shared::cta.add.bulk_group [%0, " at2 "], [%1];" ::"l"(map),        \
                     "r"(source), __VA_ARGS__                                                      \
                     : "memory");                                                                  \
    }
FB_TENSOR(1, "{%2}", "{%3}", "{%4}", "r"(at[0]))
FB_TENSOR(2, "{%2,%3}", "{%3,%4}", "{%4,%5}", "r"(at[0]), "r"(at[1]))
FB_TENSOR(3, "{%2,%3,%4}", "{%3,%4,%5}", "{%4,%5,%6}", "r"(at[0]), "r"(at[1]), "r"(at[2]))
FB_TENSOR(4, "{%2,%3,%4,%5}", "{%3,%4,%5,%6}", "{%4,%5,%6,%7}", "r"(at[0]), "r"(at[1]), "r"(at[2]),
          "r"(at[3]))
FB_TENSOR(5, "{%2,%3,%4,%5,%6}", "{%3,%4,%5,%6,%7}", "{%4,%5,%6,%7,%8}", "r"(at[0]), "r"(at[1]),
          "r"(at[2]), "r"(at[3]), "r"(at[4]))
#undef FB_TENSOR
#undef FB_TENSOR_LOAD
#endif

// tensor_load(target, &p.map, barrier, {x, y}): as many coordinates as the map has axes.
template <int rank>
FB_DEVICE void tensor_load(uint32_t target, const fb_tensor_map* map, uint32_t barrier,
                           const int (&at)[rank]) {
#ifdef FB_EMULATED
    emu::tensor_load(target, map, rank, at, barrier, 0);
#else
    tensor_load_(target, map, barrier, at);
#endif
}

template <int rank>
FB_DEVICE void tensor_load_policy(uint32_t target, const fb_tensor_map* map, uint32_t barrier,
                                  const int (&at)[rank], uint64_t policy) {
#ifdef FB_EMULATED
    emu::check_policy(policy);
    emu::tensor_load(target, map, rank, at, barrier, 0);
#else
    tensor_load_policy_(target, map, barrier, at, policy);
#endif
}

// To the same place of every block in the mask, each counting on its own barrier.
template <int rank>
FB_DEVICE void tensor_load_multicast(uint32_t target, const fb_tensor_map* map, uint32_t barrier,
                                     const int (&at)[rank], uint16_t mask) {
#ifdef FB_EMULATED
    emu::tensor_load(target, map, rank, at, barrier, mask);
#else
    tensor_load_multicast_(target, map, barrier, at, mask);
#endif
}

template <int rank>
FB_DEVICE void tensor_store(const fb_tensor_map* map, const int (&at)[rank], uint32_t source) {
#ifdef FB_EMULATED
    emu::tensor_store(map, rank, at, source, false);
#else
    tensor_store_(map, at, source);
#endif
}

// Adds to what is there, in the map's element type.
template <int rank>
FB_DEVICE void tensor_add(const fb_tensor_map* map, const int (&at)[rank], uint32_t source) {
#ifdef FB_EMULATED
    emu::tensor_store(map, rank, at, source, true);
#else
    tensor_add_(map, at, source);
#endif
}
