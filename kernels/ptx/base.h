// One source, three compilers: nvcc and NVRTC see inline PTX, zig c++ with FB_EMULATED sees calls
// into zig/emulator. Kernels use these macros for everything the languages spell differently, and
// no header but this folder's.
#pragma once

#ifdef FB_EMULATED

#include <emulation.h>

#define FB_DEVICE inline
#define FB_UNROLL
#define FB_UNROLL_BY(count)
#define FB_NO_UNROLL

#else

#ifdef __CUDACC_RTC__ // no headers there; the same types as with nvcc on Linux
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef short int16_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long int64_t;
typedef unsigned long uint64_t;
typedef unsigned long uintptr_t;
#else
#include <stdint.h>
#endif

#define FB_DEVICE __device__ __forceinline__
#define FB_UNROLL _Pragma("unroll")
#define FB_UNROLL_BY(count) FB_PRAGMA(unroll count)
#define FB_PRAGMA(text) _Pragma(#text)
#define FB_NO_UNROLL _Pragma("unroll 1")

// The block's dynamic shared memory, 1024-byte aligned as the widest swizzle wants it.
#define FB_DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

// FB_SHARED(float, sums, [32]); FB_SHARED(int, next, );
#define FB_SHARED(type, name, extent) __shared__ __align__(16) type name extent

// FB_KERNEL(copy, fb_copy_params, 128, 1) { ... p.moves ... }
#define FB_KERNEL(name, Params, threads, min_blocks)                  \
    extern "C" __global__ void __launch_bounds__(threads, min_blocks) \
        name(const __grid_constant__ Params p)

#endif

// What is compiled for, as __CUDA_ARCH__; a test may ask for the paths of older GPUs.
#ifndef FB_ARCH
#ifdef FB_EMULATED
#define FB_ARCH 900
#elif defined __CUDA_ARCH__
#define FB_ARCH __CUDA_ARCH__
#else
#define FB_ARCH 0
#endif
#endif

// Bytes from the start of a struct to a member; NVRTC has no offsetof.
#define FB_OFFSET(Struct, member) \
    uint32_t(reinterpret_cast<uintptr_t>(&static_cast<Struct*>(nullptr)->member))

#define FB_INFINITY __int_as_float(0x7f800000)
