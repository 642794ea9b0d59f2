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

// Whole rows of eight columns at a time are what is stored, where the output's rows allow it.
constexpr bool stores_eight = FB_OUT_TYPE != FB_F32 && FB_VALUE_DIM % 32 == 0 &&
                              !Variant::has_output;

// Half of the words i change places with words i | bit of the lane beside.
FB_DEVICE void exchange(uint32_t (&words)[4], int bit, int beside) {
    const bool upper = lane_now() & beside;
    FB_UNROLL
    for (int i = 0; i < 4; i++) {
        if (i & bit) continue;
        const uint32_t sent = upper ? words[i] : words[i | bit];
        const uint32_t got = __shfl_xor_sync(0xffffffffu, sent, beside);
        if (upper) words[i] = got;
        else words[i | bit] = got;
    }
}

// Of 32 columns of a row as a quad holds them, 8 neighbouring ones to each lane.
FB_DEVICE uint4 eight_columns(uint32_t (&pairs)[4]) {
    exchange(pairs, fp8_products ? 2 : 1, 1);
    if (!fp8_products) exchange(pairs, 2, 2);
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// The first of them.
FB_DEVICE int first_of_eight() {
    const int quad = lane_now() % 4;
    return fp8_products ? quad % 2 * 16 + quad / 2 * 8 : quad * 8;
}

// The i-th pair of neighbouring columns of 32 that a thread has of its row h; `sums`: theirs. Of
// fp8 a quad's lanes have four neighbours of 16 columns: 0 2, and 1 3.
FB_DEVICE float2 pair_of(const float* sums, int i, int h) {
    if (!fp8_products) return make_float2(sums[4 * i + 2 * h], sums[4 * i + 2 * h + 1]);
    const int at = i / 2 * 8 + i % 2 + 2 * h;
    return make_float2(sums[at], sums[at + 4]);
}

// Of all columns that a thread has of its row h, in two sums that do not wait for each other.
FB_DEVICE float row_total(int h, const Sums& sums) {
    float total[2] = {0, 0};
    FB_UNROLL
    for (int j = 0; j < own_columns / 8; j++)
        total[j % 2] += sums[4 * j + 2 * h] + sums[4 * j + 2 * h + 1];
    return total[0] + total[1];
}

// 32 columns of a thread's row h, from column 32 g of its own on, by whole quads. `values` is the
// address of the thread's first eight columns, and `sums` of an empty row are zeros.
FB_DEVICE void store_columns(const RowTarget& target, bool inside, int h, int g,
                             const Sums& sums) {
    if constexpr (stores_eight) {
        uint32_t pairs[4];
        FB_UNROLL
        for (int i = 0; i < 4; i++) {
            const float2 x = pair_of(&sums[16 * g], i, h);
            pairs[i] = pack_pair<FB_OUT_TYPE>(x.x * target.factor, x.y * target.factor);
        }
        const uint4 eight = eight_columns(pairs);
        if (inside) store_eight(target.values + out_element * 32 * g, eight);
    }
}

// Row h of a thread, a pair of columns at a time.
FB_DEVICE void store_pairs(const fb_attention_params& p, const RowTarget& target, int first,
                           int h, const Sums& sums) {
    const int quad = lane_now() % 4;
    FB_UNROLL
    for (int i = 0; i < own_columns / 8; i++) {
        const float2 x = pair_of(&sums[i / 2 * 8], i % 2, h);
        const int column = fp8_products ? i / 2 * 16 + 4 * quad + i % 2 * 2 : 8 * i + 2 * quad;
        write_pair(p, target, first + column, x.x, x.y);
    }
}

// A thread's two rows, by whole quads; `inside`: those that there are.
FB_DEVICE void store_rows(const fb_attention_params& p, RowTarget (&targets)[2], bool wide,
                          const bool (&inside)[2], int first, Sums& sums) {
    if constexpr (stores_eight) {
        if (wide) {
            FB_UNROLL
            for (int h = 0; h < 2; h++) {
                targets[h].values += out_element * (first + first_of_eight());
                // Seldom: a choice at every column would cost more.
                if (!__any_sync(0xffffffffu, targets[h].empty)) continue;
                FB_UNROLL
                for (int i = 0; i < own_columns / 4; i++) {
                    float& x = sums[i / 2 * 4 + 2 * h + i % 2];
                    x = targets[h].empty ? 0 : x;
                }
            }
            FB_UNROLL
            for (int g = 0; g < own_columns / 32; g++) {
                FB_UNROLL
                for (int h = 0; h < 2; h++) store_columns(targets[h], inside[h], h, g, sums);
            }
            return;
        }
    }
    FB_UNROLL
    for (int h = 0; h < 2; h++)
        if (inside[h]) store_pairs(p, targets[h], first, h, sums);
}

// What is left of a thread's two rows: the base of exponents of 2, and the sum of this thread's
// columns.
struct RowSums {
    float base[2]; // no_base: no key
    float sum[2];
    float unit; // of the sums of values
};

// Where row `at` goes, as lane `from` knows it.
FB_DEVICE RowTarget target_of(const fb_attention_params& p, const fb_attention_record& r,
                              const RowTarget& known, int from, int at) {
    constexpr uint32_t all = 0xffffffffu;
    const uint64_t values = reinterpret_cast<uint64_t>(known.values);
    const uint64_t low = __shfl_sync(all, uint32_t(values), from);
    const uint64_t high = __shfl_sync(all, uint32_t(values >> 32), from);
    const int flags = __shfl_sync(all, (known.empty ? 1 : 0) | (known.hooked ? 2 : 0), from);
    RowTarget target = {};
    target.values = reinterpret_cast<uint8_t*>(high << 32 | low);
    target.factor = __shfl_sync(all, known.factor, from);
    target.partial = r.partial_row >= 0;
    target.empty = flags & 1;
    target.hooked = flags & 2;
    if constexpr (Variant::has_output) {
        target.lse = __shfl_sync(all, known.lse, from);
        target.unit = __shfl_sync(all, known.unit, from);
        if (target.hooked) target.row = row_inputs(p, r, at);
    }
    return target;
}

// A thread's rows `row` and `row` + 8 of the block, columns from `first` on; returns a bit for
// each that is wrong, and not stored. A lane finishes one of its warp's 16 rows for the quad that
// has it: in turn every quad would wait for each of its two.
FB_DEVICE uint32_t store(const Block& b, const Task& task, int row, int first,
                         const RowSums& rows, Sums& sums) {
    constexpr uint32_t all = 0xffffffffu;
    const fb_attention_params& p = b.attention();
    const fb_attention_record& r = task.record;
    const int lane = lane_now();
    const float all_columns[2] = {row_total(0, sums), row_total(1, sums)};
    float sum[2];
    bool inside[2];
    bool wrongs[2];
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        sum[h] = quad_sum(rows.sum[h]);
        inside[h] = row + 8 * h < r.row_count;
        // Of fp8 a probability may outgrow f32 before its row's reference moves.
        const bool outgrown = fp8_products && !(sum[h] < FB_INFINITY);
        wrongs[h] = outgrown || is_wrong(rows.base[h], sum[h], all_columns[h]);
    }
    uint32_t wrong = 0;
    if (__any_sync(all, wrongs[0] || wrongs[1])) {
        FB_UNROLL
        for (int h = 0; h < 2; h++) {
            if (quad_max(wrongs[h] ? 1 : 0) == 0 || !inside[h]) continue;
            wrong |= 1u << h;
            inside[h] = false;
        }
    }
    const int quad = lane % 8 * 4; // its first lane has the row that this one finishes
    const bool second = lane / 8 % 2;
    const float bases[2] = {__shfl_sync(all, rows.base[0], quad),
                            __shfl_sync(all, rows.base[1], quad)};
    const float totals[2] = {__shfl_sync(all, sum[0], quad), __shfl_sync(all, sum[1], quad)};
    const int own = row - lane / 4 + lane % 16;
    RowTarget known = {};
    if (own < r.row_count)
        known = finish_row(p, r, own, second ? bases[1] : bases[0], second ? totals[1] : totals[0],
                           lane < 16 && first == 0);
    known.factor *= rows.unit;
    RowTarget targets[2] = {target_of(p, r, known, lane / 4, row),
                            target_of(p, r, known, lane / 4 + 8, row + 8)};
    store_rows(p, targets, r.partial_row < 0 && wide_rows(p), inside, first, sums);
    return wrong;
}
