// The largest of rows, a cluster for a row, which it holds: for GPUs that have clusters.
#include "../ptx/base.h"
#include "held.h"
#include "top_k.h"

// ---- the kernel

// Row `item`.
FB_OPERATOR(top_k_rows_cluster, fb_top_k_params, team_threads, 2, 1, held_blocks, held_shared) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(uint64_t, loaded, );
    FB_SHARED(uint32_t, next, );
    Holder<held_blocks> holder = {held_shared, shared_address(&loaded)};
    if (threadIdx.x == 0) shared.leader = 0;
    holder.begin();
    Team<held_blocks> team = {shared};
    pdl_wait();
    pdl_launch_dependents();
    uint32_t turn = 0;
    FB_NO_UNROLL
    for (int64_t index = blockIdx.x / held_blocks; index < p.row_count;
         index += gridDim.x / held_blocks) {
        const Row<held_blocks> row = holder.row(row_source(p, index), p.dtype, p.row_length, false);
        holder.start(row);
        holder.wait(turn++);
        top_k_row(p, team, row, index, next);
        // Nobody goes on while others may still read its memory.
        team.sync();
    }
#endif
}
