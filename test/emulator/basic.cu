// Threads, warps, barriers and memory as the language has them.
#include "conformance.h"

#include "ptx/barrier.h"
#include "ptx/memory.h"

FB_KERNEL(numbers_of_threads, probe, 128, 1) {
    const int i = int(blockIdx.x * blockDim.x + threadIdx.x);
    words_out(p)[i] = uint32_t(i) + gridDim.x * 1000;
}
FB_KERNEL(out_of_bounds, probe, 128, 1) {
    if (threadIdx.x == 5) words_out(p)[p.numbers[0]] = 1;
}
