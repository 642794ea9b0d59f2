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

// Rows from one of a thread's to its next, where it has the same pairs of them all; else 0.
FB_DEVICE constexpr int row_stride(int rows, int threads) {
    const int stride = threads % row_items == 0 ? threads / row_items : 0;
    return turns_chunks && stride > 0 && rows > stride && rows % stride == 0 ? stride : 0;
}

// Something of each pair. The first two of all items, then the next: lanes with items side by side
// read different banks.
template <class T> struct PairTable {
    static constexpr int width = item_pairs == 1 ? 1 : 2;
    struct alignas(width * sizeof(T)) Unit {
        T of[width];
    };
    Unit units[rotates ? rope_pairs / width : 1];

    FB_DEVICE T& at(int pair) {
        const int i = pair % item_pairs;
        return units[i / width * row_items + pair / item_pairs].of[i % width];
    }
    FB_DEVICE void item(int item, T (&x)[item_pairs]) const {
        FB_UNROLL
        for (int i = 0; i < item_pairs; i += width) {
            const Unit unit = units[i / width * row_items + item];
            for (int j = 0; j < width; j++) x[i + j] = unit.of[j];
        }
    }
};

// In shared memory.
struct Rotation {
    PairTable<TurnRate> rates;
    PairTable<Angle> strides; // of a row stride
};

constexpr int rotation_bytes = rotates ? int(sizeof(Rotation)) : 0;

// By the whole block, whose threads then have to meet.
FB_DEVICE void begin_rotation(const fb_attention_params& p, Rotation& rotation, int stride) {
    for (int pair = int(threadIdx.x); pair < rope_pairs; pair += int(blockDim.x)) {
        const TurnRate rate = reinterpret_cast<const TurnRate*>(p.rope_rates)[pair];
        rotation.rates.at(pair) = rate;
        rotation.strides.at(pair) = angle_at(stride, rate);
    }
}

struct ItemAngles {
    Angle pair[item_pairs];

    FB_DEVICE void begin(const Rotation& rotation, int item, int32_t position, float factor = 1) {
        TurnRate rates[item_pairs];
        rotation.rates.item(item, rates);
        FB_UNROLL
        for (int i = 0; i < item_pairs; i++) {
            const Angle angle = angle_at(position, rates[i]);
            pair[i] = {angle.cos * factor, angle.sin * factor};
        }
    }
    FB_DEVICE void advance(const Angle (&by)[item_pairs]) {
        FB_UNROLL
        for (int i = 0; i < item_pairs; i++) turn_pair(pair[i].cos, pair[i].sin, by[i]);
    }
};

// The two chunks of an item.
template <class Layout> struct ChunkPair {
    uint4 chunks[2];

    static FB_DEVICE uint4& at(unsigned char* tile, Item item, int i) {
        const int first = FB_ROPE_FIRST / 8;
        const int chunk = FB_ROPE == 2 ? 2 * item.chunk + i : item.chunk + i * (rope_pairs / 8);
        return *reinterpret_cast<uint4*>(tile + Layout::at(item.row, first + chunk));
    }
    FB_DEVICE void load(unsigned char* tile, Item item) {
        for (int i = 0; i < 2; i++) chunks[i] = at(tile, item, i);
    }
    FB_DEVICE void store(unsigned char* tile, Item item) const {
        for (int i = 0; i < 2; i++) at(tile, item, i) = chunks[i];
    }
    FB_DEVICE void turn(const ItemAngles& angles) {
        float x[2][8];
        for (int i = 0; i < 2; i++) widen_8<FB_Q_TYPE>(&chunks[i], x[i]);
        FB_UNROLL
        for (int i = 0; i < item_pairs; i++) {
            float& first = FB_ROPE == 2 ? x[i / 4][i % 4 * 2] : x[0][i];
            float& second = FB_ROPE == 2 ? x[i / 4][i % 4 * 2 + 1] : x[1][i];
            turn_pair(first, second, angles.pair[i]);
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
FB_DEVICE void turn_elements(unsigned char* tile, Item item, Angle by) {
    uint16_t& first = element_at<Layout>(tile, item, 0);
    uint16_t& second = element_at<Layout>(tile, item, 1);
    float x = widen_1<FB_Q_TYPE>(&first, 0);
    float y = widen_1<FB_Q_TYPE>(&second, 0);
    turn_pair(x, y, by);
    const uint32_t both = pack_pair<FB_Q_TYPE>(x, y);
    first = uint16_t(both);
    second = uint16_t(both >> 16);
}

// Rows at any positions, times a factor.
template <class Layout, int Rows, int Threads>
FB_DEVICE void rotate_rows(const Rotation& rotation, unsigned char* tile, const int32_t* positions,
                           float factor, int thread) {
    FB_NO_UNROLL
    for (int i = 0; i < (Rows * row_items + Threads - 1) / Threads; i++) {
        const Item item = item_of<row_items, Threads>(thread, i);
        if (item.row >= Rows) continue;
        ItemAngles angles;
        angles.begin(rotation, item.chunk, positions[item.row], factor);
        if constexpr (turns_chunks) {
            ChunkPair<Layout> pairs;
            pairs.load(tile, item);
            pairs.turn(angles);
            pairs.store(tile, item);
        } else turn_elements<Layout>(tile, item, angles.pair[0]);
    }
}

// Rows of keys: where a thread's are so many positions apart as they are rows, angles follow from
// those of the first. A few rows are read before the first is written: a read after a write would
// wait for it.
template <class Layout, int Rows, int Threads, int Batch>
FB_DEVICE void rotate_keys(const Rotation& rotation, unsigned char* tile, const int32_t* positions,
                           int thread) {
    constexpr int stride = row_stride(Rows, Threads);
    bool steady = stride > 0;
    for (int row = thread / row_items + stride; steady && row < Rows; row += stride)
        steady = positions[row] - positions[row - stride] == stride;
    if (!__all_sync(0xffffffffu, steady))
        return rotate_rows<Layout, Rows, Threads>(rotation, tile, positions, 1, thread);
    if constexpr (stride > 0) {
        constexpr int turns = Rows / stride;
        constexpr int batch = turns < Batch ? turns : Batch;
        const Item item = item_of<row_items, Threads>(thread, 0);
        ItemAngles angles;
        angles.begin(rotation, item.chunk, positions[item.row]);
        Angle strides[item_pairs];
        rotation.strides.item(item.chunk, strides);
        FB_NO_UNROLL
        for (int first = 0; first < turns; first += batch) {
            ChunkPair<Layout> pairs[batch];
            FB_UNROLL
            for (int i = 0; i < batch; i++)
                pairs[i].load(tile, {item.row + (first + i) * stride, item.chunk});
            FB_UNROLL
            for (int i = 0; i < batch; i++) {
                pairs[i].turn(angles);
                pairs[i].store(tile, {item.row + (first + i) * stride, item.chunk});
                angles.advance(strides);
            }
        }
    }
}
