// What is written when a record's keys are done.
#pragma once
#include "../../common/element.h"
#include "records.h"
#include "scores.h"

// Where a row's values go, and what they are multiplied by first.
struct RowTarget {
    uint8_t* values;
    float factor;
    bool partial;
    bool empty;  // zeros, whatever the sums hold
    bool hooked; // by the output hook, of:
    RowInputs row;
    float lse;  // base e
    float unit; // what is multiplied last
};

// Where rows lie that are still to be multiplied, and their queries, which were: nowhere.
struct NoRoom {
    FB_DEVICE float* output(int) const { return nullptr; }
    FB_DEVICE void load_query(int, int, float (&)[8]) const {}
};

// Behind the elements of a row that is still to be multiplied: its log-sum-exp, base e.
constexpr int room_lse_at = round_up(FB_VALUE_DIM, 16);

// Row `i`, with `base` in base 2 and `sum` of 2^(score - base); neither counts without softmax. One
// thread of the row's `writes` its log-sum-exp. What is still to be multiplied goes to the room.
template <class Room = NoRoom>
FB_DEVICE RowTarget finish_row(const fb_attention_params& p, const fb_attention_record& r, int i,
                               float base, float sum, bool writes, const Room& room = {}) {
    // A sum of NaN has seen a key, whose score never raised the base.
    bool empty = Variant::softmax && base == no_base && sum == 0;
    const float maximum = empty ? -FB_INFINITY : base;
    const float scale = constant_scale(p.v_scale, r);
    if (r.partial_row >= 0) {
        const int64_t row = r.partial_row + i;
        if (writes && Variant::softmax) {
            const float lse = empty ? -FB_INFINITY : (maximum + log2_approx(sum)) * ln_2;
            reinterpret_cast<float*>(p.partial_lse)[row] = lse;
        }
        auto* values = reinterpret_cast<float*>(p.partial_out) + row * FB_VALUE_DIM;
        const float factor = !Variant::softmax ? scale : empty ? 0 : scale / sum;
        return {reinterpret_cast<uint8_t*>(values), factor, true, empty, false, {}, 0, 1};
    }
    const RowInputs row = row_inputs(p, r, i);
    float top = maximum;
    float total = sum;
    float factor = scale;
    if (p.finalize && p.sinks != 0) {
        const float sink = reinterpret_cast<const float*>(p.sinks)[row.head] * log2_e;
        top = fmaxf(maximum, sink);
        if (top == -FB_INFINITY) top = 0;
        const float kept = exp2_approx(maximum - top);
        total = sum * kept + exp2_approx(sink - top);
        factor *= kept;
        empty &= total == total; // a sink may be NaN
    }
    const float lse = total == 0 ? -FB_INFINITY : (top + log2_approx(total)) * ln_2;
    if (writes && p.lse != 0) {
        const int64_t at = int64_t(row.query_token) * p.query_heads + row.head;
        reinterpret_cast<float*>(p.lse)[at] = lse * p.lse_factor;
    }
    const int64_t at = row.query_token * p.out_stride_token + row.head * p.out_stride_head;
    auto* values = reinterpret_cast<uint8_t*>(p.out) + at * out_element;
    if (Variant::softmax) factor = empty ? 0 : factor / total;
    // Queries beyond a length that only the device knows stay 0.
    const bool is_query = row.request >= 0 && row.query_index < row.query_length;
    if (Variant::projects_output && p.finalize) {
        float* const own = room.output(i);
        if (writes) own[room_lse_at] = lse;
        const bool before = Variant::has_before_output && is_query;
        return {reinterpret_cast<uint8_t*>(own), factor, true, empty, before, row, lse, 1};
    }
    const bool hooked = Variant::has_output && p.finalize && is_query;
    const float unit = is_fp8(FB_OUT_TYPE) ? out_unit(p) : 1;
    if (is_fp8(FB_OUT_TYPE) && !hooked) factor *= unit;
    return {values, factor, false, empty, hooked, row, lse, hooked ? unit : 1};
}

// Two neighbours, rounded to the type of outputs, which is not f32.
FB_DEVICE void store_out_pair(uint8_t* to, float x, float y) {
    if constexpr (is_fp8(FB_OUT_TYPE))
        *reinterpret_cast<uint16_t*>(to) = uint16_t(pack_pair<FB_OUT_TYPE>(x, y));
    else if constexpr (FB_OUT_TYPE != FB_F32)
        *reinterpret_cast<uint32_t*>(to) = pack_pair<FB_OUT_TYPE>(x, y);
}

// Two neighbours of a row, from column `column` on.
FB_DEVICE void write_pair(const fb_attention_params& p, const RowTarget& target, int column,
                          float x, float y) {
    x = target.empty ? 0 : x * target.factor;
    y = target.empty ? 0 : y * target.factor;
    if (Variant::has_before_output && target.hooked) {
        x = Variant::before_output(p, target.row, target.lse, column, x);
        y = Variant::before_output(p, target.row, target.lse, column + 1, y);
    } else if (Variant::has_output && target.hooked) {
        x = Variant::output(p, target.row, target.lse, column, x);
        y = Variant::output(p, target.row, target.lse, column + 1, y);
        if (is_fp8(FB_OUT_TYPE)) {
            x *= target.unit;
            y *= target.unit;
        }
    }
    if (target.partial || FB_OUT_TYPE == FB_F32)
        reinterpret_cast<float2*>(target.values)[column / 2] = make_float2(x, y);
    else store_out_pair(target.values + column * out_element, x, y);
}
