// The largest of rows, a cluster for a row, which it holds: for GPUs that have clusters.
#include "../ptx/base.h"
#include "held.h"
#include "top_k.h"

// ---- facts

constexpr int top_k_threads = 384;
constexpr int top_k_blocks = 8;
// Of a row of 157,696 f32 each block's part, so that a multiprocessor has two blocks.
constexpr int top_k_shared = 78848;

static_assert(top_k_threads == team_threads, "a block is a part of a team");

// ---- the kernel

// Row `item`.
FB_OPERATOR(top_k_rows_cluster, fb_top_k_params, top_k_threads, 2, 1, top_k_blocks, top_k_shared) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(uint64_t, loaded, );
    FB_SHARED(uint32_t, next, );
    Holder<top_k_blocks> holder = {top_k_shared, shared_address(&loaded)};
    if (threadIdx.x == 0) shared.leader = 0;
    holder.begin();
    Team<top_k_blocks> team = {shared};
    pdl_wait();
    pdl_launch_dependents();
    uint32_t turn = 0;
    FB_NO_UNROLL
    for (int64_t index = blockIdx.x / top_k_blocks; index < p.row_count;
         index += gridDim.x / top_k_blocks) {
        const uint64_t source = p.x + index * p.x_stride * element_bytes(p.dtype);
        const Row<top_k_blocks> row = holder.row(source, p.dtype, p.row_length, false);
        holder.start(row);
        holder.wait(turn++);
        top_k_row(p, team, row, index, next);
        // Nobody goes on while others may still read its memory.
        team.sync();
    }
#endif
}
