// What token scales, hooks and mask bits make of scores in a warpgroup's accumulators.
#pragma once
#include "softmax.h"

// A thread's rows `row` and `row` + 8 and the columns of a tile, of which it holds some: of every 8
// (j) two neighbours (e).
struct Pairs {
    const Block& b;
    const TaskRows& seen;
    uint32_t notes; // address of the tile's, from the thread's first column on
    int row;
    int32_t first; // token of the thread's first column

    FB_DEVICE static Pairs of(const Block& b, const TaskRows& seen, int stage, int row, int tile) {
        const int own = lane_now() % 4 * 2;
        return {b, seen, shared_address(notes_of(b.shared, stage)) + 4 * own, row,
                seen.start + tile * FB_KV_TILE + own};
    }

    FB_DEVICE const fb_attention_params& p() const { return b.attention(); }

    // What is noted of columns j, by its place in Notes.
    FB_DEVICE uint2 noted_pair(uint32_t place, int j) const {
        return load_shared_8(notes + place + 32 * j);
    }
    FB_DEVICE float2 scale_pair(uint32_t place, int j) const {
        const uint2 pair = noted_pair(place, j);
        return make_float2(__int_as_float(int(pair.x)), __int_as_float(int(pair.y)));
    }

    struct Columns {
        int32_t position[2];
        Variant::Key key[2];
    };

    FB_DEVICE Columns columns(int j) const {
        Columns of = {};
        if (Variant::reads_keys || FB_MASK) {
            const uint2 at = noted_pair(FB_OFFSET(Notes, position), j);
            of.position[0] = int32_t(at.x);
            of.position[1] = int32_t(at.y);
        }
        if constexpr (Variant::reads_keys) {
            uint2 slot = {};
            if (Variant::reads_slots) slot = noted_pair(FB_OFFSET(Notes, slot), j);
            const int32_t head = seen.kv_head;
            of.key[0] = Variant::key_words(p(), {of.position[0], int32_t(slot.x), head});
            of.key[1] = Variant::key_words(p(), {of.position[1], int32_t(slot.y), head});
        }
        return of;
    }

    FB_DEVICE Variant::Row words(int h) const {
        if constexpr (Variant::row_words == 0) return {};
        else return seen.words[row + 8 * h];
    }

    // Whether bits and the mask hook let a row see a key.
    FB_DEVICE bool shown(int h, int e, const Variant::Row& words, const Columns& columns) const {
        if (FB_MASK && !bit_visible(p(), seen.mask[row + 8 * h], columns.position[e])) return false;
        if constexpr (Variant::has_mask) return Variant::mask(p(), words, columns.key[e]);
        return true;
    }

    FB_DEVICE bool in_range(int h, int j, int e) const {
        const int32_t token = first + 8 * j + e;
        return token >= seen.low[row + 8 * h] && token <= seen.high[row + 8 * h];
    }

    // Products become scores in base 2, or weights.
    FB_DEVICE void change(float factor, Scores& s) const {
        const Variant::Row rows[2] = {words(0), words(1)};
        FB_UNROLL
        for (int j = 0; j < FB_KV_TILE / 8; j++) {
            const Columns at = columns(j);
            float2 scales = make_float2(factor, factor);
            if (FB_K_TOKEN_SCALE) {
                scales = scale_pair(FB_OFFSET(Notes, k_scale), j);
                scales = make_float2(scales.x * factor, scales.y * factor);
            }
            FB_UNROLL
            for (int e = 0; e < 2; e++) {
                const float scale = e == 0 ? scales.x : scales.y;
                FB_UNROLL
                for (int h = 0; h < 2; h++) {
                    float& x = s[4 * j + 2 * h + e];
                    if constexpr (Variant::has_logits) {
                        const bool stored =
                            Variant::stores && in_range(h, j, e) && shown(h, e, rows[h], at);
                        x = Variant::logits(p(), rows[h], at.key[e], {x, scale, stored});
                    } else {
                        x *= scale;
                    }
                }
            }
        }
    }

    FB_DEVICE void hide(Scores& s) const {
        const Variant::Row rows[2] = {words(0), words(1)};
        FB_UNROLL
        for (int j = 0; j < FB_KV_TILE / 8; j++) {
            const Columns at = columns(j);
            FB_UNROLL
            for (int i = 0; i < 4; i++)
                if (!shown(i / 2, i % 2, rows[i / 2], at)) s[4 * j + i] = hidden();
        }
    }

    // The exponent of the tile's largest scale of a value.
    FB_DEVICE int scale_power() const {
        float top = 0;
        FB_UNROLL
        for (int j = 0; j < FB_KV_TILE / 8; j++) {
            const float2 scales = scale_pair(FB_OFFSET(Notes, v_scale), j);
            top = fmaxf(top, fmaxf(fabsf(scales.x), fabsf(scales.y)));
        }
        return __float_as_int(quad_max(top)) >> 23;
    }

    // A value's scale, times `unit`, goes into its probability.
    FB_DEVICE void scale_values(float unit, Scores& s) const {
        FB_UNROLL
        for (int j = 0; j < FB_KV_TILE / 8; j++) {
            float2 scales = scale_pair(FB_OFFSET(Notes, v_scale), j);
            if (weighs_by_power) scales = make_float2(scales.x * unit, scales.y * unit);
            FB_UNROLL
            for (int i = 0; i < 4; i++) s[4 * j + i] *= i % 2 == 0 ? scales.x : scales.y;
        }
    }
};
