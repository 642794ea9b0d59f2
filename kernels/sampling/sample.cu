// Tokens and probabilities, a block for a row.
#include "../ptx/base.h"
#include "sample.h"

// ---- facts

constexpr int sample_threads = 384;

static_assert(sample_threads == team_threads, "a block is a team");

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_rows, fb_sample_params, sample_threads, 1, 1) {
    FB_SHARED(TeamShared, shared, );
    pdl_wait();
    pdl_launch_dependents();
    sample_row<1>(p, shared);
}
