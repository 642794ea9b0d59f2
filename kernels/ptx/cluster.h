// Blocks that run at the same time and reach each other's shared memory (sm_90). No block may end
// while others still reach for its memory: end with a cluster barrier.
#pragma once
#include "base.h"

FB_DEVICE uint32_t cluster_rank() {
#ifdef FB_EMULATED
    return emu::cluster_rank();
#else
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#endif
}

FB_DEVICE uint32_t cluster_size() {
#ifdef FB_EMULATED
    return emu::cluster_size();
#else
    uint32_t size;
    asm volatile("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
#endif
}

// The address under which this place lies in the memory of another block of the cluster.
FB_DEVICE uint32_t map_shared(uint32_t address, uint32_t rank) {
#ifdef FB_EMULATED
    return emu::map_shared(address, rank);
#else
    uint32_t mapped;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(mapped) : "r"(address), "r"(rank));
    return mapped;
#endif
}

// All threads of all blocks; what they wrote before is visible after the wait. Not .aligned: a warp
// of which one thread worked alone may come in parts.
FB_DEVICE void cluster_arrive() {
#ifdef FB_EMULATED
    emu::cluster_arrive();
#else
    asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}

FB_DEVICE void cluster_wait() {
#ifdef FB_EMULATED
    emu::cluster_wait();
#else
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

FB_DEVICE void cluster_sync() {
    cluster_arrive();
    cluster_wait();
}

FB_DEVICE uint32_t load_cluster_4(uint32_t mapped) {
#ifdef FB_EMULATED
    return emu::load_shared<uint32_t>(mapped);
#else
    uint32_t v;
    asm volatile("ld.shared::cluster.b32 %0, [%1];" : "=r"(v) : "r"(mapped) : "memory");
    return v;
#endif
}

FB_DEVICE uint4 load_cluster_16(uint32_t mapped) {
#ifdef FB_EMULATED
    return emu::load_shared<uint4>(mapped);
#else
    uint4 v;
    asm volatile("ld.shared::cluster.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(mapped)
                 : "memory");
    return v;
#endif
}

FB_DEVICE void store_cluster_4(uint32_t mapped, uint32_t v) {
#ifdef FB_EMULATED
    emu::store_shared(mapped, v);
#else
    asm volatile("st.shared::cluster.b32 [%0], %1;" ::"r"(mapped), "r"(v) : "memory");
#endif
}

FB_DEVICE void store_cluster_16(uint32_t mapped, uint4 v) {
#ifdef FB_EMULATED
    emu::store_shared(mapped, v);
#else
    asm volatile("st.shared::cluster.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(mapped), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
#endif
}

// Asynchronous stores, whose bytes count on an mbarrier of the same block (both mapped).
FB_DEVICE void store_async_4(uint32_t mapped, uint32_t v, uint32_t mapped_barrier) {
#ifdef FB_EMULATED
    emu::store_async(mapped, &v, 1, mapped_barrier);
#else
    asm volatile(
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(mapped),
        "r"(v), "r"(mapped_barrier)
        : "memory");
#endif
}

FB_DEVICE void store_async_8(uint32_t mapped, float2 v, uint32_t mapped_barrier) {
#ifdef FB_EMULATED
    const uint32_t words[2] = {__float_as_uint(v.x), __float_as_uint(v.y)};
    emu::store_async(mapped, words, 2, mapped_barrier);
#else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1,%2}, "
                 "[%3];" ::"r"(mapped),
                 "f"(v.x), "f"(v.y), "r"(mapped_barrier)
                 : "memory");
#endif
}

FB_DEVICE void store_async_16(uint32_t mapped, uint4 v, uint32_t mapped_barrier) {
#ifdef FB_EMULATED
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
    emu::store_async(mapped, words, 4, mapped_barrier);
#else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], "
                 "{%1,%2,%3,%4}, [%5];" ::"r"(mapped),
                 "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w), "r"(mapped_barrier)
                 : "memory");
#endif
}
