// Products of up to 128 rows on Hopper, where each row of x has its place. docs/kernels/matmul.md
// draws them.
#include "flat.h"

constexpr int flat_threads = 288; // two warpgroups that multiply, a warp that loads
constexpr int flat_most = 8;
constexpr int flat_64_outputs = 128;
constexpr int flat_128_outputs = 112;
constexpr int flat_shared = 232448;
static_assert(flat_threads == 32 * (multiplying_warps + 1), "the roles of its warps");
static_assert(flat_64_outputs == Flat64::outputs && flat_128_outputs == Flat128::outputs,
              "the grid has as many items");
static_assert(sizeof(Flat64::Shared) <= flat_shared && sizeof(Flat128::Shared) <= flat_shared,
              "the launch gives as much");

FB_SPLIT_OPERATOR(matmul_flat_64, fb_matmul_map_params, flat_threads, 1, flat_64_outputs,
                  flat_most, flat_shared) {
    FB_FLAT(false, Flat64, 0);
}

FB_SPLIT_OPERATOR(matmul_flat_128, fb_matmul_map_params, flat_threads, 1, flat_128_outputs,
                  flat_most, flat_shared) {
    FB_FLAT(false, Flat128, 0);
}

FB_SPLIT_OPERATOR(matmul_flat_e4m3_64, fb_matmul_map_params, flat_threads, 1, flat_64_outputs,
                  flat_most, flat_shared) {
    FB_FLAT(true, Flat64, 0);
}
