// Products of up to 32 rows on Hopper, where each row of x has its place. docs/kernels/matmul.md
// draws them.
#include "thin_products.h"

// Up to 8, 16 or 32 rows of an item.

FB_SPLIT_OPERATOR(matmul_thin_8, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_FEW_ROWS(ThinWork, false, Thin8, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_16, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_FEW_ROWS(ThinWork, false, Thin16, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_32, fb_matmul_map_params, thin_threads, 2, thin_outputs, thin_most,
                  thin_shared) {
    FB_FEW_ROWS(ThinWork, false, Thin32, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_8, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, true, Thin8, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_16, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, true, Thin16, 0);
}

FB_SPLIT_OPERATOR(matmul_thin_e4m3_32, fb_matmul_map_params, thin_threads, 2, thin_outputs,
                  thin_most, thin_shared) {
    FB_FEW_ROWS(ThinWork, true, Thin32, 0);
}
