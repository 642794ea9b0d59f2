// What a warpgroup writes when its rows' keys are done.
#pragma once
#include "softmax.h"

// Bytes of eight columns.
constexpr int store_bytes = 8 * out_element;

// Whether stores of eight columns reach the output's rows.
FB_DEVICE bool wide_rows(const fb_attention_params& p) {
    return ((p.out | out_element * p.out_stride_token | out_element * p.out_stride_head) &
            (store_bytes - 1)) == 0;
}

FB_DEVICE void store_eight(uint8_t* to, const uint4& pairs) {
    if constexpr (is_fp8(FB_OUT_TYPE))
        *reinterpret_cast<uint2*>(to) =
            make_uint2(pairs.x | pairs.y << 16, pairs.z | pairs.w << 16);
    else store_16(to, pairs);
}

// 32 columns of a row as a quad holds them, 8 neighbouring ones to each lane: the quad transposes
// pairs of columns.
FB_DEVICE uint4 eight_columns(uint32_t (&pairs)[4]) {
    const int quad = lane_now() % 4;
    FB_UNROLL
    for (int bit = 1; bit <= 2; bit *= 2) {
        FB_UNROLL
        for (int i = 0; i < 4; i++) {
            if (i & bit) continue;
            const bool upper = quad & bit;
            const uint32_t sent = upper ? pairs[i] : pairs[i | bit];
            const uint32_t got = __shfl_xor_sync(0xffffffffu, sent, bit);
            if (upper) pairs[i] = got;
            else pairs[i | bit] = got;
        }
    }
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// Of all columns that a thread has of its row h.
FB_DEVICE float row_total(int h, const Sums& sums) {
    float total = 0;
    FB_UNROLL
    for (int j = 0; j < FB_VALUE_DIM / 8; j++)
        total += sums[4 * j + 2 * h] + sums[4 * j + 2 * h + 1];
    return total;
}

// Row h of a thread, by whole quads; `inside`: there is such a row.
FB_DEVICE void store_row(const fb_attention_params& p, const RowTarget& target, bool wide,
                         bool inside, int h, const Sums& sums) {
    const int quad = lane_now() % 4;
    if constexpr (FB_OUT_TYPE != FB_F32 && FB_VALUE_DIM % 32 == 0 && !Variant::has_output &&
                  !fp8_products) {
        if (wide) {
            FB_UNROLL
            for (int g = 0; g < FB_VALUE_DIM / 32; g++) {
                uint32_t pairs[4];
                FB_UNROLL
                for (int i = 0; i < 4; i++) {
                    const float* x = &sums[16 * g + 4 * i + 2 * h];
                    pairs[i] = target.empty
                                   ? 0
                                   : pack_pair<FB_OUT_TYPE>(x[0] * target.factor,
                                                            x[1] * target.factor);
                }
                const uint4 eight = eight_columns(pairs);
                if (inside) store_eight(target.values + out_element * (32 * g + 8 * quad), eight);
            }
            return;
        }
    }
    if (!inside) return;
    if constexpr (fp8_products) { // of 16 columns a quad's lanes have four each: 0 2, and 1 3
        FB_UNROLL
        for (int j = 0; j < FB_VALUE_DIM / 8; j += 2) {
            const float* even = &sums[4 * j + 2 * h];
            const float* odd = even + 4;
            write_pair(p, target, 8 * j + 4 * quad, even[0], odd[0]);
            write_pair(p, target, 8 * j + 4 * quad + 2, even[1], odd[1]);
        }
        return;
    }
    FB_UNROLL
    for (int j = 0; j < FB_VALUE_DIM / 8; j++) {
        const float* x = &sums[4 * j + 2 * h];
        write_pair(p, target, 8 * j + 2 * quad, x[0], x[1]);
    }
}

// What is left of a thread's two rows: the base of exponents of 2, and the sum of this thread's
// columns.
struct RowSums {
    float base[2]; // no_base: no key
    float sum[2];
    float unit; // of the sums of values
};

// A thread's rows `row` and `row` + 8 of the block; returns a bit for each that is wrong, and not
// stored.
FB_DEVICE uint32_t store(const Block& b, const Task& task, int row, const RowSums& rows,
                         const Sums& sums) {
    const fb_attention_params& p = b.attention();
    const fb_attention_record& r = task.record;
    const bool wide = r.partial_row < 0 && wide_rows(p);
    uint32_t wrong = 0;
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int at = row + 8 * h;
        const float sum = quad_sum(rows.sum[h]);
        bool inside = at < r.row_count;
        RowTarget target = {};
        if (inside) target = finish_row(p, r, at, rows.base[h], sum, lane_now() % 4 == 0);
        if (quad_is_wrong(rows.base[h], sum, row_total(h, sums)) && inside) {
            wrong |= 1u << h;
            inside = false;
        }
        target.factor *= rows.unit;
        store_row(p, target, wide, inside, h, sums);
    }
    return wrong;
}
