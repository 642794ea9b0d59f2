// Products of a record's rows with matrices of a variant, in shared memory that keys and values do
// not need by then: of queries before the first keys come, of outputs when the last are done.
#pragma once
#include "../../common/element.h"
#include "../common/finish.h"
#include "../project.h"
#include "copy.h"

// Rows of one head that a warp multiplies together: each element of the matrix is read once.
constexpr int together = 4;

// Rows of outputs in the room, in floats: with the log-sum-exp behind the elements.
constexpr int output_stride = round_up(FB_VALUE_DIM, 16) + 8;
// Of queries: as they come, then as they are multiplied.
constexpr int query_stride = FB_QUERY_DIM + FB_KEY_DIM;

// Bytes that the room has at least.
constexpr int least_room_bytes =
    max_of(Variant::projects_query ? 4 * query_stride : 0,
           Variant::projects_output ? 4 * FB_QUERY_TILE * output_stride : 0);

// Where a block's rows lie beside their products.
struct Room {
    const unsigned char* queries; // the tile
    float* outputs;               // FB_QUERY_TILE rows

    FB_DEVICE float* output(int row) const { return outputs + row * output_stride; }

    FB_DEVICE void load_query(int row, int first, float (&x)[8]) const {
        FB_UNROLL
        for (int i = 0; i < 8; i++) x[i] = 0;
        if (first < FB_KEY_DIM) widen_8<FB_Q_TYPE>(queries + KeyTile::at(row, first / 8), x);
    }
};

// Calls project(head, first row, count, rows to the next) for all rows [from, to) of a record that
// a warp of the block has: of one head each time, a few.
template <class Project>
FB_DEVICE void each_head(const fb_attention_record& r, int from, int to, Project project) {
    const int heads = r.query_head_count;
    const int groups = ((to - from + heads - 1) / heads + together - 1) / together;
    FB_NO_UNROLL
    for (int item = int(threadIdx.x) / 32; item < heads * groups; item += FB_THREADS / 32) {
        const int first = from + item % heads + item / heads * together * heads;
        const int count = (to - first + heads - 1) / heads;
        if (count > 0) project(query_row(r, first).head, first, min(count, together), heads);
    }
}

// Eight elements of a row of queries, as they come, to the room.
template <int Chunks>
FB_DEVICE void take_queries(const fb_attention_params& p, const fb_attention_record& r,
                            const RowFacts& rows, int first, Item item, int most, float* room) {
    const int row = first + item.row;
    const bool known = item.row < most && row < r.row_count;
    const QueryRow at = query_row(r, known ? row : 0);
    const auto* source = reinterpret_cast<const uint8_t*>(p.q) +
                         query_element * (at.token * p.q_stride_token + at.head * p.q_stride_head);
    Vector<FB_QUERY_DIM, row_lanes(Chunks), FB_QUERY_TYPE> v = {source, item.chunk * 8};
    v.load();
    if constexpr (Variant::has_before_query)
        Variant::before_query(p, rows.words[Variant::row_words == 0 || !known ? 0 : row], v);
    if (!known) return;
    FB_UNROLL
    for (int i = 0; i < 8; i++) room[item.row * query_stride + item.chunk * 8 + i] = v.x[i];
}

// Eight elements of a row of products, changed and rounded, to the tile.
template <int Chunks>
FB_DEVICE void put_queries(const fb_attention_params& p, const fb_attention_record& r,
                           const RowFacts& rows, int first, Item item, int most, const float* room,
                           uint32_t tile) {
    const int row = first + item.row;
    const bool known = item.row < most && row < FB_QUERY_TILE;
    const bool filled = known && row < r.row_count && item.chunk < FB_KEY_DIM / 8;
    const float* const from = room + (filled ? item.row : 0) * query_stride + FB_QUERY_DIM;
    Vector<FB_KEY_DIM, row_lanes(Chunks), FB_F32> v = {from, item.chunk * 8};
    v.load();
    if constexpr (Variant::has_query)
        Variant::query(p, rows.words[Variant::row_words == 0 || !known ? 0 : row], v);
    if (known)
        store_shared_16(tile + KeyTile::at(row, item.chunk),
                        filled ? round_8<FB_Q_TYPE>(v.x) : make_uint4(0, 0, 0, 0));
}

// The record's queries times their heads' matrices, to the tile, as many rows at a time as the room
// holds; all threads come and go together. Rows past the last are 0.
template <int RoomBytes>
FB_DEVICE void project_queries(const fb_attention_params& p, const fb_attention_record& r,
                               const RowFacts& rows, float* room, uint32_t tile, int thread) {
    constexpr int fits = RoomBytes / (4 * query_stride);
    constexpr int most = fits < FB_QUERY_TILE ? fits : FB_QUERY_TILE;
    static_assert(most > 0, "a row fits");
    constexpr int given_chunks = FB_QUERY_DIM / 8;
    FB_NO_UNROLL
    for (int first = 0; first < FB_QUERY_TILE; first += most) {
        FB_NO_UNROLL
        for (int i = 0; i < (most * given_chunks + FB_THREADS - 1) / FB_THREADS; i++)
            take_queries<given_chunks>(p, r, rows, first,
                                       item_of<given_chunks, FB_THREADS>(thread, i), most, room);
        __syncthreads();
        const int end = min(first + most, r.row_count);
        each_head(r, first, end, [&](int head, int row, int count, int step) {
            float* const from = room + (row - first) * query_stride;
            multiply_rows<together>(Variant::query_matrix(p, head), from, step * query_stride,
                                    count, FB_QUERY_DIM, 0, 1, [&](int n) {
                                        float* to = from + n * step * query_stride + FB_QUERY_DIM;
                                        return [to](int column, float x) { to[column] = x; };
                                    });
        });
        __syncthreads();
        FB_NO_UNROLL
        for (int i = 0; i < (most * key_chunks + FB_THREADS - 1) / FB_THREADS; i++)
            put_queries<key_chunks>(p, r, rows, first, item_of<key_chunks, FB_THREADS>(thread, i),
                                    most, room, tile);
        __syncthreads();
    }
}

// The rows in the room times their heads' matrices, to the outputs; all threads come together.
FB_DEVICE void project_outputs(const fb_attention_params& p, const fb_attention_record& r,
                               const Room& room) {
    if (!p.finalize || r.partial_row >= 0) return;
    __syncthreads(); // all rows are there
    each_head(r, 0, r.row_count, [&](int head, int row, int count, int step) {
        const auto store_of = [&](int n) {
            const int own = row + n * step;
            const RowInputs in = row_inputs(p, r, own);
            // Queries beyond a length that only the device knows stay 0.
            const bool is_query = in.request >= 0 && in.query_index < in.query_length;
            const float lse = room.output(own)[room_lse_at];
            const float unit = is_fp8(FB_OUT_TYPE) ? out_unit(p) : 1;
            const int64_t at = in.query_token * p.out_stride_token + in.head * p.out_stride_head;
            const uint64_t to = p.out + at * out_element;
            return [=, &p](int column, float x) {
                if constexpr (Variant::has_output) x = Variant::output(p, in, lse, column, x);
                store_element<FB_OUT_TYPE>(to, column, is_query ? x * unit : 0);
            };
        };
        multiply_rows<together>(Variant::output_matrix(p, head), room.output(row),
                                step * output_stride, count, FB_VALUE_DIM, 0, 1, store_of);
    });
}
