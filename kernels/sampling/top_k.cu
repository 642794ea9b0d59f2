// The largest of rows, a block for a row.
#include "../ptx/base.h"
#include "top_k.h"

// ---- facts

constexpr int top_k_threads = 384;

static_assert(top_k_threads == team_threads, "a block is a team");

// ---- the kernel

// Row `item`.
FB_OPERATOR(top_k_rows, fb_top_k_params, top_k_threads, 1, 1) {
    FB_SHARED(TopKShared, shared, );
    pdl_wait();
    pdl_launch_dependents();
    top_k_row<1>(p, shared);
}
