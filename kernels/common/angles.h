// Angles of rotary embedding at any position. A pair turns by so many 2^-64 of a whole turn per
// position: products with positions wrap around by themselves, so no position is too large, and
// negative ones turn back.
#pragma once
#include "../ptx/math.h"

// Turns of one pair per position: high * 2^-32 + low * 2^-64.
struct TurnRate {
    int32_t high;
    int32_t low;
};

struct Angle {
    float cos;
    float sin;
};

// Within 3e-6: the position's turn is exact to 2^-32, cut to 2^-23, and the unit is good to 2^-20.5
// up to a whole turn. Position 0 is exact.
FB_DEVICE Angle angle_at(int32_t position, TurnRate rate) {
    constexpr float two_pi = 6.28318531f;
    const uint32_t turn =
        uint32_t(position) * uint32_t(rate.high) + uint32_t(__mulhi(position, rate.low));
    // A float from 1 to 2 that has the turn as its fraction, less 1, in radians.
    const float radians = fmaf(__uint_as_float(__funnelshift_r(turn, 0x7f, 9)), two_pi, -two_pi);
    return {cos_approx(radians), sin_approx(radians)};
}

// A pair (x, y) turned.
FB_DEVICE void turn_pair(float& x, float& y, Angle by) {
    const float turned = x * by.cos - y * by.sin;
    y = x * by.sin + y * by.cos;
    x = turned;
}
