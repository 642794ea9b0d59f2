// Operands of turned products (turned.h) of keys of 8 bits. They are rows of the products, and go
// through registers: each warp widens the 16 rows that it multiplies, and nothing wide is written.
// Scores are products of f16, which holds e4m3 exactly: queries of a record are brought into its
// range, each row by a power of two. Values become f16 as well, as weights do.
//
// Elements of 64 are taken in an order of their own, in which a lane's of four steps lie side by
// side in memory: lane c of four has elements 16 c to 16 c + 15, of which step i takes four, as
// columns 2 c, 2 c + 1, 2 c + 8 and 2 c + 9. Queries are stored in that order.
#pragma once
#include "../../ptx/convert.h"
#include "../../ptx/ldmatrix.h"
#include "columns.h"

// ---- queries

// Eight elements of a piece's row under its swizzle, whose place a product's order says.
FB_DEVICE void store_query_chunk(uint32_t row_at, int row, int chunk, const float (&x)[8]) {
    FB_UNROLL
    for (int i = 0; i < 4; i++) {
        const int unit = chunk % 2 * 4 + i; // step, and half of it
        store_shared_4(row_at + ((unit ^ row & 7) << 4) + chunk / 2 * 4,
                       pack_f16(x[2 * i], x[2 * i + 1]));
    }
}

// Chunks of eight elements of a row that a lane has.
constexpr int query_turns = (FB_KEY_DIM / 8 + 31) / 32;
using QueryChunks = uint4[query_turns];

// Row `i` of a record, as it comes; rows past the last are zeros.
FB_DEVICE void load_query(const Block& b, const fb_attention_record& r, int i,
                          QueryChunks& chunks) {
    const QueryRow at = query_row(r, i);
    const auto* from = reinterpret_cast<const uint4*>(
        b.p.q + query_element * (at.token * b.p.q_stride_token + at.head * b.p.q_stride_head));
    FB_UNROLL
    for (int turn = 0; turn < query_turns; turn++) {
        const int chunk = lane_now() + 32 * turn;
        chunks[turn] = make_uint4(0, 0, 0, 0);
        if (i < r.row_count && chunk < FB_KEY_DIM / 8) chunks[turn] = from[chunk];
    }
}

// A row in f16 to its place: its largest element gets the exponent 14.
FB_DEVICE void store_query(const Block& b, int i, const QueryChunks& chunks) {
    float top = 0;
    float x[query_turns][8];
    FB_UNROLL
    for (int turn = 0; turn < query_turns; turn++) {
        widen_8<FB_Q_TYPE>(&chunks[turn], x[turn]);
        FB_UNROLL
        for (int e = 0; e < 8; e++) {
            const float size = fabsf(x[turn][e]);
            if (size < FB_INFINITY) top = fmaxf(top, size);
        }
    }
    FB_UNROLL
    for (int distance = 1; distance < 32; distance *= 2)
        top = fmaxf(top, __shfl_xor_sync(~0u, top, distance));
    // Powers stay those of normal numbers.
    const int power = max(-100, min(100, 14 - (int(__float_as_uint(top) >> 23) - 127)));
    const float scale = __uint_as_float(uint32_t(127 + power) << 23);
    FB_UNROLL
    for (int turn = 0; turn < query_turns; turn++) {
        const int chunk = lane_now() + 32 * turn;
        if (chunk >= FB_KEY_DIM / 8) break;
        FB_UNROLL
        for (int e = 0; e < 8; e++) x[turn][e] *= scale;
        const uint32_t piece = b.shared + FB_AT(queries) + chunk / 8 * query_bytes;
        store_query_chunk(piece + i * 128, i, chunk % 8, x[turn]);
    }
    if (lane_now() == 0) b.memory.exchange.scales[i] = __uint_as_float(uint32_t(127 - power) << 23);
}

// By the warps that score, whose products of the record before are done.
FB_DEVICE void take_queries(const Block& b, const fb_attention_record& r,
                            const Turn<query_slots>&) {
    constexpr int rows = 4; // of a warp, on their way at a time
    FB_NO_UNROLL
    for (int first = score_warp(); first < FB_QUERY_TILE; first += score_warps * rows) {
        QueryChunks chunks[rows];
        FB_UNROLL
        for (int i = 0; i < rows; i++) load_query(b, r, first + score_warps * i, chunks[i]);
        FB_UNROLL
        for (int i = 0; i < rows; i++) store_query(b, first + score_warps * i, chunks[i]);
    }
    fence_proxy_async_shared();
    barrier_sync(score_barrier, 128);
}

// ---- scores

// Products of 16 elements that are widened for at a time: 64 rows leave few registers.
constexpr int score_steps = FB_QUERY_TILE == 64 ? 2 : 4;

// Steps from `First` on of what a lane loaded of two rows, as operand a.
template <int First>
FB_DEVICE void widen_tokens(const uint4 (&rows)[2], uint32_t (&a)[score_steps][4]) {
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const uint32_t words[4] = {rows[h].x, rows[h].y, rows[h].z, rows[h].w};
        FB_UNROLL
        for (int i = 0; i < score_steps; i++) {
            uint32_t pairs[2];
            e4m3x4_to_f16x4(words[First + i], pairs);
            a[i][h] = pairs[0];
            a[i][2 + h] = pairs[1];
        }
    }
}

template <int First>
FB_DEVICE void score_piece(const uint4 (&rows)[2], uint64_t queries, bool more,
                           uint32_t (&a)[score_steps][4], float (&s)[thread_values]) {
    widen_tokens<First>(rows, a);
    wgmma_fence();
    FB_UNROLL
    for (int i = 0; i < score_steps; i++)
        wgmma_f16<0>(s, a[i], queries + operand_step((First + i) * 32), more || First + i > 0);
    wgmma_commit();
}

FB_DEVICE void score_tile(const Block& b, Ring<half_slots>& half, const Ring<rope_slots>& rope,
                          const Turn<query_slots>&, float (&s)[thread_values]) {
    const int row = thread_now() % 128 / 32 * 16 + own_row();
    const uint32_t own = row * 64 + ((lane_now() % 4 ^ row / 2 % 4) << 4);
    const uint64_t queries = row_operand(b.shared + FB_AT(queries));
    uint32_t a[2][score_steps][4];
    uint32_t keys = 0;
    FB_UNROLL
    for (int c = 0; c < key_pieces; c++) {
        if (c < 2 * half_pieces && c % half_pieces == 0) keys = next_half(b, half) + own;
        if (c == 2 * half_pieces)
            keys = b.shared + FB_AT(ropes) + rope.slot() * piece_bytes + own;
        const uint32_t piece = keys + c % half_pieces * piece_bytes;
        const uint4 rows[2] = {load_shared_16(piece), load_shared_16(piece + 512)};
        const uint64_t q = queries + operand_step(c * query_bytes);
        if (c > 0) wgmma_wait<1>(); // the operands before the last are free
        score_piece<0>(rows, q, c > 0, a[score_steps == 4 ? c % 2 : 0], s);
        if constexpr (score_steps == 2) {
            if (c > 0) wgmma_wait<1>();
            score_piece<2>(rows, q, true, a[1], s);
        }
    }
    wgmma_wait<0>();
}

FB_DEVICE void scale_rows(const Block& b, float (&s)[thread_values]) {
    FB_UNROLL
    for (int j = 0; j < thread_rows / 2; j++) {
        const float2 scale =
            *reinterpret_cast<const float2*>(&b.memory.exchange.scales[own_row_of(2 * j)]);
        FB_UNROLL
        for (int i = 0; i < 4; i++) s[4 * j + i] *= i % 2 == 0 ? scale.x : scale.y;
    }
}

// ---- values

// sums += values x weights, of 16 tokens and 64 elements.
FB_DEVICE void add_weighted(float (&sums)[thread_values], const uint32_t (&values)[4],
                            uint64_t weights, bool more) {
    wgmma_f16<0>(sums, values, weights, more);
}

// Bytes of two elements of two tokens each: pairs of tokens.
FB_DEVICE void widen_pairs(uint32_t bytes, uint32_t& first, uint32_t& second) {
    uint32_t pairs[2];
    e4m3x4_to_f16x4(__byte_perm(bytes, 0, 0x3120), pairs);
    first = pairs[0];
    second = pairs[1];
}

// Products of 16 tokens that are widened for at a time: sums of 64 rows leave few registers.
constexpr int value_steps = FB_QUERY_TILE == 64 ? 1 : 4;

// The warp's 16 elements of a piece, as operand a of each 16 tokens: rows lane / 4 and
// lane / 4 + 8 are elements 2 (lane / 4) and 2 (lane / 4) + 1.
FB_DEVICE void widen_values(uint32_t own, uint32_t (&a)[value_steps][4]) {
    FB_UNROLL
    for (int k = 0; k < value_steps; k++) {
        uint32_t bytes[2];
        ldmatrix_x2_trans(bytes, own + k * 1024);
        FB_UNROLL
        for (int i = 0; i < 2; i++) widen_pairs(bytes[i], a[k][2 * i], a[k][2 * i + 1]);
    }
}

FB_DEVICE void multiply_tile(const Block& b, uint32_t half, uint32_t turn, bool first,
                             Sums& sums) {
    constexpr int turns = 4 * half_pieces / value_steps;
    const uint64_t weights = row_operand(b.shared + FB_AT(weights) + turn * query_bytes);
    const int token = lane_now() % 16;
    const uint32_t own = b.shared + FB_AT(halves) + half * (half_pieces * piece_bytes) +
                         token * 64 + ((thread_now() % 128 / 32 ^ token / 2 % 4) << 4);
    uint32_t a[2][value_steps][4];
    FB_UNROLL
    for (int i = 0; i < turns; i++) {
        const int c = i * value_steps / 4;
        const int first_step = i * value_steps % 4;
        widen_values(own + c * piece_bytes + first_step * 1024, a[i % 2]);
        wgmma_fence();
        FB_UNROLL
        for (int k = 0; k < value_steps; k++)
            add_weighted(sums[c], a[i % 2][k], weights + operand_step((first_step + k) * 32),
                         first_step + k > 0 || !first);
        wgmma_commit();
        if (i < turns - 1) wgmma_wait<1>(); // the other operands are free
    }
    wgmma_wait<0>();
}

// Of two rows elements `at` + 2 (lane / 4) + h, as x[h][row].
FB_DEVICE void write_elements(const Target (&two)[2], bool partial, int at,
                              const float (&x)[2][2]) {
    const int element = at + 2 * own_row();
    FB_UNROLL
    for (int e = 0; e < 2; e++) {
        if (two[e].values == 0) continue;
        if (partial || FB_OUT_TYPE == FB_F32)
            *reinterpret_cast<float2*>(two[e].values + 4 * element) = make_float2(x[0][e], x[1][e]);
        else
            store_out_pair(reinterpret_cast<uint8_t*>(two[e].values) + element * out_element,
                           x[0][e], x[1][e]);
    }
}
