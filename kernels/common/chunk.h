// Elements of any dtype, in chunks: as raw words for copies, as f32 for conversions that round as
// the CPU device does (to nearest even; fp8 saturates, f16 overflows to infinity).
#pragma once
#include "../ptx/base.h"
#include "../params/types.h"
#include "../ptx/convert.h"
#include "operator.h"

// Elements of a chunk: 16 bytes of f16 or bf16.
constexpr int chunk = 8;

FB_DEVICE int32_t element_bytes(int32_t dtype) {
    switch (dtype) {
    case FB_F32:
    case FB_I32: return 4;
    case FB_F16:
    case FB_BF16: return 2;
    case FB_I64: return 8;
    default: return 1;
    }
}

FB_DEVICE bool is_float(int32_t dtype) { return dtype <= FB_F8E5M2; }

// ---- words: `size` bytes per element, element i in bytes [i * size, ...) of words

template <int size> struct ElementWord;
template <> struct ElementWord<1> { using type = uint8_t; };
template <> struct ElementWord<2> { using type = uint16_t; };
template <> struct ElementWord<4> { using type = uint32_t; };

// True for a whole chunk that vector instructions can reach.
template <int size> FB_DEVICE bool is_vector(uint64_t address, int32_t count) {
    return count == chunk && address % (size == 1 ? 8 : 16) == 0;
}

// A whole chunk.
template <int size> FB_DEVICE void load_vector(uint64_t address, uint32_t* words) {
    if constexpr (size == 1) {
        const uint2 value = *items<const uint2>(address);
        words[0] = value.x;
        words[1] = value.y;
    } else {
        FB_UNROLL
        for (int i = 0; i < size / 2; i++) {
            const uint4 value = items<const uint4>(address)[i];
            words[4 * i] = value.x;
            words[4 * i + 1] = value.y;
            words[4 * i + 2] = value.z;
            words[4 * i + 3] = value.w;
        }
    }
}

// `count` elements one by one; the words of the others are 0.
template <int size> FB_DEVICE void load_elements(uint64_t address, int32_t count, uint32_t* words) {
    using Word = typename ElementWord<size>::type;
    FB_UNROLL
    for (int i = 0; i < chunk; i++) {
        const int bit = i * size % 4 * 8;
        if (bit == 0) words[i * size / 4] = 0;
        if (i < count) words[i * size / 4] |= uint32_t(items<const Word>(address)[i]) << bit;
    }
}

// `count` elements; the words of the others are 0.
template <int size> FB_DEVICE void load_words(uint64_t address, int32_t count, uint32_t* words) {
    if (is_vector<size>(address, count)) load_vector<size>(address, words);
    else load_elements<size>(address, count, words);
}

template <int size>
FB_DEVICE void store_words(uint64_t address, int32_t count, const uint32_t* words) {
    using Word = typename ElementWord<size>::type;
    if (is_vector<size>(address, count)) {
        if constexpr (size == 1) {
            *items<uint2>(address) = {words[0], words[1]};
        } else {
            FB_UNROLL
            for (int i = 0; i < size / 2; i++)
                items<uint4>(address)[i] = {words[4 * i], words[4 * i + 1], words[4 * i + 2],
                                            words[4 * i + 3]};
        }
        return;
    }
    FB_UNROLL
    for (int i = 0; i < chunk; i++)
        if (i < count) items<Word>(address)[i] = Word(words[i * size / 4] >> (i * size % 4 * 8));
}

template <int size>
FB_DEVICE void copy_words_of(uint64_t source, uint64_t target, int32_t count) {
    uint32_t words[2 * size];
    load_words<size>(source, count, words);
    store_words<size>(target, count, words);
}

// Copies up to a chunk of elements of `bytes` bytes.
FB_DEVICE void copy_chunk(int32_t bytes, uint64_t source, uint64_t target, int32_t count) {
    switch (bytes) {
    case 1: return copy_words_of<1>(source, target, count);
    case 2: return copy_words_of<2>(source, target, count);
    case 4: return copy_words_of<4>(source, target, count);
    default:
        for (int i = 0; i < count; i++)
            items<uint64_t>(target)[i] = items<const uint64_t>(source)[i];
    }
}

// ---- numbers

// Words of a type as numbers.
FB_DEVICE void widen_words(int32_t dtype, const uint32_t* words, float* x) {
    uint32_t pairs[2];
    switch (dtype) {
    case FB_F32:
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = __uint_as_float(words[i]);
        return;
    case FB_F16:
    case FB_BF16:
        FB_UNROLL
        for (int i = 0; i < chunk / 2; i++) {
            x[2 * i] = dtype == FB_F16 ? f16_low(words[i]) : bf16_low(words[i]);
            x[2 * i + 1] = dtype == FB_F16 ? f16_high(words[i]) : bf16_high(words[i]);
        }
        return;
    case FB_I8:
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[i] = int8_t(words[i / 4] >> (i % 4 * 8));
        return;
    default:
        FB_UNROLL
        for (int i = 0; i < chunk / 4; i++) {
            if (dtype == FB_F8E4M3) e4m3x4_to_f16x4(words[i], pairs);
            else e5m2x4_to_f16x4(words[i], pairs);
            x[4 * i] = f16_low(pairs[0]);
            x[4 * i + 1] = f16_high(pairs[0]);
            x[4 * i + 2] = f16_low(pairs[1]);
            x[4 * i + 3] = f16_high(pairs[1]);
        }
    }
}

// To nearest even, saturating; NaN becomes 0.
FB_DEVICE uint32_t round_i8(float x) {
    if (x != x) return 0;
    return uint8_t(int8_t(rintf(fminf(fmaxf(x, -128), 127))));
}

// Rounded numbers as words of a type.
FB_DEVICE void pack_words(int32_t dtype, const float* x, uint32_t* words) {
    switch (dtype) {
    case FB_F32:
        FB_UNROLL
        for (int i = 0; i < chunk; i++) words[i] = __float_as_uint(x[i]);
        return;
    case FB_F16:
    case FB_BF16:
        FB_UNROLL
        for (int i = 0; i < chunk / 2; i++)
            words[i] = dtype == FB_F16 ? pack_f16(x[2 * i], x[2 * i + 1])
                                       : pack_bf16(x[2 * i], x[2 * i + 1]);
        return;
    case FB_I8:
        FB_UNROLL
        for (int i = 0; i < chunk / 4; i++) {
            const float* const y = x + 4 * i;
            words[i] = round_i8(y[0]) | round_i8(y[1]) << 8 | round_i8(y[2]) << 16 |
                       round_i8(y[3]) << 24;
        }
        return;
    default:
        FB_UNROLL
        for (int i = 0; i < chunk / 4; i++) {
            const float* const y = x + 4 * i;
            words[i] = dtype == FB_F8E4M3
                           ? pack_e4m3(y[0], y[1]) | uint32_t(pack_e4m3(y[2], y[3])) << 16
                           : pack_e5m2(y[0], y[1]) | uint32_t(pack_e5m2(y[2], y[3])) << 16;
        }
    }
}

// Up to a chunk of numbers of a floating-point type or i8; the others are 0.
FB_DEVICE void load_chunk(int32_t dtype, uint64_t address, int32_t count, float* x) {
    uint32_t words[chunk];
    switch (element_bytes(dtype)) {
    case 4: load_words<4>(address, count, words); break;
    case 2: load_words<2>(address, count, words); break;
    default: load_words<1>(address, count, words);
    }
    widen_words(dtype, words, x);
}

// Rounds up to a chunk of numbers.
FB_DEVICE void store_chunk(int32_t dtype, uint64_t address, int32_t count, const float* x) {
    uint32_t words[chunk];
    pack_words(dtype, x, words);
    switch (element_bytes(dtype)) {
    case 4: return store_words<4>(address, count, words);
    case 2: return store_words<2>(address, count, words);
    default: return store_words<1>(address, count, words);
    }
}
