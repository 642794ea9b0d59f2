// What the two warpgroups that multiply values hold of 64 rows: 128 of the columns, twice.
#pragma once
#include "memory.h"
#include "rows.h"

using Sums = float[2][64];

// ---- one tile

FB_DEVICE void shrink(const Block& b, uint32_t slot, Sums& sums) {
    const float2 factor = b.memory.factors[slot][threadIdx.x % 128 / 4];
    if (!__any_sync(~0u, factor.x != 1 || factor.y != 1)) return;
    FB_UNROLL
    for (int j = 0; j < 128; j++) sums[j / 64][j % 64] *= j % 4 < 2 ? factor.x : factor.y;
}

FB_DEVICE void multiply_tile(const Block& b, uint32_t half, uint32_t turn, bool first,
                             Sums& sums) {
    const uint64_t weights = row_operand(b.shared + FB_AT(weights) + turn * piece_bytes);
    const uint64_t values =
        value_operand(b.shared + FB_AT(halves) + half * (half_pieces * piece_bytes));
    wgmma_fence();
    FB_UNROLL
    for (int k = 0; k < 8; k++) // 128 columns, 16 tokens each
        add_weighted(sums[k / 4], weights + operand_step(k % 4 * 32),
                     values + operand_step(k / 4 * 2 * piece_bytes + k % 4 * 2048),
                     k % 4 > 0 || !first);
    wgmma_commit();
    wgmma_wait<0>();
}

// ---- the record's rows

// 16 bytes of a row, of which only eight may be aligned.
FB_DEVICE void store_run(uint64_t address, const uint4& x) {
    if (address % 16 == 0) {
        *reinterpret_cast<uint4*>(address) = x;
    } else {
        reinterpret_cast<uint2*>(address)[0] = make_uint2(x.x, x.y);
        reinterpret_cast<uint2*>(address)[1] = make_uint2(x.z, x.w);
    }
}

// Lanes of a quad hold two columns each of every eight: four exchange theirs of 32 columns.
FB_DEVICE void write_16(uint64_t to, uint32_t (&x)[4]) {
    FB_UNROLL
    for (int step = 1; step < 4; step *= 2) {
        const bool upper = lane_now() & step;
        FB_UNROLL
        for (int i = 0; i < 4; i++) {
            if (i & step) continue;
            const uint32_t taken = __shfl_xor_sync(~0u, upper ? x[i] : x[i + step], step);
            if (upper) x[i] = taken;
            else x[i + step] = taken;
        }
    }
    if (to != 0) store_run(to + lane_now() % 4 * 16, make_uint4(x[0], x[1], x[2], x[3]));
}

FB_DEVICE void write_sums(const Block& b, const fb_attention_record& r, int group,
                          const SharedEnd&, Sums& sums) {
    const bool partial = r.partial_row >= 0;
    const int first = group * (FB_VALUE_DIM / 2);
    uint32_t wrong = 0; // a bit for each of the thread's rows
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = thread_now() % 128 / 32 * 16 + own_row() + 8 * h;
        Target target = b.memory.targets[row];
        const auto pair = [&](int j) { // columns 8 j and on
            const float* two = sums[j / 16] + j % 16 * 4 + 2 * h;
            return make_float2(target.of(two[0]), target.of(two[1]));
        };
        float total = 0;
        FB_UNROLL
        for (int j = 0; j < 128; j++)
            if (j / 2 % 2 == h) total += sums[j / 64][j % 64];
        if (quad_max(target.wrong(total) ? 1 : 0) > 0) {
            wrong |= 1u << h;
            target.values = 0;
        }
        if (partial || FB_OUT_TYPE == FB_F32) {
            auto* to = reinterpret_cast<float2*>(target.values) + (first + own_key()) / 2;
            FB_UNROLL
            for (int j = 0; j < 32; j++)
                if (target.values != 0) to[j * 4] = pair(j);
        } else if constexpr (is_fp8(FB_OUT_TYPE)) {
            auto* to = reinterpret_cast<uint8_t*>(target.values) + first + own_key();
            FB_UNROLL
            for (int j = 0; j < 32; j++)
                if (target.values != 0) store_out_pair(to + 8 * j, pair(j).x, pair(j).y);
        } else {
            const uint64_t to = target.values == 0 ? 0 : target.values + first * 2;
            FB_UNROLL
            for (int j = 0; j < 32; j += 4) {
                uint32_t x[4];
                FB_UNROLL
                for (int i = 0; i < 4; i++) {
                    constexpr int type = FB_OUT_TYPE == FB_F16 ? FB_F16 : FB_BF16;
                    x[i] = pack_pair<type>(pair(j + i).x, pair(j + i).y);
                }
                write_16(to == 0 ? 0 : to + j * 16, x);
            }
        }
    }
    if (!__any_sync(~0u, wrong != 0)) return;
    attend_wrong<2>(b.p, r, b.memory.by_page, wrong, {first, FB_VALUE_DIM / 16}, group == 0,
                    [](int h) { return thread_now() % 128 / 32 * 16 + own_row() + 8 * h; });
    // The next product takes no older sums, but its registers: these need not be kept until then.
    FB_UNROLL
    for (int j = 0; j < 128; j++) sums[j / 64][j % 64] = 0;
}
