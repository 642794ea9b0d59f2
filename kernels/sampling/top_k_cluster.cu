// The largest of rows, a cluster for a row: for GPUs that have clusters.
#include "../ptx/base.h"
#include "top_k.h"

// ---- facts

constexpr int top_k_threads = 384;
constexpr int top_k_blocks = 8;

static_assert(top_k_threads == team_threads, "a block is a part of a team");

// ---- the kernel

// Row `item`.
FB_OPERATOR(top_k_rows_cluster, fb_top_k_params, top_k_threads, 2, 1, top_k_blocks) {
#if FB_ARCH >= 900
    FB_SHARED(TopKShared, shared, );
    pdl_wait();
    pdl_launch_dependents();
    top_k_row<top_k_blocks>(p, shared);
#endif
}
