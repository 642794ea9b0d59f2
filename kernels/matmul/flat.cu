// Products of up to 128 rows on Hopper, where each row of x has its place. docs/kernels/matmul.md
// draws them.
#include "flat.h"

constexpr int flat_threads = 288; // two warpgroups that multiply, a warp that loads
static_assert(flat_threads == 32 * (multiplying_warps + 1), "the roles of its warps");

FB_SPLIT_OPERATOR(matmul_flat_64, fb_matmul_map_params, flat_threads, 1, flat_64_outputs,
                  flat_most, flat_shared) {
    FB_FEW_ROWS(FlatWork, false, Flat64, 0);
}

FB_SPLIT_OPERATOR(matmul_flat_128, fb_matmul_map_params, flat_threads, 1, flat_128_outputs,
                  flat_most, flat_shared) {
    FB_FEW_ROWS(FlatWork, false, Flat128, 0);
}

FB_SPLIT_OPERATOR(matmul_flat_e4m3_64, fb_matmul_map_params, flat_threads, 1, flat_64_outputs,
                  flat_most, flat_shared) {
    FB_FEW_ROWS(FlatWork, true, Flat64, 0);
}
