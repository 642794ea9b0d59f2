// Products of up to 128 rows on Hopper where out names rows of x. They are kernels of their own: so
// those without such rows have no registers for them.
#include "flat.h"
#include "thin_products.h"

constexpr int gathered_flat_threads = 384; // here four warps load
static_assert(gathered_flat_threads == 32 * (multiplying_warps + 4), "the roles of its warps");

FB_SPLIT_OPERATOR(matmul_gathered_8, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_FEW_ROWS(ThinWork, false, Thin8, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_16, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, false, Thin16, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_32, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, false, Thin32, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_64, fb_matmul_map_params, gathered_flat_threads, 1,
                  flat_64_outputs, flat_most, flat_shared) {
    FB_FEW_ROWS(FlatWork, false, Flat64, 4);
}

FB_SPLIT_OPERATOR(matmul_gathered_128, fb_matmul_map_params, gathered_flat_threads, 1,
                  flat_128_outputs, flat_most, flat_shared) {
    FB_FEW_ROWS(FlatWork, false, Flat128, 4);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_8, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, true, Thin8, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_16, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, true, Thin16, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_32, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, true, Thin32, 1);
}

FB_SPLIT_OPERATOR(matmul_gathered_e4m3_64, fb_matmul_map_params, gathered_flat_threads, 1,
                  flat_64_outputs, flat_most, flat_shared) {
    FB_FEW_ROWS(FlatWork, true, Flat64, 4);
}
