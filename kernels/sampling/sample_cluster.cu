// Tokens and probabilities, a cluster for a row, which it holds: for GPUs that have clusters.
#include "../ptx/base.h"
#include "walk.h"

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_rows_cluster, fb_sample_params, team_threads, 2, 1, held_blocks, held_shared) {
#if FB_ARCH >= 900
    FB_SHARED(TeamShared, shared, );
    FB_SHARED(Walk<held_blocks>, walk, );
    Team<held_blocks> team = {shared};
    const Holder<held_blocks> holder = walk.begin(held_shared);
    walk.rows(p, team, holder,
              [&](const auto& ahead) { sample_row(p, team, walk.task, ahead); });
    // Nobody ends while others may still read its memory.
    team.meet();
#endif
}
