// Rotary embedding of the rows of a tile in shared memory, in place: through f32, rounded once.
#pragma once
#include "../../common/angles.h"
#include "../../common/element.h"
#include "facts.h"

constexpr int rope_pairs = FB_ROPE_DIM / 2;
// A thread turns the eight pairs of two chunks at a time: of two halves, or neighbours. Where pairs
// do not fill chunks it turns one.
constexpr bool turns_chunks = FB_ROPE_FIRST % 8 == 0 && rope_pairs % 8 == 0;
constexpr int item_pairs = turns_chunks ? 8 : 1;
constexpr int row_items = rotates ? rope_pairs / item_pairs : 1;

struct alignas(turns_chunks ? 16 : 8) ItemRates {
    TurnRate pair[item_pairs];
};

FB_DEVICE ItemRates item_rates(const fb_attention_params& p, int item) {
    return reinterpret_cast<const ItemRates*>(p.rope_rates)[item];
}

FB_DEVICE void turn_pair(float& x, float& y, int32_t position, TurnRate rate, float factor) {
    const Angle angle = angle_at(position, rate);
    turn_pair(x, y, {angle.cos * factor, angle.sin * factor});
}

// The two chunks of an item.
template <class Layout> struct ChunkPair {
    uint4 chunks[2];

    static FB_DEVICE uint4& at(unsigned char* tile, Item item, int i) {
        const int first = FB_ROPE_FIRST / 8;
        const int chunk = FB_ROPE == 2 ? 2 * item.chunk + i : item.chunk + i * rope_pairs / 8;
        return *reinterpret_cast<uint4*>(tile + Layout::at(item.row, first + chunk));
    }
    FB_DEVICE void load(unsigned char* tile, Item item) {
        for (int i = 0; i < 2; i++) chunks[i] = at(tile, item, i);
    }
    FB_DEVICE void store(unsigned char* tile, Item item) const {
        for (int i = 0; i < 2; i++) at(tile, item, i) = chunks[i];
    }
    FB_DEVICE void turn(int32_t position, const ItemRates& rates, float factor) {
        float x[2][8];
        for (int i = 0; i < 2; i++) widen_8<FB_Q_TYPE>(&chunks[i], x[i]);
        FB_UNROLL
        for (int i = 0; i < 8; i++) {
            float& first = FB_ROPE == 2 ? x[i / 4][i % 4 * 2] : x[0][i];
            float& second = FB_ROPE == 2 ? x[i / 4][i % 4 * 2 + 1] : x[1][i];
            turn_pair(first, second, position, rates.pair[i], factor);
        }
        for (int i = 0; i < 2; i++) chunks[i] = round_8<FB_Q_TYPE>(x[i]);
    }
};

// A pair of elements anywhere.
template <class Layout> FB_DEVICE uint16_t& element_at(unsigned char* tile, Item item, int i) {
    const int d = FB_ROPE_FIRST + (FB_ROPE == 2 ? 2 * item.chunk + i : item.chunk + i * rope_pairs);
    return *reinterpret_cast<uint16_t*>(tile + Layout::at(item.row, d / 8) + d % 8 * 2);
}

template <class Layout>
FB_DEVICE void turn_elements(unsigned char* tile, Item item, int32_t position, TurnRate rate,
                             float factor) {
    uint16_t& first = element_at<Layout>(tile, item, 0);
    uint16_t& second = element_at<Layout>(tile, item, 1);
    float x = widen_1<FB_Q_TYPE>(&first, 0);
    float y = widen_1<FB_Q_TYPE>(&second, 0);
    turn_pair(x, y, position, rate, factor);
    const uint32_t both = pack_pair<FB_Q_TYPE>(x, y);
    first = uint16_t(both);
    second = uint16_t(both >> 16);
}

// Rows of a tile at their positions, times a factor. `Batch` items of a thread are read before the
// first is written: a read after a write would wait for it.
template <class Layout, int Rows, int Threads, int Batch>
FB_DEVICE void rotate_rows(const fb_attention_params& p, unsigned char* tile,
                           const int32_t* positions, float factor, int thread) {
    constexpr int turns = (Rows * row_items + Threads - 1) / Threads;
    constexpr int batch = turns_chunks && Batch < turns ? Batch : turns_chunks ? turns : 1;
    ItemRates rates = item_rates(p, item_of<row_items, Threads>(thread, 0).chunk);
    FB_NO_UNROLL
    for (int first = 0; first < turns; first += batch) {
        ChunkPair<Layout> pairs[batch];
        FB_UNROLL
        for (int i = 0; turns_chunks && i < batch; i++) {
            const Item item = item_of<row_items, Threads>(thread, first + i);
            if (item.row < Rows) pairs[i].load(tile, item);
        }
        FB_UNROLL
        for (int i = 0; i < batch; i++) {
            const Item item = item_of<row_items, Threads>(thread, first + i);
            if (item.row >= Rows) continue;
            const int32_t position = positions[item.row];
            if (Threads % row_items != 0) rates = item_rates(p, item.chunk);
            if constexpr (turns_chunks) {
                pairs[i].turn(position, rates, factor);
                pairs[i].store(tile, item);
            } else turn_elements<Layout>(tile, item, position, rates.pair[0], factor);
        }
    }
}
