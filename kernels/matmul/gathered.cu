// Products of up to 128 rows on Hopper where out names rows of x. They are kernels of their own: so
// those without such rows have no registers for them.
#include "flat.h"
#include "thin_products.h"

constexpr int gathered_thin_threads = 288; // two warpgroups that multiply, a warp that loads
constexpr int gathered_thin_shared = 114688;
// Here four warps load.
constexpr int gathered_flat_threads = 384;
constexpr int gathered_flat_shared = 232448;
constexpr int gathered_most = 8;
constexpr int gathered_outputs = 128;
constexpr int gathered_128_outputs = 112;
static_assert(gathered_thin_threads == 32 * (multiplying_warps + 1) &&
                  gathered_flat_threads == 32 * (multiplying_warps + 4),
              "the roles of its warps");
static_assert(gathered_outputs == Thin8::outputs && gathered_outputs == Thin16::outputs &&
                  gathered_outputs == Thin32::outputs && gathered_outputs == Flat64::outputs &&
                  gathered_128_outputs == Flat128::outputs,
              "the grid has as many items");
static_assert(sizeof(Thin8::Shared) <= gathered_thin_shared &&
                  sizeof(Thin16::Shared) <= gathered_thin_shared &&
                  sizeof(Thin32::Shared) <= gathered_thin_shared &&
                  sizeof(Flat64::Shared) <= gathered_flat_shared &&
                  sizeof(Flat128::Shared) <= gathered_flat_shared,
              "the launch gives as much");

FB_SPLIT_OPERATOR(matmul_gathered_8, fb_matmul_map_params, gathered_thin_threads, 2,
                  gathered_outputs, gathered_most, gathered_thin_shared) {
    FB_THIN(false, Thin8, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_16, fb_matmul_map_params, gathered_thin_threads, 2,
                  gathered_outputs, gathered_most, gathered_thin_shared) {
    FB_THIN(false, Thin16, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_32, fb_matmul_map_params, gathered_thin_threads, 2,
                  gathered_outputs, gathered_most, gathered_thin_shared) {
    FB_THIN(false, Thin32, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_64, fb_matmul_map_params, gathered_flat_threads, 1,
                  gathered_outputs, gathered_most, gathered_flat_shared) {
    FB_FLAT(false, Flat64, 4);
}

FB_SPLIT_OPERATOR(matmul_gathered_128, fb_matmul_map_params, gathered_flat_threads, 1,
                  gathered_128_outputs, gathered_most, gathered_flat_shared) {
    FB_FLAT(false, Flat128, 4);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_8, fb_matmul_map_params, gathered_thin_threads, 2,
                  gathered_outputs, gathered_most, gathered_thin_shared) {
    FB_THIN(true, Thin8, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_16, fb_matmul_map_params, gathered_thin_threads, 2,
                  gathered_outputs, gathered_most, gathered_thin_shared) {
    FB_THIN(true, Thin16, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_32, fb_matmul_map_params, gathered_thin_threads, 2,
                  gathered_outputs, gathered_most, gathered_thin_shared) {
    FB_THIN(true, Thin32, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_64, fb_matmul_map_params, gathered_flat_threads, 1,
                  gathered_outputs, gathered_most, gathered_flat_shared) {
    FB_FLAT(true, Flat64, 4);
}
