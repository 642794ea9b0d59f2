// The merges of a plan whose kernels do not merge themselves: a grid of n blocks for each merge
// record shares out its rows.
#include "merge.h"

#include "../ptx/pdl.h"

FB_KERNEL(attention_merge, fb_attention_params, FB_THREADS, Variant::has_output ? 4 : 6) {
    FB_SHARED(MergeRoom<1>, room, [1]);
    // What comes next may start while the attention kernel drains: it waits for this one anyway.
    pdl_launch_dependents();
    const int share = max(1, int(gridDim.x) / max(1, p.merge_count));
    const int index = int(blockIdx.x) / share;
    if (index >= p.merge_count) return pdl_wait();
    const fb_merge_record m = reinterpret_cast<const fb_merge_record*>(p.merges)[index];
    // Records and parts came by a copy, partial states come from the kernel before.
    const auto* parts = reinterpret_cast<const int32_t*>(p.parts) + m.part_start;
    prefetch_l1(parts);
    pdl_wait();
    merge_pieces(p, m, parts, int(blockIdx.x) % share, share, room[0]);
}
