// Tokens and probabilities, a cluster for a row: for GPUs that have clusters.
#include "../ptx/base.h"
#include "sample.h"

// ---- facts

constexpr int sample_threads = 384;
constexpr int sample_blocks = 8;

static_assert(sample_threads == team_threads, "a block is a part of a team");

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_rows_cluster, fb_sample_params, sample_threads, 2, 1, sample_blocks) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    pdl_wait();
    pdl_launch_dependents();
    sample_row<sample_blocks>(p, shared);
#endif
}
