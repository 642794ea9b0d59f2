// Rows whose keys were split: partial states merge by log-sum-exp (or, without softmax, are
// added), in the order of their parts, by a warp. Those that launches of their own merge (merge.cu)
// take more warps if they have many.
#pragma once
#include "../ptx/base.h"
#include "../ptx/convert.h"
#include "../ptx/math.h"
#include "../ptx/memory.h"
#include "project.h"
#include "row.h"
#include "variant.h"

#include "../params/attention.h"

// ---- facts

FB_DEVICE int merge_warps() { return int(blockDim.x) / 32; }
// Columns that a warp sums at once: four for each lane.
constexpr int column_step = 128;
// Parts whose values a lane has in flight.
constexpr int flight = 8;
// Not above any log-sum-exp, and unlike -inf fit for subtraction.
constexpr float no_state_yet = -3.40282347e38f;

// ---- where things lie

// Columns of a row of a merge, four of them a lane's.
struct MergePiece {
    int32_t index; // of the row within the record
    int32_t token;
    int32_t head;
    int32_t column;
};

// Pieces of a merge: the columns of its rows, 128 at a time.
FB_DEVICE int piece_count(const fb_attention_params& p, const fb_merge_record& m) {
    return m.row_count * ((p.value_dim + column_step - 1) / column_step);
}

FB_DEVICE MergePiece merge_piece(const fb_attention_params& p, const fb_merge_record& m, int i) {
    const int steps = (p.value_dim + column_step - 1) / column_step;
    const int index = i / steps;
    const int32_t row = m.row_start + index;
    const int32_t token = int32_t(uint32_t(row) / uint32_t(m.query_head_count));
    const int column = i % steps * column_step + int(threadIdx.x % 32) * 4;
    return {index, token, m.query_head_start + row - token * m.query_head_count, column};
}

// ---- compute

// A sum of states: of 2^(lse - base), and of what goes with it in the lane's columns.
struct Slice {
    float base;
    float sum;
    float4 out;
};

FB_DEVICE void add_weighted(float4& sum, const float4& x, float weight) {
    sum.x += x.x * weight;
    sum.y += x.y * weight;
    sum.z += x.z * weight;
    sum.w += x.w * weight;
}

// Moves a slice to a base that is not below its own.
FB_DEVICE void move_base(Slice& s, float base) {
    const float keep = exp2_approx(s.base - base);
    s.base = base;
    s.sum *= keep;
    s.out = make_float4(s.out.x * keep, s.out.y * keep, s.out.z * keep, s.out.w * keep);
}

// Merges the parts of a piece, by a whole warp, a flight at a time. A lane looks up a part.
FB_DEVICE Slice merge_parts(const fb_attention_params& p, const int32_t* parts,
                            const MergePiece& piece, int part_count) {
    const int lane = int(threadIdx.x % 32);
    const auto* sums = reinterpret_cast<const float*>(p.partial_lse);
    // Lanes past the last column read the first ones, and write nothing.
    const int column = piece.column < p.value_dim ? piece.column : 0;
    const auto* values = reinterpret_cast<const uint8_t*>(p.partial_out) + column * 4;
    const uint32_t row_bytes = uint32_t(p.value_dim) * 4;
    Slice s = {no_state_yet, 0, make_float4(0, 0, 0, 0)};
    FB_NO_UNROLL
    for (int first = 0; first < part_count; first += flight) {
        const int count = min(flight, part_count - first);
        // Past the last part, it again.
        const int32_t row = parts[first + min(lane, count - 1)] + piece.index;
        const float exponent = Variant::softmax ? sums[row] * log2_e : 0;
        float4 x[flight];
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const uint32_t part = uint32_t(__shfl_sync(~0u, row, i));
            x[i] = *reinterpret_cast<const float4*>(values + uint64_t(part) * row_bytes);
        }
        float weight = lane < count ? 1 : 0;
        if (Variant::softmax) {
            float top = lane < count ? exponent : -FB_INFINITY;
            FB_UNROLL
            for (int distance = flight / 2; distance > 0; distance /= 2)
                top = fmaxf(top, __shfl_xor_sync(~0u, top, distance));
            move_base(s, fmaxf(s.base, __shfl_sync(~0u, top, 0)));
            weight = lane < count ? exp2_approx(exponent - s.base) : 0;
        }
        FB_UNROLL
        for (int i = 0; i < flight; i++) {
            const float part = __shfl_sync(~0u, weight, i);
            s.sum += part;
            if (i < count) add_weighted(s.out, x[i], part);
        }
    }
    return s;
}

// ---- store

FB_DEVICE RowInputs row_inputs(const fb_attention_params& p, int32_t request, int32_t token,
                               int32_t head) {
    const int32_t kv_head = head / (p.query_heads / p.kv_heads);
    const bool device_lengths = (p.kv_lengths | p.query_lengths) != 0;
    return row_inputs(p, request, token, head, kv_head, device_lengths);
}

// The hook of outputs that is alone, or the one before their product.
FB_DEVICE float hooked(const fb_attention_params& p, const RowInputs& in, float lse, int column,
                       float x) {
    if (Variant::projects_output) return Variant::before_output(p, in, lse, column, x);
    return Variant::output(p, in, lse, column, x);
}

FB_DEVICE float4 hooked(const fb_attention_params& p, const MergePiece& piece, float lse,
                        const float4& x) {
    const int32_t request = read_int(p.token_requests, piece.token);
    if (!p.finalize || request < 0) return x;
    const RowInputs in = row_inputs(p, request, piece.token, piece.head);
    if (in.query_index >= in.query_length) return x;
    return make_float4(hooked(p, in, lse, piece.column, x.x),
                       hooked(p, in, lse, piece.column + 1, x.y),
                       hooked(p, in, lse, piece.column + 2, x.z),
                       hooked(p, in, lse, piece.column + 3, x.w));
}

// A merged row that is still to be multiplied.
template <bool> struct MergedRow {};
template <> struct MergedRow<true> {
    float values[576];
    float lse;
};

using MergeRoom = MergedRow<Variant::projects_output>;

// Keeps a piece for the product that is still to come; false: there is none.
template <class Room>
FB_DEVICE bool keep_values(const fb_attention_params& p, const MergePiece& piece, float lse,
                           const float4& x, Room& room) {
    if constexpr (Variant::projects_output) {
        if (p.finalize) *reinterpret_cast<float4*>(room.values + piece.column) = x;
        if (piece.column == 0) room.lse = lse;
        return p.finalize != 0;
    }
    return false;
}

FB_DEVICE void write_values(const fb_attention_params& p, const MergePiece& piece, float factor,
                            float lse, float4 x, MergeRoom& room) {
    if (piece.column >= p.value_dim) return;
    x = make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
    if (Variant::projects_output ? Variant::has_before_output : Variant::has_output)
        x = hooked(p, piece, lse, x);
    if (keep_values(p, piece, lse, x, room)) return;
    const int64_t at =
        piece.token * p.out_stride_token + piece.head * p.out_stride_head + piece.column;
    if (p.out_dtype == FB_F32) {
        *reinterpret_cast<float4*>(p.out + 4 * at) = x;
    } else if (p.out_dtype == FB_F8E4M3 || p.out_dtype == FB_F8E5M2) {
        const float unit = out_unit(p);
        x = make_float4(x.x * unit, x.y * unit, x.z * unit, x.w * unit);
        const bool wide = p.out_dtype == FB_F8E5M2;
        const uint32_t low = wide ? pack_e5m2(x.x, x.y) : pack_e4m3(x.x, x.y);
        const uint32_t high = wide ? pack_e5m2(x.z, x.w) : pack_e4m3(x.z, x.w);
        *reinterpret_cast<uint32_t*>(p.out + at) = low | high << 16;
    } else {
        const bool half = p.out_dtype == FB_F16;
        const uint32_t low = half ? pack_f16(x.x, x.y) : pack_bf16(x.x, x.y);
        const uint32_t high = half ? pack_f16(x.z, x.w) : pack_bf16(x.z, x.w);
        *reinterpret_cast<uint2*>(p.out + 2 * at) = make_uint2(low, high);
    }
}

// What a finished row's values are multiplied by, and its log-sum-exp.
struct Finished {
    float factor;
    float lse;
};

// Finalises a piece and writes its log-sum-exp; a sink is a state of value 0.
FB_DEVICE Finished finish_piece(const fb_attention_params& p, const MergePiece& piece, Slice& s) {
    if (p.finalize && p.sinks != 0) {
        const float sink = reinterpret_cast<const float*>(p.sinks)[piece.head] * log2_e;
        move_base(s, fmaxf(s.base, sink));
        s.sum += exp2_approx(sink - s.base);
    }
    const float factor = !Variant::softmax ? 1 : s.sum == 0 ? 0 : 1 / s.sum;
    const float lse = s.sum == 0 ? -FB_INFINITY : (s.base + log2_approx(s.sum)) * ln_2;
    if (p.lse != 0 && piece.column == 0) {
        const int64_t at = int64_t(piece.token) * p.query_heads + piece.head;
        reinterpret_cast<float*>(p.lse)[at] = lse * p.lse_factor;
    }
    return {factor, lse};
}

FB_DEVICE void write_piece(const fb_attention_params& p, const MergePiece& piece, Slice s,
                           MergeRoom& room) {
    const Finished row = finish_piece(p, piece, s);
    write_values(p, piece, row.factor, row.lse, s.out, room);
}

// ---- the rows of a merge

// Pieces first, first + stride and so on, of `count`, by the warps of a block. Little code: it
// comes into the instruction cache at the end of a kernel, to run once.
FB_DEVICE void merge_some(const fb_attention_params& p, const fb_merge_record& m,
                          const int32_t* parts, int first, int count, int stride,
                          MergeRoom& room) {
    FB_NO_UNROLL
    for (int i = first + int(threadIdx.x) / 32 * stride; i < count; i += stride * merge_warps()) {
        const MergePiece piece = merge_piece(p, m, i);
        write_piece(p, piece, merge_parts(p, parts, piece, m.part_count), room);
    }
}

// An element of a row that begins at element `at` of the outputs; of fp8, times `unit`.
FB_DEVICE void store_value(const fb_attention_params& p, int64_t at, int column, float x,
                           float unit) {
    if (p.out_dtype == FB_F32) store_element<FB_F32>(p.out + 4 * at, column, x);
    if (p.out_dtype == FB_F16) store_element<FB_F16>(p.out + 2 * at, column, x);
    if (p.out_dtype == FB_BF16) store_element<FB_BF16>(p.out + 2 * at, column, x);
    if (p.out_dtype == FB_F8E4M3) store_element<FB_F8E4M3>(p.out + at, column, x * unit);
    if (p.out_dtype == FB_F8E5M2) store_element<FB_F8E5M2>(p.out + at, column, x * unit);
}

// The row in the room times its head's matrix, to the output; by a whole block.
template <class Room>
FB_DEVICE void project_row(const fb_attention_params& p, const MergePiece& piece,
                           const Room& room) {
    if constexpr (Variant::projects_output) {
        const int32_t request = read_int(p.token_requests, piece.token);
        const RowInputs in = row_inputs(p, request, piece.token, piece.head);
        const bool is_query = request >= 0 && in.query_index < in.query_length;
        const float unit = out_unit(p);
        const int64_t at = piece.token * p.out_stride_token + piece.head * p.out_stride_head;
        const auto put = [&](int column, float x) {
            if constexpr (Variant::has_output) x = Variant::output(p, in, room.lse, column, x);
            x = is_query ? x : 0;
            store_value(p, at, column, x, unit);
        };
        multiply_rows<1>(Variant::output_matrix(p, piece.head), room.values, 0, 1, p.value_dim,
                         int(threadIdx.x) / 32, merge_warps(), [&](int) { return put; });
    }
}

// Pieces first, first + stride and so on of a merge or, where rows are multiplied, such rows.
FB_DEVICE void merge_pieces(const fb_attention_params& p, const fb_merge_record& m,
                            const int32_t* parts, int first, int stride, MergeRoom& room) {
    const int count = piece_count(p, m);
    if (!Variant::projects_output || !p.finalize)
        return merge_some(p, m, parts, first, count, stride, room);
    const int pieces = count / m.row_count;
    FB_NO_UNROLL
    for (int row = first; row < m.row_count; row += stride) {
        merge_some(p, m, parts, row * pieces, (row + 1) * pieces, 1, room);
        __syncthreads();
        project_row(p, merge_piece(p, m, row * pieces), room);
        __syncthreads();
    }
}
