// What attention variants bring along.
#pragma once
#include "types.h"

// What an attention variant may have besides queries, keys and values.
#define FB_VARIANT_TENSORS 8
#define FB_VARIANT_AXES 4
#define FB_VARIANT_SCALARS 16

// What an attention variant reads besides queries, keys and values.
struct fb_variant {
    uint64_t program;     // bytecode (CPU), or 0
    uint64_t data[8];     // tensors, in the order of their declaration
    int32_t sizes[32];    // [tensor, axis]
    int32_t strides[32];  // [tensor, axis], elements
    int32_t scalars[16];  // bits of f32 or i32
    int32_t program_words;
    int32_t reserved;
};
