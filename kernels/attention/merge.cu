// The merges of a plan whose kernels do not merge themselves: a grid of n blocks for each merge
// record shares out its rows.
#include "merge.h"

#include "../ptx/pdl.h"

// Parts up to which one warp takes the whole row: those of a shared prefix, which is cut for all
// clusters, and of a request's own keys are few.
constexpr int few_parts = 12;

// Rows of two parts, of which there are the most: a warp asks for 512 columns of both at a time,
// and adds as merge_parts() does.
FB_DEVICE void merge_pairs(const fb_attention_params& p, const fb_merge_record& m,
                           const int32_t* parts, int first, int stride, MergeRoom& room) {
    constexpr int steps = 4;
    const int lane = int(threadIdx.x % 32);
    const auto* sums = reinterpret_cast<const float*>(p.partial_lse);
    const auto* values = reinterpret_cast<const float*>(p.partial_out);
    const int32_t at[2] = {parts[0], parts[1]};
    const int pieces = piece_count(p, m) / m.row_count;
    for (int row = first + int(threadIdx.x) / 32 * stride; row < m.row_count;
         row += stride * merge_warps()) {
        for (int piece = 0; piece < pieces; piece += steps) {
            float4 x[2][steps];
            float exponents[2];
            FB_UNROLL
            for (int i = 0; i < 2; i++) {
                exponents[i] = Variant::softmax ? sums[at[i] + row] * log2_e : 0;
                FB_UNROLL
                for (int n = 0; n < steps; n++) {
                    const int column = (piece + n) * column_step + lane * 4;
                    x[i][n] = make_float4(0, 0, 0, 0);
                    if (column < p.value_dim)
                        x[i][n] = *reinterpret_cast<const float4*>(
                            values + int64_t(at[i] + row) * p.value_dim + column);
                }
            }
            const float base = fmaxf(no_state_yet, fmaxf(exponents[0], exponents[1]));
            float weights[2] = {1, 1};
            FB_UNROLL
            for (int i = 0; i < 2; i++)
                if (Variant::softmax) weights[i] = exp2_approx(exponents[i] - base);
            // All columns of the row are finished alike: here of ones.
            Slice ones = {no_state_yet, 0, make_float4(1, 1, 1, 1)};
            if (Variant::softmax) ones = {base, weights[0] + weights[1], ones.out};
            MergePiece own = merge_piece(p, m, row * pieces + piece);
            const Finished finished = finish_piece(p, own, ones);
            const float factor = finished.factor * ones.out.x;
            FB_UNROLL
            for (int n = 0; n < steps; n++) {
                if (piece + n >= pieces) break;
                float4 sum = make_float4(0, 0, 0, 0);
                add_weighted(sum, x[0][n], weights[0]);
                add_weighted(sum, x[1][n], weights[1]);
                write_values(p, own, factor, finished.lse, sum, room);
                own.column += column_step;
            }
        }
    }
}

// A column of a merged row.
FB_DEVICE void write_column(const fb_attention_params& p, const MergePiece& piece, Slice s) {
    const Finished row = finish_piece(p, piece, s);
    if (p.value_dim <= piece.column) return;
    float x = s.out.x * row.factor;
    if constexpr (Variant::has_output) {
        const int32_t request = read_int(p.token_requests, piece.token);
        if (p.finalize && request >= 0) {
            const RowInputs in = row_inputs(p, request, piece.token, piece.head);
            if (in.query_index < in.query_length) x = hooked(p, in, row.lse, piece.column, x);
        }
    }
    const int64_t at = piece.token * p.out_stride_token + piece.head * p.out_stride_head;
    store_value(p, at, piece.column, x, out_unit(p));
}

// Rows of more parts than a warp takes, by the whole block: a thread has a column, and all parts of
// a flight on their way. Where the first lie is known before the kernel before is done.
FB_DEVICE void merge_columns(const fb_attention_params& p, const fb_merge_record& m,
                             const int32_t* parts, int first, int stride) {
    constexpr int together = 16;
    const int lane = int(threadIdx.x % 32);
    const int pieces = piece_count(p, m);
    bool waits = true;
    FB_NO_UNROLL
    for (int i = first; i < pieces; i += stride) {
        MergePiece piece = merge_piece(p, m, i);
        piece.column += int(threadIdx.x) - lane * 4;
        const auto* values = reinterpret_cast<const float*>(p.partial_out);
        if (piece.column < p.value_dim) values += piece.column;
        Slice s = {no_state_yet, 0, make_float4(0, 0, 0, 0)};
        FB_NO_UNROLL
        for (int from = 0; from < m.part_count; from += together) {
            const int count = min(together, m.part_count - from);
            // Past the last part, it again.
            const int32_t row = parts[from + min(lane, count - 1)] + piece.index;
            const float* at[together];
            FB_UNROLL
            for (int n = 0; n < together; n++)
                at[n] = values + int64_t(__shfl_sync(~0u, row, n)) * p.value_dim;
            if (waits) pdl_wait();
            waits = false;
            const auto* sums = reinterpret_cast<const float*>(p.partial_lse);
            const float exponent = Variant::softmax ? sums[row] * log2_e : 0;
            float x[together];
            FB_UNROLL
            for (int n = 0; n < together; n++) x[n] = *at[n];
            float weight = lane < count ? 1 : 0;
            if (Variant::softmax) {
                float top = lane < count ? exponent : -FB_INFINITY;
                FB_UNROLL
                for (int distance = together / 2; distance > 0; distance /= 2)
                    top = fmaxf(top, __shfl_xor_sync(~0u, top, distance));
                const float base = fmaxf(s.base, __shfl_sync(~0u, top, 0));
                const float keep = exp2_approx(s.base - base);
                s.base = base;
                s.sum *= keep;
                s.out.x *= keep;
                weight = lane < count ? exp2_approx(exponent - base) : 0;
            }
            FB_UNROLL
            for (int n = 0; n < together; n++) {
                const float part = __shfl_sync(~0u, weight, n);
                s.sum += part;
                if (n < count) s.out.x += x[n] * part;
            }
        }
        write_column(p, piece, s);
    }
    if (waits) pdl_wait();
}

FB_KERNEL(attention_merge, fb_attention_params, FB_THREADS, Variant::has_output ? 4 : 6) {
    FB_SHARED(MergeRoom, room, [1]);
    // What comes next may start while the attention kernel drains: it waits for this one anyway.
    pdl_launch_dependents();
    const int share = max(1, int(gridDim.x) / max(1, p.merge_count));
    const int index = int(blockIdx.x) / share;
    if (index >= p.merge_count) return pdl_wait();
    const fb_merge_record m = reinterpret_cast<const fb_merge_record*>(p.merges)[index];
    // Records and parts came by a copy, partial states come from the kernel before.
    const auto* parts = reinterpret_cast<const int32_t*>(p.parts) + m.part_start;
    const int first = int(blockIdx.x) % share;
    if constexpr (!Variant::projects_output) {
        if (m.part_count > few_parts) return merge_columns(p, m, parts, first, share);
    }
    prefetch_l1(parts);
    pdl_wait();
    if constexpr (Variant::projects_output) merge_pieces(p, m, parts, first, share, room[0]);
    else if (m.part_count == 2) merge_pairs(p, m, parts, first, share, room[0]);
    else merge_some(p, m, parts, first, piece_count(p, m), share, room[0]);
}
