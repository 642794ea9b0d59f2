// Fences between memory proxies and scopes.
#pragma once
#include "base.h"

// Ordinary writes become visible to the asynchronous proxy (wgmma, bulk copies): by the writing
// threads, before the barrier after which the asynchronous operation is issued.
FB_DEVICE void fence_proxy_async() {
#ifdef FB_EMULATED
    emu::fence_proxy_async();
#else
    asm volatile("fence.proxy.async;" ::: "memory");
#endif
}

FB_DEVICE void fence_proxy_async_shared() {
#ifdef FB_EMULATED
    emu::fence_proxy_async();
#else
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

FB_DEVICE void fence_proxy_async_global() {
#ifdef FB_EMULATED
    emu::fence_proxy_async();
#else
    asm volatile("fence.proxy.async.global;" ::: "memory");
#endif
}

// After mbarrier_init, before a cluster barrier or __syncthreads makes the barriers known.
FB_DEVICE void fence_mbarrier_init() {
#ifndef FB_EMULATED
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

FB_DEVICE void fence_acq_rel_gpu() {
#ifdef FB_EMULATED
    __threadfence();
#else
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
#endif
}

FB_DEVICE void fence_acq_rel_cluster() {
#ifdef FB_EMULATED
    __threadfence();
#else
    asm volatile("fence.acq_rel.cluster;" ::: "memory");
#endif
}

// A tensor map in global memory, written by ordinary stores: released by the writer ...
FB_DEVICE void fence_tensor_map_release() {
#ifndef FB_EMULATED
    asm volatile("fence.proxy.tensormap::generic.release.gpu;" ::: "memory");
#endif
}

// ... and acquired by the thread that copies with it.
FB_DEVICE void fence_tensor_map_acquire(const void* map) {
#ifndef FB_EMULATED
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" ::"l"(map) : "memory");
#endif
}
