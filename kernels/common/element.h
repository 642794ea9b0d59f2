// Elements of a type known when compiling: eight at a time to and from f32.
#pragma once
#include "../ptx/base.h"
#include "../ptx/convert.h"
#include "../ptx/memory.h"

#include "../params/types.h"

// Two f32 rounded to a pair of a type of 16 bits or 8, in the low bits.
template <int type> FB_DEVICE uint32_t pack_pair(float low, float high) {
    static_assert(type >= FB_F16 && type <= FB_F8E5M2, "pairs are of 16 or 8 bits");
    if constexpr (type == FB_F8E4M3) return pack_e4m3(low, high);
    if constexpr (type == FB_F8E5M2) return pack_e5m2(low, high);
    return type == FB_F16 ? pack_f16(low, high) : pack_bf16(low, high);
}

template <int type> FB_DEVICE void widen_pair(uint32_t pair, float& low, float& high) {
    low = type == FB_BF16 ? bf16_low(pair) : f16_low(pair);
    high = type == FB_BF16 ? bf16_high(pair) : f16_high(pair);
}

// Eight neighbours, aligned to their size.
template <int type> FB_DEVICE void widen_8(const void* source, float (&x)[8]) {
    if constexpr (type == FB_F16 || type == FB_BF16) {
        const uint4 raw = *static_cast<const uint4*>(source);
        widen_pair<type>(raw.x, x[0], x[1]);
        widen_pair<type>(raw.y, x[2], x[3]);
        widen_pair<type>(raw.z, x[4], x[5]);
        widen_pair<type>(raw.w, x[6], x[7]);
    } else if constexpr (type == FB_F32) {
        FB_UNROLL
        for (int i = 0; i < 8; i++) x[i] = static_cast<const float*>(source)[i];
    } else {
        static_assert(type == FB_F8E4M3 || type == FB_F8E5M2, "a type of queries, keys or values");
        const uint2 raw = *static_cast<const uint2*>(source);
        const uint32_t words[2] = {raw.x, raw.y};
        FB_UNROLL
        for (int i = 0; i < 2; i++) {
            uint32_t pairs[2];
            if (type == FB_F8E4M3) e4m3x4_to_f16x4(words[i], pairs);
            else e5m2x4_to_f16x4(words[i], pairs);
            widen_pair<FB_F16>(pairs[0], x[4 * i], x[4 * i + 1]);
            widen_pair<FB_F16>(pairs[1], x[4 * i + 2], x[4 * i + 3]);
        }
    }
}

// Eight neighbours, of 8 bits in the first two words, as another type that holds them exactly.
template <int from, int to> FB_DEVICE uint4 convert_8(const uint4& raw) {
    if constexpr (from == to) return raw;
    else {
        const uint32_t words[2] = {raw.x, raw.y};
        uint32_t pairs[4];
        FB_UNROLL
        for (int i = 0; i < 2; i++) {
            uint32_t halves[2];
            if (from == FB_F8E4M3) e4m3x4_to_f16x4(words[i], halves);
            else e5m2x4_to_f16x4(words[i], halves);
            FB_UNROLL
            for (int h = 0; h < 2; h++)
                pairs[2 * i + h] = to == FB_F16 ? halves[h]
                                                : pack_pair<to>(f16_low(halves[h]),
                                                                f16_high(halves[h]));
        }
        return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
}

template <int type> FB_DEVICE float widen_1(const void* source, int index) {
    if constexpr (type == FB_F32) return static_cast<const float*>(source)[index];
    if constexpr (type == FB_F16) return f16_to_float(static_cast<const uint16_t*>(source)[index]);
    if constexpr (type == FB_BF16)
        return bf16_to_float(static_cast<const uint16_t*>(source)[index]);
    const uint8_t byte = static_cast<const uint8_t*>(source)[index];
    return type == FB_F8E4M3 ? e4m3_to_float(byte) : e5m2_to_float(byte);
}

// Of a type of 16 bits.
template <int type> FB_DEVICE uint4 round_8(const float (&x)[8]) {
    return make_uint4(pack_pair<type>(x[0], x[1]), pack_pair<type>(x[2], x[3]),
                      pack_pair<type>(x[4], x[5]), pack_pair<type>(x[6], x[7]));
}
