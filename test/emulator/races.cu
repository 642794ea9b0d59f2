// Launched with 64 threads. FB_LESS takes one thing away: only the race detector notices.
#include "conformance.h"

#include "ptx/barrier.h"
#include "ptx/fence.h"
#include "ptx/memory.h"
#include "ptx/tma.h"

// Each thread writes a word, adds that of the other warp, and the sums leave by a bulk store.
FB_KERNEL(exchange, probe, 64, 1) {
    FB_SHARED(uint32_t, words, [128]);
    const uint32_t thread = threadIdx.x;
    words[thread] = thread;
#if FB_LESS != 1
    __syncthreads();
#endif
    words[64 + thread] = words[thread ^ 32] + thread;
#if FB_LESS != 2
    fence_proxy_async_shared();
#endif
    __syncthreads();
    if (thread != 0) return;
    bulk_store(words_out(p), shared_address(words + 64), 256);
    bulk_commit();
#if FB_LESS == 3
    words[64] = 0;
#endif
    bulk_wait<0>();
}
