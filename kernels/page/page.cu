// Pages: new tokens in, moves within, updates of the page table.
#include "../ptx/base.h"
#include "../params/page.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"
#include "append.h"

// ---- facts

// Threads of a block.
constexpr int append_threads = 128;
constexpr int copy_threads = 256;
constexpr int table_threads = 256;

// Tokens that one item of `append` covers: a thread has as many loads in flight.
constexpr int append_rows = 4;
// Tokens of a run that a thread reads before it writes them.
constexpr int copy_batch = 8;

// ---- where things lie

// True where all rows of a plane and of its source start at 16 bytes and end there too.
FB_DEVICE bool rows_are_vectors(const fb_append_params& p, int32_t plane, int32_t bytes) {
    const fb_plane& to = p.planes[plane];
    const int64_t strides = to.stride_page | to.stride_head | to.stride_token | p.dims[plane] |
                            p.source_stride_token[plane] | p.source_stride_head[plane];
    return ((strides * bytes) | int64_t(to.data | p.sources[plane])) % 16 == 0;
}

FB_DEVICE uint64_t copy_address(const fb_copy_plane& c, int32_t token, int32_t head,
                                int32_t page_size) {
    const int64_t page = token / page_size;
    const int64_t within = token - page * page_size;
    return c.plane.data + c.element_bytes * (page * c.plane.stride_page +
                                             head * c.plane.stride_head +
                                             within * c.plane.stride_token);
}

// ---- compute: rows of new tokens

// 16 bytes, the same of one head's row for all tokens of an item.
FB_DEVICE void append_vectors(const fb_append_params& p, int32_t plane, int32_t first,
                              int32_t head, int32_t vector, int32_t bytes) {
    AppendTarget targets[append_rows];
    uint4 values[append_rows];
    FB_UNROLL
    for (int i = 0; i < append_rows; i++) {
        targets[i] = target_of(p, first + i);
        if (targets[i].page < 0) continue;
        values[i] = items<const uint4>(source_address(p, plane, first + i, head, bytes))[vector];
    }
    FB_UNROLL
    for (int i = 0; i < append_rows; i++) {
        if (targets[i].page < 0) continue;
        items<uint4>(row_address(p.planes[plane], targets[i], head, bytes))[vector] = values[i];
    }
}

// Elements [start, start + count), at most a chunk, of one head's row for all tokens of an item.
FB_DEVICE void append_chunks(const fb_append_params& p, int32_t plane, int32_t first,
                             int32_t head, int32_t start, int32_t count) {
    const int32_t from = p.source_dtypes[plane];
    const int32_t to = p.plane_dtypes[plane];
    const bool scaled = p.scales[plane].data != 0;
    for (int32_t token = first; token < first + append_rows; token++) {
        const AppendTarget at = target_of(p, token);
        if (at.page < 0) continue;
        const int32_t from_bytes = element_bytes(from);
        const int32_t to_bytes = element_bytes(to);
        const uint64_t source =
            source_address(p, plane, token, head, from_bytes) + start * from_bytes;
        const uint64_t target =
            row_address(p.planes[plane], at, head, to_bytes) + start * to_bytes;
        if (from == to && !scaled) {
            copy_chunk(from_bytes, source, target, count);
            continue;
        }
        float x[chunk];
        load_chunk(from, source, count, x);
        const float scale = scaled ? scale_of(p, plane, token, at, head) : 1;
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = x[i] / scale;
        store_chunk(to, target, count, x);
    }
}

// ---- compute: moves

// Tokens of a run, from the end when the target lies above: runs may overlap.
template <class Word>
FB_DEVICE void copy_run(uint64_t source, uint64_t target, int64_t step, int32_t count,
                        bool upwards) {
    const int64_t start = upwards ? (count - 1) * step : 0;
    const int64_t stride = upwards ? -step : step;
    for (int32_t done = 0; done < count; done += copy_batch) {
        Word values[copy_batch];
        const int64_t at = start + done * stride;
        FB_UNROLL
        for (int i = 0; i < copy_batch; i++)
            if (done + i < count) values[i] = *items<const Word>(source + at + i * stride);
        FB_UNROLL
        for (int i = 0; i < copy_batch; i++)
            if (done + i < count) *items<Word>(target + at + i * stride) = values[i];
    }
}

// A thread keeps to one word of one head's rows through all moves: they are in order of themselves.
template <class Word>
FB_DEVICE void copy_words(const fb_copy_params& p, const fb_copy_plane& plane) {
    const int32_t words = plane.row_bytes / int32_t(sizeof(Word));
    const int64_t step = plane.plane.stride_token * plane.element_bytes;
    for (int32_t unit = threadIdx.x; unit < plane.heads * words; unit += copy_threads) {
        const int32_t head = unit / words;
        const int64_t offset = (unit - head * words) * int64_t(sizeof(Word));
        const int32_t* move = items<const int32_t>(p.moves);
        for (int32_t i = 0; i < p.move_count; i++, move += 3) {
            const uint64_t source = copy_address(plane, move[0], head, p.page_size) + offset;
            const uint64_t target = copy_address(plane, move[1], head, p.page_size) + offset;
            copy_run<Word>(source, target, step, move[2], move[0] < move[1]);
        }
    }
}

// ---- the kernels

// Writes tokens [append_rows * item, ...) of every plane, and their positions, into their slots.
FB_OPERATOR(append, fb_append_params, append_threads, 8, append_rows) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t first = blockIdx.x * append_rows;
    if (p.key_positions != 0 && threadIdx.x < append_rows) append_position(p, first + threadIdx.x);
    // Units count through the planes, so that the last threads of one go on with the next.
    int32_t unit = threadIdx.x;
    for (int32_t plane = 0; plane < p.plane_count; plane++) {
        const int32_t dim = p.dims[plane];
        const int32_t bytes = element_bytes(p.plane_dtypes[plane]);
        const bool same = p.source_dtypes[plane] == p.plane_dtypes[plane];
        const bool vectors =
            same && p.scales[plane].data == 0 && rows_are_vectors(p, plane, bytes);
        const int32_t width = vectors ? 16 / bytes : chunk;
        const int32_t pieces = (dim + width - 1) / width;
        const int32_t units = p.heads[plane] * pieces;
        for (; unit < units; unit += append_threads) {
            const int32_t head = unit / pieces;
            const int32_t piece = unit - head * pieces;
            const int32_t rest = dim - piece * width;
            if (vectors) append_vectors(p, plane, first, head, piece, bytes);
            else append_chunks(p, plane, first, head, piece * width, rest < width ? rest : width);
        }
        unit -= units;
    }
}

// Performs all moves of plane `item`, in order.
FB_OPERATOR(copy_tokens, fb_copy_params, copy_threads, 1, 1) {
    pdl_wait();
    pdl_launch_dependents();
    if (int32_t(blockIdx.x) >= p.plane_count) return;
    const fb_copy_plane& plane = items<const fb_copy_plane>(p.planes)[blockIdx.x];
    const fb_plane& at = plane.plane;
    const int64_t strides = at.stride_page | at.stride_head | at.stride_token;
    const uint64_t all = at.data | strides * plane.element_bytes | plane.row_bytes;
    if (all % 16 == 0) copy_words<uint4>(p, plane);
    else if (all % 4 == 0) copy_words<uint32_t>(p, plane);
    else if (all % 2 == 0) copy_words<uint16_t>(p, plane);
    else copy_words<uint8_t>(p, plane);
}

// Applies all updates of a page table, each of another entry (grid of one).
FB_OPERATOR(table_update, fb_table_params, table_threads, 1, 1) {
    pdl_wait();
    pdl_launch_dependents();
    if (blockIdx.x != 0) return;
    int32_t* const table = items<int32_t>(p.table);
    const int32_t* const updates = items<const int32_t>(p.updates);
    for (int32_t i = threadIdx.x; i < p.update_count; i += table_threads)
        table[updates[2 * i]] = updates[2 * i + 1];
}
