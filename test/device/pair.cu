// A kernel of the shape that Hopper's attention has, which adds keys and values up instead: two
// blocks of a cluster share a record, a thread of each loads half of every tile for both by bulk
// copies (TMA), two warpgroups of each take what has arrived; block 0 the keys, block 1 the values.
#include "ptx/base.h"

#include "params/attention.h"
#include "ptx/barrier.h"
#include "ptx/cluster.h"
#include "ptx/fence.h"
#include "ptx/mbarrier.h"
#include "ptx/memory.h"
#include "ptx/pdl.h"
#include "ptx/tma.h"

// --- facts

#define DIM 32 // f32 keys in rows of 128 bytes, bf16 values in rows of 64
#define HALF (FB_KV_TILE / 2)
#define KEY_BYTES (FB_KV_TILE * DIM * 4)
#define VALUE_BYTES (FB_KV_TILE * DIM * 2)
#define STAGE_BYTES (KEY_BYTES + VALUE_BYTES)
#define TAKERS 256 // threads behind the first warpgroup
#define TAKER_WARPS (TAKERS / 32)

static_assert(FB_STAGES * STAGE_BYTES == FB_SHARED_BYTES, "the traits say otherwise");
static_assert(HALF * DIM * 2 % 1024 == 0, "a half begins where the swizzle's pattern does");

struct pair_params {
    fb_tensor_map keys, values; // [token, head, element]
    uint64_t records;           // fb_attention_record [record_count]
    uint64_t sums;              // f32 [record, keys or values, element]
    int32_t record_count;
    int32_t reserved;
};

// --- where things lie

struct Pair {
    const pair_params& p;
    const fb_attention_record* records;
    uint32_t memory, full, empty; // per stage: a tile of keys, then of values; its two barriers
    uint32_t rank, first, step;   // records of this cluster: every step-th
};

// Tiles take the stages in turn; a stage's barriers change their parity every time.
struct Turn {
    uint32_t stage = 0, parity = 0;
    FB_DEVICE void advance() {
        if (++stage < FB_STAGES) return;
        stage = 0;
        parity ^= 1;
    }
};

FB_DEVICE uint32_t swizzled(uint32_t byte, uint32_t rows) {
    return byte ^ ((byte >> 7 & rows) << 4);
}

FB_DEVICE float key_at(const unsigned char* tile, int token, int element) {
    return *(const float*)(tile + swizzled((token * DIM + element) * 4, 7));
}

FB_DEVICE float value_at(const unsigned char* tile, int token, int element) {
    const uint32_t byte = swizzled((token * DIM + element) * 2, 3);
    return __int_as_float(*(const uint16_t*)(tile + byte) << 16);
}

// --- load

FB_DEVICE void load_records(const Pair& b) {
    Turn turn;
    for (int i = b.first; i < b.p.record_count; i += b.step) {
        const fb_attention_record r = b.records[i];
        if (r.row_count == 0) return; // the rest of a graph's list
        for (int start = r.kv_start; start < r.kv_end; start += FB_KV_TILE) {
            const uint32_t full = b.full + 8 * turn.stage;
            const uint32_t tile = b.memory + turn.stage * STAGE_BYTES;
            const int token = r.slot + start + b.rank * HALF;
            mbarrier_wait_cluster(b.empty + 8 * turn.stage, turn.parity ^ 1);
            mbarrier_arrive_expect(full, STAGE_BYTES); // the other block loads the other half
            tensor_load_multicast(tile + b.rank * (KEY_BYTES / 2), &b.p.keys, full,
                                  {0, r.kv_head, token}, 3);
            tensor_load_multicast(tile + KEY_BYTES + b.rank * (VALUE_BYTES / 2), &b.p.values, full,
                                  {0, r.kv_head, token}, 3);
            turn.advance();
        }
    }
}

// --- compute

// Both blocks' loaders wait until this warp has read the stage.
FB_DEVICE void give_back(uint32_t empty) {
    __syncwarp();
    if (threadIdx.x % 32 < 2) mbarrier_arrive_cluster(map_shared(empty, threadIdx.x % 32));
}

FB_DEVICE void take_records(const Pair& b, const unsigned char* memory, float* parts) {
    const int element = threadIdx.x % 32, warp = threadIdx.x / 32 - 4;
    Turn turn;
    for (int i = b.first; i < b.p.record_count; i += b.step) {
        const fb_attention_record r = b.records[i];
        if (r.row_count == 0) return;
        float sum = 0;
        for (int start = r.kv_start; start < r.kv_end; start += FB_KV_TILE) {
            const unsigned char* tile = memory + turn.stage * STAGE_BYTES;
            const int left = r.kv_end - start;
            const int count = left < FB_KV_TILE ? left : FB_KV_TILE;
            mbarrier_wait(b.full + 8 * turn.stage, turn.parity);
            for (int token = warp; token < count; token += TAKER_WARPS)
                sum += b.rank == 0 ? key_at(tile, token, element)
                                   : value_at(tile + KEY_BYTES, token, element);
            give_back(b.empty + 8 * turn.stage);
            turn.advance();
        }
        parts[warp * DIM + element] = sum;
        barrier_sync(1, TAKERS);
        if (warp == 0) {
            sum = 0;
            for (int w = 0; w < TAKER_WARPS; ++w) sum += parts[w * DIM + element];
            ((float*)b.p.sums)[(2 * i + b.rank) * DIM + element] = sum;
        }
        barrier_sync(1, TAKERS);
    }
}

// --- the kernel

FB_KERNEL(pair_sums, pair_params, FB_THREADS, 1) {
    FB_DYNAMIC_SHARED(memory);
    FB_SHARED(uint64_t, barriers, [2 * FB_STAGES]);
    FB_SHARED(float, parts, [TAKER_WARPS * DIM]);
    const uint32_t full = shared_address(barriers), rank = cluster_rank();
    const Pair b = {
        p,
        (const fb_attention_record*)p.records,
        shared_address(memory),
        full,
        full + 8 * FB_STAGES,
        rank,
        blockIdx.x / 2,
        gridDim.x / 2,
    };
    if (threadIdx.x == 0) {
        tensor_prefetch(&p.keys);
        tensor_prefetch(&p.values);
        for (int stage = 0; stage < FB_STAGES; ++stage) {
            mbarrier_init(b.full + 8 * stage, 1);
            mbarrier_init(b.empty + 8 * stage, 2 * TAKER_WARPS);
        }
        fence_mbarrier_init();
    }
    __syncwarp();
    cluster_sync();
    pdl_wait();
    pdl_launch_dependents();
    if (threadIdx.x >= 128)
        take_records(b, memory, parts);
    else if (threadIdx.x == 0)
        load_records(b);
    __syncwarp();
    cluster_sync(); // the other block still arrives here
}
