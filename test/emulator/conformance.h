// The one parameter of every kernel here: test/emulator/cuda.ts writes it.
#pragma once
#include "ptx/base.h"

#include "params/tensor_map.h"

struct probe {
    uint64_t in, out;
    int32_t numbers[12];
    fb_tensor_map maps[2];
};

FB_DEVICE uint32_t* words_out(const probe& p) { return reinterpret_cast<uint32_t*>(p.out); }
FB_DEVICE const uint32_t* words_in(const probe& p) {
    return reinterpret_cast<const uint32_t*>(p.in);
}
