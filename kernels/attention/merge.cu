// The merges of a plan whose kernels do not merge themselves: a grid of n blocks for each merge
// record shares out its rows.
#include "merge.h"

#include "../ptx/pdl.h"

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
            FB_UNROLL
            for (int n = 0; n < steps; n++) {
                if (piece + n >= pieces) break;
                Slice s = {no_state_yet, 0, make_float4(0, 0, 0, 0)};
                if (Variant::softmax) s = {base, weights[0] + weights[1], s.out};
                add_weighted(s.out, x[0][n], weights[0]);
                add_weighted(s.out, x[1][n], weights[1]);
                write_piece(p, merge_piece(p, m, row * pieces + piece + n), s, room);
            }
        }
    }
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
    prefetch_l1(parts);
    pdl_wait();
    const int first = int(blockIdx.x) % share;
    if (!Variant::projects_output && m.part_count == 2)
        merge_pairs(p, m, parts, first, share, room[0]);
    else merge_pieces(p, m, parts, first, share, room[0]);
}
