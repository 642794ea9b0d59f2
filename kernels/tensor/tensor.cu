// Tensors: seeded normal numbers, fills, conversion between any two types and strides.
#include "../ptx/base.h"
#include "../params/tensor.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int tensor_threads = 256;
// Elements of one item: a thread has two chunks.
constexpr int tensor_elements = 4096;

// What an i32 and an i64 hold.
constexpr int32_t i32_least = -0x7fffffff - 1;
constexpr int32_t i32_most = 0x7fffffff;
constexpr int64_t i64_least = -0x7fffffffffffffff - 1;
constexpr int64_t i64_most = 0x7fffffffffffffff;

// ---- where things lie

// Axes of a conversion, the innermost last. Those that lie behind each other in both tensors are
// folded into the inner one, so that dense tensors have one axis.
struct ConvertAxes {
    int64_t sizes[6];
    int64_t from[6];
    int64_t to[6];
};

FB_DEVICE ConvertAxes fold_axes(const fb_convert_params& p) {
    ConvertAxes a;
    FB_UNROLL
    for (int i = 0; i < 6; i++) {
        a.sizes[i] = p.sizes[i] > 1 ? p.sizes[i] : 1;
        a.from[i] = p.source_strides[i];
        a.to[i] = p.target_strides[i];
        if (i == 0) continue;
        const bool alone = a.sizes[i] == 1;
        const bool dense = a.from[i - 1] == a.sizes[i] * a.from[i] &&
                           a.to[i - 1] == a.sizes[i] * a.to[i];
        if (!alone && !dense && a.sizes[i - 1] > 1) continue;
        if (alone) {
            a.from[i] = a.from[i - 1];
            a.to[i] = a.to[i - 1];
        }
        a.sizes[i] *= a.sizes[i - 1];
        a.sizes[i - 1] = 1;
    }
    return a;
}

// a / b of numbers from 0 on: mostly short ones, which divide several times faster.
FB_DEVICE int64_t quotient(int64_t a, int64_t b) {
    if ((a | b) >> 32 == 0) return uint32_t(a) / uint32_t(b);
    return a / b;
}

struct ConvertOffsets {
    int64_t from;
    int64_t to;
};

// Offsets, in elements, of element `index` in row-major order.
FB_DEVICE ConvertOffsets offsets_of(const ConvertAxes& a, int64_t index) {
    ConvertOffsets at = {0, 0};
    FB_UNROLL
    for (int i = 5; i >= 0; i--) {
        int64_t within = index;
        if (index < a.sizes[i]) {
            index = 0;
        } else {
            const int64_t outer = quotient(index, a.sizes[i]);
            within -= outer * a.sizes[i];
            index = outer;
        }
        at.from += within * a.from[i];
        at.to += within * a.to[i];
    }
    return at;
}

// ---- compute: normal numbers

// Natural logarithm of positive normal numbers, operation by operation as on the CPU device.
FB_DEVICE float log_of(float x) {
    const uint32_t shifted = __float_as_uint(x) - 0x3f3504f3;
    const float exponent = int32_t(shifted) >> 23;
    // Mantissa in [sqrt(1/2), sqrt(2)).
    const float m = __uint_as_float((shifted & 0x007fffff) + 0x3f3504f3);
    const float r = (m - 1) / (m + 1);
    const float s = r * r;
    float q = 2.0f / 9;
    q = fmaf(q, s, 2.0f / 7);
    q = fmaf(q, s, 2.0f / 5);
    q = fmaf(q, s, 2.0f / 3);
    q = fmaf(q, s, 2.0f);
    return fmaf(exponent, 0.693147181f, r * q);
}

// cos(2 pi t) for t in [-1/2, 1/2], as -sin(2 pi (|t| - 1/4)).
FB_DEVICE float cos_turns(float t) {
    const float x = (fabsf(t) - 0.25f) * -6.28318531f;
    const float s = x * x;
    float q = -1.0f / 39916800;
    q = fmaf(q, s, 1.0f / 362880);
    q = fmaf(q, s, -1.0f / 5040);
    q = fmaf(q, s, 1.0f / 120);
    q = fmaf(q, s, -1.0f / 6);
    q = fmaf(q, s, 1.0f);
    return x * q;
}

// Standard normal number of an element: Box-Muller on a hash of (seed, element).
FB_DEVICE float gauss(uint64_t seed, uint64_t element) {
    uint64_t z = element * 0x9e3779b97f4a7c15 + (seed * 0xd1342543de82ef95 + 0x2545f4914f6cdd1d);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    z ^= z >> 31;
    const float unit = 1.0f / (1 << 24);
    const float u = (float(uint32_t(z >> 40)) + 0.5f) * unit; // (0, 1)
    const float turn = float(uint32_t(z & 0xffffff)) * unit - 0.5f; // [-1/2, 1/2)
    return sqrtf(-2 * log_of(u)) * cos_turns(turn);
}

// ---- compute: one element, real or whole

// A real number, or a whole one that f32 may not hold.
struct Element {
    bool real;
    float x;
    int64_t n;
};

FB_DEVICE Element load_element(int32_t dtype, uint64_t address) {
    switch (dtype) {
    case FB_I8: return {false, 0, *items<const int8_t>(address)};
    case FB_I32: return {false, 0, *items<const int32_t>(address)};
    case FB_I64: return {false, 0, *items<const int64_t>(address)};
    case FB_U8:
    case FB_BOOL: return {false, 0, *items<const uint8_t>(address)};
    }
    float x[chunk];
    load_chunk(dtype, address, 1, x);
    return {true, x[0], 0};
}

// Whole numbers wrap, real ones are cut towards zero and saturate, and NaN becomes 0.
FB_DEVICE int64_t whole_of(const Element& e, int64_t least, int64_t most) {
    if (!e.real) return e.n;
    if (e.x != e.x) return 0;
    if (e.x >= float(most)) return most;
    return e.x <= float(least) ? least : int64_t(e.x);
}

FB_DEVICE void store_element(int32_t dtype, uint64_t address, const Element& e) {
    switch (dtype) {
    case FB_I8: *items<int8_t>(address) = int8_t(whole_of(e, -128, 127)); return;
    case FB_U8: *items<uint8_t>(address) = uint8_t(whole_of(e, 0, 255)); return;
    case FB_I32: *items<int32_t>(address) = int32_t(whole_of(e, i32_least, i32_most)); return;
    case FB_I64: *items<int64_t>(address) = whole_of(e, i64_least, i64_most); return;
    case FB_BOOL: *items<uint8_t>(address) = e.real ? e.x != 0 : e.n != 0; return;
    }
    const float x[chunk] = {e.real ? e.x : float(e.n)};
    store_chunk(dtype, address, 1, x);
}

// ---- compute: conversion

// Chunks of rows that are dense in both tensors.
FB_DEVICE void convert_chunks(const fb_convert_params& p, const ConvertAxes& axes,
                              int64_t first, int64_t total) {
    const int32_t from = element_bytes(p.source_dtype);
    const int32_t to = element_bytes(p.target_dtype);
    for (int32_t i = threadIdx.x * chunk; i < tensor_elements; i += tensor_threads * chunk) {
        const int64_t rest = total - (first + i);
        if (rest <= 0) return;
        const int32_t count = rest < chunk ? int32_t(rest) : chunk;
        const ConvertOffsets at = offsets_of(axes, first + i);
        const uint64_t source = p.source + at.from * from;
        const uint64_t target = p.target + at.to * to;
        if (p.source_dtype == p.target_dtype) {
            copy_chunk(from, source, target, count);
            continue;
        }
        float x[chunk];
        load_chunk(p.source_dtype, source, count, x);
        store_chunk(p.target_dtype, target, count, x);
    }
}

FB_DEVICE void convert_elements(const fb_convert_params& p, const ConvertAxes& axes,
                                int64_t first, int64_t total) {
    const int32_t from = element_bytes(p.source_dtype);
    const int32_t to = element_bytes(p.target_dtype);
    for (int32_t i = threadIdx.x; i < tensor_elements; i += tensor_threads) {
        if (first + i >= total) return;
        const ConvertOffsets at = offsets_of(axes, first + i);
        const uint64_t source = p.source + at.from * from;
        const uint64_t target = p.target + at.to * to;
        if (p.source_dtype == p.target_dtype) copy_chunk(from, source, target, 1);
        else store_element(p.target_dtype, target, load_element(p.source_dtype, source));
    }
}

// ---- the kernels

// Elements [tensor_elements * item, ...) of a tensor of N(mean, deviation).
FB_OPERATOR(random_normal, fb_random_params, tensor_threads, 4, tensor_elements) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t bytes = element_bytes(p.dtype);
    const uint64_t first = uint64_t(blockIdx.x) * tensor_elements;
    for (uint64_t i = threadIdx.x * chunk; i < tensor_elements; i += tensor_threads * chunk) {
        if (first + i >= p.count) return;
        float x[chunk];
        FB_UNROLL
        for (int j = 0; j < chunk; j++)
            x[j] = fmaf(gauss(p.seed, first + i + j), p.deviation, p.mean);
        const uint64_t rest = p.count - (first + i);
        store_chunk(p.dtype, p.out + (first + i) * bytes, rest < chunk ? int32_t(rest) : chunk, x);
    }
}

// Elements [tensor_elements * item, ...) of a dense tensor become `mean`.
FB_OPERATOR(fill, fb_random_params, tensor_threads, 4, tensor_elements) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t bytes = element_bytes(p.dtype);
    const uint64_t first = uint64_t(blockIdx.x) * tensor_elements;
    for (int32_t i = threadIdx.x; i < tensor_elements; i += tensor_threads) {
        if (first + i >= p.count) return;
        store_element(p.dtype, p.out + (first + i) * bytes, {true, p.mean, 0});
    }
}

// Elements [tensor_elements * item, ...), in row-major order, from source to target.
FB_OPERATOR(convert, fb_convert_params, tensor_threads, 4, tensor_elements) {
    pdl_wait();
    pdl_launch_dependents();
    const ConvertAxes axes = fold_axes(p);
    int64_t total = 1;
    FB_UNROLL
    for (int i = 0; i < 6; i++) total *= axes.sizes[i];
    const int64_t first = int64_t(blockIdx.x) * tensor_elements;
    const bool numbers = p.source_dtype == p.target_dtype ||
                         (is_float(p.source_dtype) && is_float(p.target_dtype));
    const bool dense = axes.from[5] == 1 && axes.to[5] == 1 &&
                       (axes.sizes[5] % chunk == 0 || axes.sizes[5] == total);
    if (numbers && dense) convert_chunks(p, axes, first, total);
    else convert_elements(p, axes, first, total);
}
