// The rules of every struct that crosses the border between TypeScript and native code, and the
// element types.
//
// A header for each family of kernels, so that an image depends only on the structs it reads. CUDA
// includes the header of its family, Zig translates all of this folder, and `bun run abi` generates
// src/ffi/params.gen.ts and src/plan/record.gen.ts. Only fixed-width integers, floats, arrays,
// nested structs and opaque 128-byte tensor maps, all naturally aligned: the generator refuses
// anything else. Addresses are uint64_t, strides count elements, lengths count tokens.
#pragma once

#ifndef __CUDACC_RTC__ // kernels/ptx/base.h has the types where there are no headers
#include <stdint.h>
#endif

// Element types, in the order of src/tensor/dtype.ts.
#define FB_F32 0
#define FB_F16 1
#define FB_BF16 2
#define FB_F8E4M3 3
#define FB_F8E5M2 4
#define FB_I8 5
#define FB_I32 6
#define FB_I64 7
#define FB_U8 8
#define FB_BOOL 9
