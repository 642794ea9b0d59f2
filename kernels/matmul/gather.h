// Rows of x that out names, for wgmma (sm_90a). They lie anywhere, so threads copy 16 bytes of them
// each, to where a bulk copy with the swizzle of 128 bytes would put them.
#pragma once
#include "../ptx/base.h"
#include "../params/matmul.h"
#include "../ptx/cp_async.h"
#include "item.h"
#include "ring.h"

constexpr int piece_bytes = 16; // what a thread copies at once
constexpr int row_pieces = span / piece_bytes;

// `rows` of an item, copied by so many warps; a thread has the same piece of each of its rows.
template <int type, int rows, int warps> struct GatheredRows {
    static constexpr int apart = 32 * warps / row_pieces; // from one row of a thread to its next
    static constexpr int count = rows / apart;
    static_assert(rows % apart == 0, "threads have equally many rows");

    static constexpr int bytes = type == FB_F8E4M3 ? 1 : 2;
    static_assert(count <= 32, "a bit says whether there is such a row");

    uint32_t places[count]; // of rows of x, in pieces
    uint32_t there = 0;

    template <class I>
    FB_DEVICE GatheredRows(const fb_matmul_params& p, const I& item, int32_t first) {
        FB_UNROLL
        for (int i = 0; i < count; i++) {
            const int32_t row = item.x_row(p, first + row_of(i));
            places[i] = row < 0 ? 0 : uint32_t(row * p.x_stride * bytes / piece_bytes);
            there |= uint32_t(row >= 0) << i;
        }
    }

    FB_DEVICE static int thread() { return threadIdx.x % (32 * warps); }
    FB_DEVICE static int row_of(int i) { return thread() / row_pieces + i * apart; }

    // The inputs of the step at k into its place of a stage: zeros where there is no row, and past
    // the last input.
    FB_DEVICE void copy(const fb_matmul_params& p, uint32_t place, int32_t k) const {
        const int piece = thread() % row_pieces;
        const int32_t at = k * bytes + piece * piece_bytes, left = p.inputs * bytes - at;
        const uint32_t own = left < 0 ? 0 : left < piece_bytes ? left : piece_bytes;
        const uint64_t step = p.x + at;
        FB_UNROLL
        for (int i = 0; i < count; i++) {
            const int row = row_of(i);
            cp_async_16(place + row * span + (piece ^ row % row_pieces) * piece_bytes,
                        items<const void>(step + uint64_t(places[i]) * piece_bytes),
                        there >> i & 1 ? own : 0);
        }
    }
};

// Stages whose copies are under way, by all threads that copy. Those of the last two may be while
// the next is waited for: multiplying warps keep two.
template <class R> struct Landing {
    static constexpr int most = R::stages - 2;
    Turn<R> next;
    int pending = 0;

    // The copies of a stage are issued.
    FB_DEVICE void add(R& ring) {
        cp_async_commit();
        if (++pending <= most) return;
        cp_async_wait<most>();
        tell(ring);
    }

    FB_DEVICE void finish(R& ring) {
        cp_async_wait_all();
        while (pending > 0) tell(ring);
    }

    // To wgmma, which reads through another proxy.
    FB_DEVICE void tell(R& ring) {
        fence_proxy_async_shared();
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(shared_address(&ring.full[next.stage]));
        next.advance();
        pending--;
    }
};
