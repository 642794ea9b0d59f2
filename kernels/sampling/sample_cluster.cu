// Tokens and probabilities, a cluster for a row, which it holds: for GPUs that have clusters.
#include "../ptx/base.h"
#include "held.h"
#include "sample.h"

// ---- facts

constexpr int sample_threads = 384;
constexpr int sample_blocks = 8;
// Of a row of 157,696 f32 each block's part, so that a multiprocessor has two blocks.
constexpr int sample_shared = 78848;

static_assert(sample_threads == team_threads, "a block is a part of a team");

// Which rows a block is at: in shared memory, as registers are few.
struct Progress {
    uint32_t turn;
    uint32_t started; // turns whose row the block has begun to load

    static FB_DEVICE int64_t index(uint32_t turn) {
        return (blockIdx.x + int64_t(gridDim.x) * turn) / sample_blocks;
    }
};

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_rows_cluster, fb_sample_params, sample_threads, 2, 1, sample_blocks,
            sample_shared) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(Task<sample_blocks>, task, );
    FB_SHARED(Progress, progress, );
    FB_SHARED(uint64_t, loaded, );
    const Holder<sample_blocks> holder = {sample_shared, shared_address(&loaded)};
    if (threadIdx.x == 0) progress = {0, 0};
    holder.begin();
    Team<sample_blocks> team = {shared};
    const auto row_of = [&](int64_t index) {
        const uint64_t source = p.x + index * p.x_stride * element_bytes(p.dtype);
        return holder.row(source, p.dtype, p.vocabulary, p.is_probabilities != 0);
    };
    pdl_wait();
    pdl_launch_dependents();
    team.leave();
    FB_NO_UNROLL
    while (Progress::index(progress.turn) < p.row_count) {
        const int64_t index = Progress::index(progress.turn);
        if (progress.started == progress.turn) holder.start(row_of(index));
        if (threadIdx.x == 0) {
            task = task_of(p, index, row_of(index));
            // In turn: the others are ahead of it.
            shared.leader = int(progress.turn) % sample_blocks;
        }
        holder.wait(progress.turn);
        if (threadIdx.x == 0) progress.started = progress.turn + 1;
        sample_row(p, team, task, [&] {
            const int64_t next = Progress::index(progress.turn + 1);
            if (next >= p.row_count) return;
            holder.start(row_of(next));
            if (threadIdx.x == 0) progress.started = progress.turn + 2;
        });
        __syncthreads();
        if (threadIdx.x == 0) progress.turn++;
        __syncthreads();
    }
    // Nobody ends while others may still read its memory.
    team.meet();
#endif
}
