// Devices, launches and what is known of kernels: the host's structs, which no kernel reads.
#pragma once
#include "types.h"

#define FB_ABI_VERSION 11

// What a device says of itself. Fields of the other kind of device are 0.
struct fb_device_properties {
    uint64_t total_bytes; // what the pool may hand out
    uint64_t pool_bytes;  // handed out
    uint64_t physical_bytes;
    uint64_t last_level_cache_bytes;
    int32_t processors;
    int32_t level; // CPU: baseline, v3, v4
    int32_t frozen;
    int32_t notify_fd;
    int32_t compute_major; // CUDA
    int32_t compute_minor;
    int32_t shared_bytes_per_block; // with opt-in
    int32_t shared_bytes_per_processor;
    int32_t registers_per_processor;
    int32_t threads_per_processor;
    int32_t emulated;
    int32_t driver_version; // 13000: CUDA 13.0
    uint8_t name[64];
};

// What the CUDA driver says before any device is opened.
struct fb_driver_properties {
    int32_t version; // 13000: CUDA 13.0
    int32_t device_count;
    int32_t emulated;
    int32_t reserved;
};

// How a CUDA kernel is launched.
struct fb_kernel_traits {
    int32_t threads;
    int32_t shared_bytes; // dynamic
    int32_t cluster;      // blocks, 1: none
    int32_t persistent;   // 1: at most as many blocks as are resident, which take items by ticket
    // 1: starts while the kernel before it drains (programmatic dependent launch)
    int32_t programmatic;
    int32_t item_rows;    // rows that one item of the grid covers
};

// What a kernel says of itself once loaded.
struct fb_kernel_facts {
    int32_t params_bytes;
    int32_t item_rows;
    int32_t blocks_per_processor; // by occupancy; 0 on the CPU
    int32_t registers;
    int32_t local_bytes; // spills and stack of a thread
    int32_t static_shared_bytes;
};

// What failed last on a thread. Numbers of another kind of failure are 0.
struct fb_failure {
    uint64_t asked_bytes; // of memory that ran out
    uint64_t free_bytes;
    int32_t status;       // of zig/status.zig
    int32_t cuda_result;  // of the driver
    uint8_t driver_name[64]; // of that result, such as CUDA_ERROR_ILLEGAL_ADDRESS
    uint8_t text[512];
};

// What a tensor map is made of; axis 0 is the innermost. Strides count bytes, of axes 1 and up.
struct fb_tensor_map_spec {
    uint64_t address;
    uint64_t extents[5];
    uint64_t strides[4];
    int32_t box[5];
    int32_t rank;
    int32_t dtype;
    int32_t swizzle_bytes; // 0, 32, 64 or 128
    int32_t reserved[2];
};
