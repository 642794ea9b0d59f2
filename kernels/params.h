// Every struct that crosses the border between TypeScript and native code.
//
// CUDA includes this file, Zig translates it, and src/ffi/params.gen.ts is generated from it by
// `zig build abi`. Only fixed-width integers, floats, arrays, nested structs and opaque 128-byte
// tensor maps, all naturally aligned: the generator refuses anything else. Addresses are uint64_t,
// strides count elements, lengths count tokens.
#ifndef FB_PARAMS_H
#define FB_PARAMS_H

#ifndef __CUDACC_RTC__ // kernels/ptx/base.h has the types where there are no headers
#include <stdint.h>
#endif

#define FB_ABI_VERSION 4

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

#define FB_MASK_NONE 0
#define FB_MASK_ALL 1
#define FB_MASK_TAIL 2

// What an attention variant may have besides queries, keys and values.
#define FB_VARIANT_TENSORS 8
#define FB_VARIANT_AXES 4
#define FB_VARIANT_SCALARS 16

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
    int32_t programmatic; // 1: starts while the kernel before it drains (programmatic dependent launch)
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

// A 128-byte CUtensorMap, never looked into.
struct fb_tensor_map {
    uint64_t opaque[16] __attribute__((aligned(64)));
};

// One named plane of a paged cache, or a ragged K or V tensor: the element at
// data + page * stride_page + head * stride_head + token * stride_token, innermost stride 1.
// Contiguous (ragged) tensors use stride_token only.
struct fb_plane {
    uint64_t data;
    int64_t stride_page;
    int64_t stride_head;
    int64_t stride_token;
};

// f32 scales with any combination of axes; an unused axis has stride 0, no scales has data 0.
struct fb_scale {
    uint64_t data;
    int64_t stride_request;
    int64_t stride_head;
    int64_t stride_page;
    int64_t stride_token;
};

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

// One self-contained piece of attention work: packed query rows against a range of kept tokens.
// Packed row = token * query_head_count + head: token counts over the whole batch, head within the record's
// query heads. Kept tokens count within the layout row: token t stands in kept column t / page_size;
// dense rows keep all columns, sparse rows keep columns[column_offset + t / page_size] >> 1.
struct fb_attention_record {
    int32_t kv_head;
    int32_t query_head_start;
    int32_t query_head_count;
    int32_t row_start;
    int32_t row_count;
    int32_t slot;           // page-table row, or the first token of a contiguous row
    int32_t kv_start;       // kept tokens [kv_start, kv_end)
    int32_t kv_end;
    int32_t full_start;     // kept tokens [full_start, full_end) are visible to every row, unmasked
    int32_t full_end;
    int32_t position_start; // position of the row's logical column 0 in the sequence
    int32_t column_offset;  // into columns, or -1: dense
    int32_t partial_row;    // first row of the partial state, or -1: write the output
    int32_t request;        // the layout row's first request
    int32_t level;
    int32_t reserved;
};

// Rows whose state was split: part_count partial states merge, in order, into the output.
// parts[part_start + i] is the partial row of the record's first row.
struct fb_merge_record {
    int32_t query_head_start;
    int32_t query_head_count;
    int32_t row_start;
    int32_t row_count;
    int32_t part_start;
    int32_t part_count;
    int32_t reserved[2];
};

struct fb_attention_params {
    struct fb_plane k;
    struct fb_plane v;
    struct fb_scale k_scale;
    struct fb_scale v_scale;
    uint64_t q;
    uint64_t out;
    uint64_t lse;            // f32 [token, query head], or 0
    int64_t q_stride_token;
    int64_t q_stride_head;
    int64_t out_stride_token;
    int64_t out_stride_head;
    uint64_t page_table;     // int32 [slot, table_stride]
    uint64_t records;
    uint64_t merges;
    uint64_t parts;          // int32
    uint64_t columns;        // int32: logical column << 1 | full
    uint64_t partial_out;    // f32 [partial row, value_dim], normalised
    uint64_t partial_lse;    // f32 [partial row], base e
    uint64_t positions;      // int32 [token]
    uint64_t token_requests; // int32 [token], -1: padding
    uint64_t query_indptr;   // int32 [request + 1]
    uint64_t planned_kv_lengths; // int32 [request]
    uint64_t kv_lengths;     // int32 [request]: clamps known only on the device, or 0
    uint64_t query_lengths;  // int32 [request], or 0
    uint64_t mask;           // bits, little-endian within a byte, [query, key] of a request
    uint64_t mask_indptr;    // int32 [request]: first byte of each request
    uint64_t alibi_slopes;   // f32 [query head], or 0
    uint64_t sinks;          // f32 [query head], or 0
    uint64_t rope_table;     // f32 [position, rope_dim / 2, (cos, sin)], or 0
    uint64_t counters;       // int32 [2]: records taken and blocks gone, zero between launches (CUDA)
    struct fb_variant variant;
    int32_t table_stride;
    int32_t page_size;
    int32_t contiguous;      // 1: slots are first tokens, no page table
    int32_t query_heads;
    int32_t kv_heads;
    int32_t key_dim;
    int32_t value_dim;
    int32_t q_dtype;
    int32_t kv_dtype;
    int32_t out_dtype;
    int32_t causal;
    int32_t window_left;     // -1: none
    int32_t mask_mode;
    int32_t rope_dim;
    int32_t rope_interleaved;
    int32_t finalize;        // 0: raw state, no sinks
    int32_t record_count;
    int32_t merge_count;
    float scale;
    float soft_cap;          // 0: none
    float lse_factor;        // 1 for base e, log2(e) for base 2
    int32_t pages_settled;   // 1: the kernel queued before does not write the page table
};

// New tokens' rows into the planes of one layer; slot_mapping[token] = page * page_size + offset, -1 skips.
struct fb_append_params {
    struct fb_plane planes[4];
    uint64_t sources[4];
    int64_t source_stride_token[4];
    int64_t source_stride_head[4];
    int32_t heads[4];
    int32_t dims[4];
    int32_t source_dtypes[4];
    int32_t plane_dtypes[4];
    struct fb_scale scales[4];  // divides before rounding to fp8
    uint64_t slot_mapping;      // int32 [token]
    uint64_t token_requests;    // int32 [token]
    int32_t plane_count;
    int32_t token_count;
    int32_t page_size;
    int32_t reserved;
};

// Copies within a page group: moves[i] = (source token, target token, tokens), in order, for every plane.
// Token = page * page_size + offset. A run never crosses a page.
struct fb_copy_plane {
    struct fb_plane plane;
    int32_t heads;
    int32_t row_bytes;      // bytes of one head's row
    int32_t element_bytes;  // strides count elements
    int32_t reserved;
};

struct fb_copy_params {
    uint64_t planes; // fb_copy_plane [plane_count]
    uint64_t moves;  // int32 [move_count, 3]
    int32_t plane_count;
    int32_t move_count;
    int32_t page_size;
    int32_t reserved;
};

// table[updates[2i]] = updates[2i + 1]
struct fb_table_params {
    uint64_t table;
    uint64_t updates;
    int32_t update_count;
    int32_t reserved;
};

// Merge of attention states: out, lse = states 0..state_count by log-sum-exp, in order.
// States: [state, row, dim] with row = token * heads + head.
struct fb_merge_params {
    uint64_t states;
    uint64_t lses; // f32 [state, row]
    uint64_t out;
    uint64_t lse; // f32 [row], or 0
    int64_t state_stride;
    int64_t lse_stride;
    int32_t state_count;
    int32_t row_count;
    int32_t dim;
    int32_t in_dtype;
    int32_t out_dtype;
    float log_base; // natural log of the LSE base: 1 or log(2)
};

// Seeded N(0, 1): element i depends on (seed, i) only.
struct fb_random_params {
    uint64_t out;
    uint64_t count;
    uint64_t seed;
    float mean;
    float deviation;
    int32_t dtype;
    int32_t reserved;
};

// Element-wise copy between strided tensors of at most 6 axes, converting dtype.
struct fb_convert_params {
    uint64_t source;
    uint64_t target;
    int64_t sizes[6];
    int64_t source_strides[6];
    int64_t target_strides[6];
    int32_t source_dtype;
    int32_t target_dtype;
};

// out[i] = source[indices[i]], whole rows; index -1 gives zeros.
struct fb_gather_params {
    uint64_t source;
    uint64_t indices; // int32 [row_count]
    uint64_t out;
    int64_t row_bytes;
    int32_t row_count;
    int32_t reserved;
};

// One section of a variant's bytecode over a few rows and keys, for tests.
struct fb_variant_probe_params {
    struct fb_variant variant;
    uint64_t rows;       // int32 [input, row]: the rows' inputs in their order, lse as bits of f32
    uint64_t keys;       // int32 [2, key]: positions and slots
    uint64_t x;          // [row, key] of logits, else f32 [row or key, dim]: replaced by the result
    int32_t row_count;   // at most 256
    int32_t key_count;   // at most 128
    int32_t dim;         // at most 576
    int32_t section;     // by its number in zig/cpu/kernels/variant/program.zig
    int32_t keys_inside; // 1: keys lie along vectors, 0: rows do
    int32_t masked;      // 1: asks which pairs are visible
};

// Probes for ceilings and tests: a timed spin, a read of memory, a chain of multiply-adds.
struct fb_probe_params {
    uint64_t data;
    uint64_t bytes;
    uint64_t out;      // f64 [grid]
    int32_t microseconds;
    int32_t iterations;
    int32_t fail;      // not 0: the kernel reports a failure, for fault injection
    int32_t reserved;
};

#endif
