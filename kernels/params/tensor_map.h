// Tensor maps, which bulk copies read.
#pragma once
#include "types.h"

// A 128-byte CUtensorMap, never looked into.
struct fb_tensor_map {
    uint64_t opaque[16] __attribute__((aligned(64)));
};
