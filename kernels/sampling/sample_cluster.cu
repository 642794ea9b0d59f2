// Tokens and probabilities, a cluster for a row, which it holds: for GPUs that have clusters.
#include "../ptx/base.h"
#include "walk.h"

// ---- facts

constexpr int sample_threads = 384;
constexpr int sample_blocks = 8;
// Of a row of 157,696 f32 each block's part, so that a multiprocessor has two blocks.
constexpr int sample_shared = 78848;

static_assert(sample_threads == team_threads, "a block is a part of a team");

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_rows_cluster, fb_sample_params, sample_threads, 2, 1, sample_blocks,
            sample_shared) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(Walk<sample_blocks>, walk, );
    Team<sample_blocks> team = {shared};
    const Holder<sample_blocks> holder = walk.begin(sample_shared);
    walk.rows(p, team, holder,
              [&](const auto& ahead) { sample_row(p, team, walk.task, ahead); });
    // Nobody ends while others may still read its memory.
    team.meet();
#endif
}
