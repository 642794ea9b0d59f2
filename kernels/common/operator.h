// What operators share: how they are declared, and addresses as pointers.
#pragma once
#include "../ptx/base.h"

// FB_OPERATOR(append, fb_append_params, append_threads, 8, append_rows) { ... p ... }
//
// A kernel that every GPU has beside attention. Its launcher reads this line from the source: the
// threads of a block, and the rows, tokens or elements that one item of the grid covers, each a
// number or the name of a constant that is one, of the same file or of what it includes. A sixth,
// if there is one, is the blocks of a cluster that takes an item together (sm_90).
//
// A seventh is the dynamic shared memory of a block. Such a kernel is launched with at most as many
// blocks as run at once, which go on from item to item.
//
// Operators start while the kernel before them drains (sm_90): in every block a thread has to
// call pdl_wait (ptx/pdl.h), ahead of what it writes and of what it reads of earlier kernels.
#define FB_OPERATOR(name, Params, threads, min_blocks, ...) \
    FB_WANTED_KERNEL(name)(name, Params, threads, min_blocks)

// The same for any number of blocks in a cluster up to the sixth argument: under the names name_x1,
// name_x2, name_x3, ...
#define FB_SPLIT_OPERATOR(name, Params, threads, min_blocks, ...) \
    FB_WANTED_KERNEL(name)(name, Params, threads, min_blocks)

// An image holds all kernels of its source or, with FB_ONE_KERNEL, those alone for whose names
// FB_WANTED_name is defined as `,`: what a first call waits for is compiled sooner. The others are
// templates that nobody uses.
#ifdef FB_ONE_KERNEL
#define FB_ALONE_NO_UNROLL FB_NO_UNROLL // of loops that are longer to compile than to run
#define FB_WANTED_KERNEL(name) FB_THIRD(FB_WANTED_##name, FB_KERNEL, FB_LEFT_OUT, )
#define FB_THIRD(...) FB_THIRD_(__VA_ARGS__)
#define FB_THIRD_(first, second, third, ...) third
#define FB_LEFT_OUT(name, Params, threads, min_blocks) \
    template <class> FB_DEVICE void name(const Params& p)
#else
#define FB_ALONE_NO_UNROLL FB_UNROLL
#define FB_WANTED_KERNEL(name) FB_KERNEL
#endif

// The address as a pointer to items of T.
template <class T> FB_DEVICE T* items(uint64_t address) { return reinterpret_cast<T*>(address); }
