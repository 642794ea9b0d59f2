// The largest of rows, a block for a row.
#include "../ptx/base.h"
#include "top_k.h"

// ---- the kernel

// Row `item`.
FB_OPERATOR(top_k_rows, fb_top_k_params, team_threads, 1, 1) {
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(uint32_t, next, );
    pdl_wait();
    pdl_launch_dependents();
    const int64_t index = blockIdx.x;
    if (index >= p.row_count) return;
    const Row<1> row = block_row(row_source(p, index), p.dtype, p.row_length, false);
    Team<1> team = {shared};
    top_k_row(p, team, row, index, next);
}
