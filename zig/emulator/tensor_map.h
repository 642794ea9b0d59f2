// Takes the place of CUtensorMap: 128 bytes, 64-byte aligned, written by cuTensorMapEncodeTiled.
#pragma once
#include "numbers.h"

namespace emu {

constexpr uint64_t tensor_map_magic = 0x70616d726f736e65; // "ensormap"

struct __attribute__((aligned(64))) TensorMap {
    uint64_t magic;
    uint8_t* base;
    uint64_t extents[5];
    uint64_t strides[4]; // bytes, of axes 1 and up
    uint16_t box[5];
    uint8_t rank, element_bytes, swizzle_bytes, nan_fill;
    Number kind; // for additions
};
static_assert(sizeof(TensorMap) == 128);

} // namespace emu
