// Rows by index: embeddings, reordered tokens.
#include "../ptx/base.h"
#include "../params/gather.h"
#include "../ptx/pdl.h"
#include "../common/operator.h"

// ---- facts

constexpr int gather_threads = 256;
// Rows of one item, the threads that share a row, and the loads each has in flight.
constexpr int item_rows = 4;
constexpr int lanes = gather_threads / item_rows;
constexpr int flight = 8;

// ---- compute

// This thread's words of a row; without a source they are 0.
template <class Word>
FB_DEVICE void gather_row(uint64_t source, uint64_t target, int64_t row_bytes) {
    const int64_t words = row_bytes / int64_t(sizeof(Word));
    int64_t word = threadIdx.x % lanes;
    for (; word < words; word += flight * lanes) {
        Word values[flight] = {};
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int64_t at = word + i * lanes;
            if (source != 0 && at < words) values[i] = items<const Word>(source)[at];
        }
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const int64_t at = word + i * lanes;
            if (at < words) items<Word>(target)[at] = values[i];
        }
    }
}

// ---- the kernel

// Rows [item_rows * item, ...) of out from where their indices say; index -1 gives zeros.
FB_OPERATOR(gather_rows, fb_gather_params, gather_threads, 4, item_rows) {
    pdl_wait();
    pdl_launch_dependents();
    const int64_t row = int64_t(blockIdx.x) * item_rows + threadIdx.x / lanes;
    if (row >= p.row_count) return;
    const int64_t index = items<const int32_t>(p.indices)[row];
    const uint64_t source = index < 0 ? 0 : p.source + index * p.row_bytes;
    const uint64_t target = p.out + row * p.row_bytes;
    const uint64_t all = p.source | p.out | p.row_bytes;
    if (all % 16 == 0) gather_row<uint4>(source, target, p.row_bytes);
    else if (all % 4 == 0) gather_row<uint32_t>(source, target, p.row_bytes);
    else gather_row<uint8_t>(source, target, p.row_bytes);
}
