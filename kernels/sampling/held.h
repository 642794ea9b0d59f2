// A block's part of a row in its shared memory, brought by bulk copies while others work (sm_90).
#pragma once
#include "row.h"
#include "../ptx/fence.h"
#include "../ptx/mbarrier.h"
#include "../ptx/tma.h"

// ---- facts

// Of kernels whose blocks hold all that there is room for beside a team's memory.
constexpr int held_blocks = 8;
// Of a row of 157,696 f32 each block's part, so that a multiprocessor has two blocks.
constexpr int held_shared = 78848;

// Bytes of one copy.
constexpr int32_t held_step = 16384;

// ---- load

template <int size> struct Holder {
    int32_t room; // bytes
    uint32_t barrier;

    FB_DEVICE void begin() const {
        if (threadIdx.x == 0) mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        __syncthreads();
    }

    FB_DEVICE Row<size> row(uint64_t source, int32_t dtype, int32_t length,
                            bool is_probability) const {
        const int32_t most = room / element_bytes(dtype);
        return cluster_row<size>(source, dtype, length, is_probability, most);
    }

    // Once no thread of the block needs what was held before.
    FB_DEVICE void start(const Row<size>& row) const {
        unsigned char* const memory = held_memory();
        const Part& part = row.part;
        const int32_t bytes = element_bytes(row.dtype);
        const uint64_t source = row.source + int64_t(part.first) * bytes;
        const int32_t count = part.held - part.first;
        const int32_t bulk = source % 16 == 0 ? count * bytes / 16 * 16 : 0;
        if (threadIdx.x == 0) {
            mbarrier_arrive_expect(barrier, uint32_t(bulk));
            FB_NO_UNROLL
            for (int32_t at = 0; at < bulk; at += held_step) {
                const int32_t left = bulk - at < held_step ? bulk - at : held_step;
                bulk_load(shared_address(memory + at), items<const void>(source + at),
                          uint32_t(left), barrier);
            }
        }
        const int32_t padded = part.padded();
        if (bytes == 4) {
            const float lowest = row.lowest();
            copy(reinterpret_cast<float*>(memory), source, bulk / 4, count, padded, lowest);
        } else {
            const uint16_t low = row.dtype == FB_F16 ? 0xfc00 : 0xff80;
            copy(reinterpret_cast<uint16_t*>(memory), source, bulk / 2, count, padded,
                 uint16_t(row.is_probability ? 0 : low));
        }
        fence_proxy_async_shared();
    }

    // Elements [start, count), and `lowest` up to `padded`.
    template <class T>
    static FB_DEVICE void copy(T* target, uint64_t source, int32_t start, int32_t count,
                               int32_t padded, T lowest) {
        FB_UNROLL_BY(4)
        for (int32_t at = start + int32_t(threadIdx.x); at < padded; at += team_threads)
            target[at] = at < count ? items<const T>(source)[at] : lowest;
    }

    // For the row that was started as number `turn`, from 0 on.
    FB_DEVICE void wait(uint32_t turn) const {
        mbarrier_wait(barrier, turn % 2);
        __syncthreads();
    }
};
