// Rows of sums, piece by piece: merged from what warps have and, where the blocks of a cluster
// share keys, from what these send each other.
#pragma once
#include "memory.h"
#include "../../ptx/fence.h"
#include "../../ptx/mbarrier.h"

// Columns of a row from `first` on.
struct Piece {
    int row;
    int first;
};
FB_DEVICE Piece piece_of(int n) { return {n / row_pieces, n % row_pieces * piece_columns}; }

// A piece's sums in up to `Most` parts, so many bytes apart, in their order; `Sure` are certain.
template <int Most, int Sure, int Bytes> struct Parts {
    const unsigned char* values; // of the first
    bool all;                    // parts are there
    RowSum parts[Most];
    float weight[Most];
    uint32_t held = 0; // by part, whether it saw a key: sums of those that did not may be NaN
    float top = no_base;
    float total = 0;

    FB_DEVICE Parts(const float* first, const RowSum& sums, bool all)
        : values(reinterpret_cast<const unsigned char*>(first)), all(all) {
        const auto* from = reinterpret_cast<const unsigned char*>(&sums);
        FB_UNROLL
        for (int i = 0; i < Most; i++) {
            parts[i] = {no_base, 0};
            if (i < Sure || all) parts[i] = *reinterpret_cast<const RowSum*>(from + i * Bytes);
            top = fmaxf(top, parts[i].base);
        }
    }

    FB_DEVICE void weigh() {
        FB_UNROLL
        for (int i = 0; i < Most; i++) {
            weight[i] = exp2_approx(parts[i].base - top);
            total += parts[i].sum * weight[i];
            const bool counts = !Variant::softmax || parts[i].base != no_base || parts[i].sum != 0;
            if (counts && (i < Sure || all)) held |= 1u << i;
        }
    }

    // Two neighbours of what the parts add up to.
    FB_DEVICE float2 pair(int column) const {
        float2 pair = make_float2(0, 0);
        FB_UNROLL
        for (int i = 0; i < Most; i++) {
            if (!(held >> i & 1)) continue;
            const auto* part = values + (i * Bytes + column * int(sizeof(float)));
            const auto x = *reinterpret_cast<const float2*>(part);
            pair.x += x.x * weight[i];
            pair.y += x.y * weight[i];
        }
        return pair;
    }
};

// Of the block's warps.
using WarpParts = Parts<most_warps, warp_count, warp_bytes>;
FB_DEVICE WarpParts warp_parts(const Block& b, const Piece& piece) {
    const auto* rows = reinterpret_cast<const float*>(b.memory + warps_at);
    const bool all = most_warps == warp_count || b.warps() > warp_count;
    return {rows + piece.row * sums_stride + piece.first, b.state_of(0).sums[piece.row], all};
}

// Of the cluster's blocks.
using BlockParts = Parts<FB_CLUSTER, FB_CLUSTER, sizeof(SentPiece)>;
FB_DEVICE BlockParts block_parts(const Block& b, int n) {
    const SentPiece& first = b.received().pieces[n][0];
    return {first.values, first.sum, true};
}

// Merges a piece's parts and writes it, by a warp; false: it is wrong.
template <class P> FB_DEVICE bool write_piece(const Block& b, const Piece& piece, P parts) {
    const int lane = int(threadIdx.x % 32);
    if (parts.top == FB_INFINITY || scores_too_large(parts.top)) return false;
    parts.weigh();
    const bool writes = piece.first == 0 && lane == 0;
    const RowTarget target =
        finish_row(b.p, b.record(), piece.row, parts.top, parts.total, writes, b.room());
    FB_UNROLL
    for (int i = lane * 2; i < piece_columns; i += 64) {
        const float2 pair = parts.pair(i);
        write_pair(b.p, target, piece.first + i, pair.x, pair.y);
    }
    return true;
}

// The block of a cluster that merges piece `n`: what comes in is what they wait for.
FB_DEVICE int owner_of(int n) { return n % FB_CLUSTER; }

// Merges the warps' sums of a piece and sends them to its block, be it this one, by a warp.
FB_DEVICE void send_piece(const Block& b, int n) {
    const int lane = int(threadIdx.x % 32);
    WarpParts parts = warp_parts(b, piece_of(n));
    parts.weigh();
    const auto there = [&](const void* place) {
        return map_shared(shared_address(place), uint32_t(owner_of(n)));
    };
    const SentPiece& to = b.received().pieces[n][b.rank];
    const uint32_t full = there(&b.received().full);
    FB_UNROLL
    for (int i = lane * 2; i < piece_columns; i += 64)
        store_async_8(there(to.values + i), parts.pair(i), full);
    if (lane == 0) store_async_8(there(&to.sum), make_float2(parts.top, parts.total), full);
}

// Once, before any block sends: all of them are there, and what counts bytes.
FB_DEVICE void begin_sending(const Block& b) {
    if (threadIdx.x == 0) {
        mbarrier_init(shared_address(&b.received().full), 1);
        fence_mbarrier_init();
    }
    cluster_arrive();
}

// Sends the block's sums, and waits for what it merges from all blocks: when it ends, nothing
// reaches for its memory.
FB_DEVICE void exchange_sums(const Block& b) {
    const int pieces = b.record().row_count * row_pieces;
    const int own = (pieces - b.rank + FB_CLUSTER - 1) / FB_CLUSTER;
    const uint32_t full = shared_address(&b.received().full);
    if (threadIdx.x == 0)
        mbarrier_arrive_expect(full, uint32_t(own * int(sizeof(SentPiece[FB_CLUSTER]))));
    FB_NO_UNROLL
    for (int n = b.warp(); n < pieces; n += b.warps()) send_piece(b, n);
    mbarrier_wait(full, 0);
}
