// Even rows, which most are: 16-bit numbers in whole chunks at multiples of 16 bytes, as
// src/ops/rows.ts asks for. Kernels of them have no other case, and so fewer registers and more
// loads in flight; their results are those of the kernels of any rows, bit by bit.
#pragma once
#include "../ptx/memory.h"
#include "element.h"
#include "rows.h"

FB_DEVICE bool are_even(const fb_rows_params& t, int32_t dim) {
    const uint64_t steps = uint64_t(t.stride | t.outer_stride) * 2;
    return element_bytes(t.dtype) == 2 && dim % chunk == 0 && (t.address | steps) % 16 == 0;
}

FB_DEVICE uint4 load_even(uint64_t row, int32_t at) {
    return *items<const uint4>(row + int64_t(at) * 2);
}

FB_DEVICE void widen_even(int32_t dtype, const uint4& raw, float (&x)[chunk]) {
    if (dtype == FB_F16) widen_8<FB_F16>(&raw, x);
    else widen_8<FB_BF16>(&raw, x);
}

FB_DEVICE uint4 round_even(int32_t dtype, const float (&x)[chunk]) {
    return dtype == FB_F16 ? round_8<FB_F16>(x) : round_8<FB_BF16>(x);
}

// A chunk of 16-bit numbers or f32.
FB_DEVICE void load_term(int32_t dtype, uint64_t row, int32_t at, float (&x)[chunk]) {
    if (dtype != FB_F32) return widen_even(dtype, load_even(row, at), x);
    uint32_t words[chunk];
    load_vector<4>(row + int64_t(at) * 4, words);
    FB_UNROLL
    for (int i = 0; i < chunk; i++) x[i] = __uint_as_float(words[i]);
}

FB_DEVICE void store_raw(uint64_t row, int32_t at, const uint4& raw) {
    *items<uint4>(row + int64_t(at) * 2) = raw;
}

// A chunk of results of 16 or 8 bits.
FB_DEVICE void store_even(int32_t dtype, uint64_t row, int32_t at, const float (&x)[chunk]) {
    if (dtype == FB_F16 || dtype == FB_BF16) return store_raw(row, at, round_even(dtype, x));
    uint32_t words[chunk];
    pack_words(dtype, x, words);
    *items<uint2>(row + at) = {words[0], words[1]};
}
