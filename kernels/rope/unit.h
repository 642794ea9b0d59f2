// Heads of new tokens in units that a lane holds, and how one turns.
#pragma once
#include "../common/angles.h"
#include "../common/chunk.h"
#include "../params/rope.h"

// ---- where things lie

// Up to sixteen elements of a head, as two chunks: both halves of eight pairs, or neighbours.
struct Unit {
    int32_t at[2]; // the first element of each
    int32_t count[2]; // 0 or less: it has none
    int32_t pair; // the first of its pairs; -1: nothing turns
};

// Of `count` elements those of one chunk; 0 or less where there are none. (ptxas 13.0 may take a
// wrong predicate for `== chunk` of what is clamped at both ends: scripts/machine-code.ts.)
FB_DEVICE int32_t within_chunk(int32_t count) { return count < chunk ? count : chunk; }

// Units of so many elements.
FB_DEVICE int32_t unit_count(int32_t elements) { return (elements + 2 * chunk - 1) / (2 * chunk); }

// Neighbours from `start` on, up to `end`.
FB_DEVICE Unit straight_unit(int32_t start, int32_t end) {
    return {{start, start + chunk},
            {within_chunk(end - start), within_chunk(end - start - chunk)},
            -1};
}

// The `index`-th of what turns.
FB_DEVICE Unit turning_unit(const fb_turn_params& t, int32_t index) {
    const int32_t pair = chunk * index;
    if (t.interleaved) {
        Unit unit = straight_unit(t.first + 2 * pair, t.first + t.dim);
        unit.pair = pair;
        return unit;
    }
    const int32_t pairs = t.dim / 2;
    const int32_t count = within_chunk(pairs - pair);
    return {{t.first + pair, t.first + pairs + pair}, {count, count}, pair};
}

FB_DEVICE uint64_t head_address(const fb_heads& heads, int64_t token, int32_t head) {
    return heads.data + element_bytes(heads.dtype) * (token * heads.stride_token +
                                                      head * heads.stride_head);
}

// ---- load

FB_DEVICE void load_unit(int32_t dtype, uint64_t row, const Unit& unit, float (&x)[2][chunk]) {
    FB_UNROLL
    for (int i = 0; i < 2; i++)
        load_chunk(dtype, row + element_bytes(dtype) * unit.at[i], unit.count[i], x[i]);
}

// ---- compute

FB_DEVICE Angle angle_of(const fb_turn_params& t, int32_t position, uint32_t high, uint32_t low) {
    const Angle angle = angle_at(position, {int32_t(high), int32_t(low)});
    return {angle.cos * t.factor, angle.sin * t.factor};
}

// By what the pairs of a unit turn.
struct UnitAngles {
    Angle by[chunk];
};

FB_DEVICE UnitAngles angles_of(const fb_turn_params& t, int32_t first_pair, int32_t token) {
    const int32_t* const positions = items<const int32_t>(t.positions) + token;
    const int32_t position = positions[0];
    UnitAngles angles;
    FB_UNROLL
    for (int i = 0; i < chunk; i += 2) {
        const uint4 rates = items<const uint4>(t.rates)[(first_pair + i) / 2];
        int32_t at[2] = {position, position};
        for (int j = 0; t.axes != 0 && j < 2; j++)
            at[j] = positions[items<const int32_t>(t.axes)[first_pair + i + j] * t.axis_stride];
        angles.by[i] = angle_of(t, at[0], rates.x, rates.y);
        angles.by[i + 1] = angle_of(t, at[1], rates.z, rates.w);
    }
    return angles;
}

FB_DEVICE void turn_unit(const fb_turn_params& t, const UnitAngles& angles, float (&x)[2][chunk]) {
    if (!t.interleaved) {
        FB_UNROLL
        for (int pair = 0; pair < chunk; pair++) turn_pair(x[0][pair], x[1][pair], angles.by[pair]);
        return;
    }
    FB_UNROLL
    for (int pair = 0; pair < chunk; pair++) {
        float(&both)[chunk] = x[pair / 4];
        turn_pair(both[pair % 4 * 2], both[pair % 4 * 2 + 1], angles.by[pair]);
    }
}

// ---- store

FB_DEVICE void store_unit(int32_t dtype, uint64_t row, const Unit& unit,
                          const float (&x)[2][chunk]) {
    FB_UNROLL
    for (int i = 0; i < 2; i++)
        store_chunk(dtype, row + element_bytes(dtype) * unit.at[i], unit.count[i], x[i]);
}
