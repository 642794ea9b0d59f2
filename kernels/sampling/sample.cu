// Tokens and probabilities, a block for a row.
#include "../ptx/base.h"
#include "sample.h"

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_rows, fb_sample_params, team_threads, 1, 1) {
    FB_SHARED(TeamShared, shared, );
    pdl_wait();
    pdl_launch_dependents();
    const int64_t index = blockIdx.x;
    if (index >= p.row_count) return;
    const Row<1> row =
        block_row(row_source(p, index), p.dtype, p.vocabulary, p.is_probabilities != 0);
    Team<1> team = {shared};
    sample_row(p, team, task_of(p, index, row), [] {});
}
