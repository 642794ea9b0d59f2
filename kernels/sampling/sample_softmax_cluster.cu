// Softmax of rows of logits, a cluster for a row, which it holds: for GPUs that have clusters.
#include "../ptx/base.h"
#include "light.h"

// ---- the kernel

// Row `item`.
FB_OPERATOR(sample_softmax_cluster, fb_sample_params, team_threads, light_resident, 1,
            light_blocks, light_bytes) {
#if FB_ARCH >= 900
    each_light_row(p, [&](Team<light_blocks>& team, Progress& progress, const auto&) {
        const Task<light_blocks>& task = progress.task;
        const Most own = task.row.most();
        uint32_t status = task.status;
        const uint64_t first = task.row.largest(team, own, status);
        if (team.is_leader()) store_result(p, task.index, 0, status);
        const Weights weights = weights_of(value_of(uint32_t(first >> index_bits)),
                                           task.n.temperature, false);
        Kept kept = {weights, 0, 0};
        if ((status & FB_SAMPLE_NO_MASS) == 0)
            kept.mass = mass_of(task.row.sum(team, weights, 0, 0));
        write_row(p, task.index, task.row, kept, 0);
    });
#endif
}
