// Tokens of the first few of each row, a cluster for a row, which it reads where it lies: for GPUs
// that have clusters.
#define FB_STREAMED
#include "../ptx/base.h"
#include "sample.h"

// ---- facts

constexpr int sample_blocks = 8;
// Blocks of a multiprocessor; older ones, which do not load it, have no room for three.
constexpr int sample_resident = FB_ARCH >= 900 ? 3 : 1;

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_few_cluster, fb_sample_params, team_threads, sample_resident, 1, sample_blocks) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(Task<sample_blocks>, task, );
    Team<sample_blocks> team = {shared};
    pdl_wait();
    pdl_launch_dependents();
    const int64_t index = blockIdx.x / sample_blocks;
    const Row<sample_blocks> row = cluster_row<sample_blocks>(
        row_source(p, index), p.dtype, p.vocabulary, p.is_probabilities != 0, 0);
    if (threadIdx.x == 0) {
        task = task_of(p, index, row);
        shared.leader = 0;
    }
    team.leave();
    const Most own = streamed_most(row);
    team.meet();
    Kept kept = {};
    take_few(p, team, task, own, [] {}, kept);
    // Nobody ends while others may still read its memory.
    team.meet();
#endif
}
