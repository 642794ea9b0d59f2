// Products of up to 32 rows on Hopper, where each row of x has its place. docs/kernels/matmul.md
// draws them.
#include "thin_products.h"

constexpr int thin_threads = 288; // two warpgroups that multiply, a warp that loads
constexpr int thin_most = 8;
constexpr int thin_outputs = 128;
constexpr int thin_shared = 114688;
static_assert(thin_threads == 32 * (multiplying_warps + 1), "the roles of its warps");
static_assert(thin_outputs == Thin8::outputs && thin_outputs == Thin16::outputs &&
                  thin_outputs == Thin32::outputs,
              "the grid has as many items");
static_assert(sizeof(Thin8::Shared) <= thin_shared && sizeof(Thin16::Shared) <= thin_shared &&
                  sizeof(Thin32::Shared) <= thin_shared,
              "the launch gives as much");

// Up to 8, 16 or 32 rows of an item.

FB_SPLIT_OPERATOR(matmul_thin_8, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_THIN(false, Thin8, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_16, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_THIN(false, Thin16, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_32, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_THIN(false, Thin32, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_8, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_THIN(true, Thin8, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_16, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_THIN(true, Thin16, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_32, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_THIN(true, Thin32, 0);
}
