// The candidates of ranks that share a vocabulary, in rows of all its tokens.
#include "../ptx/base.h"
#include "../params/sampling.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int place_threads = 256;
constexpr int place_elements = 2048;

static_assert(place_elements == place_threads * chunk, "a thread has a chunk");

// ---- compute

template <class Word>
FB_DEVICE void place(uint64_t row, int32_t token, uint64_t values, int64_t at) {
    items<Word>(row)[token] = items<const Word>(values)[at];
}

// ---- the kernel

// Elements [place_elements * piece, ...) of a row, by pieces of all rows.
FB_OPERATOR(place_candidates, fb_place_params, place_threads, 4, place_elements) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t pieces = (p.vocabulary + place_elements - 1) / place_elements;
    const int64_t row = int32_t(blockIdx.x) / pieces;
    if (row >= p.row_count) return;
    const int32_t first = int32_t(blockIdx.x) % pieces * place_elements;
    const int32_t left = p.vocabulary - first;
    const int32_t end = first + (left < place_elements ? left : place_elements);
    const int32_t start = first + int32_t(threadIdx.x) * chunk;
    const int32_t bytes = element_bytes(p.dtype);
    const uint64_t out = p.out + row * p.out_stride * bytes;
    float x[chunk];
    FB_UNROLL
    for (int i = 0; i < chunk; i++) x[i] = -FB_INFINITY;
    const int32_t count = end - start < chunk ? end - start : chunk;
    if (count > 0) store_chunk(p.dtype, out + int64_t(start) * bytes, count, x);
    __syncthreads();
    for (int32_t i = threadIdx.x; i < p.rank_count * p.k; i += place_threads) {
        const int32_t rank = i / p.k;
        const int64_t at = row * p.k + i % p.k;
        const int32_t column = items<const int32_t>(p.indices + rank * p.rank_bytes)[at];
        const int32_t token = rank * p.column_count + column;
        if (column < 0 || column >= p.column_count || token < first || token >= end) continue;
        const uint64_t values = p.values + rank * p.rank_bytes;
        if (bytes == 4) place<uint32_t>(out, token, values, at);
        else place<uint16_t>(out, token, values, at);
    }
}
