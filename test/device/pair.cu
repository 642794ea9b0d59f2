// Attention of the shape that Hopper's has, on plain arithmetic: the two blocks of a cluster have
// half of a record's rows each, a thread of each loads half of every tile for both by bulk copies
// (TMA), eight warps of each take what has arrived.
#include "common/finish.h"
#include "../ptx/barrier.h"
#include "../ptx/fence.h"
#include "../ptx/mbarrier.h"
#include "../ptx/pdl.h"
#include "../ptx/tma.h"

// ---- facts

constexpr int half_tile = FB_KV_TILE / 2;
constexpr int key_row = FB_KEY_DIM * 2;
constexpr int value_row = FB_VALUE_DIM * 2;
constexpr int key_bytes = FB_KV_TILE * key_row;
constexpr int value_bytes_at = FB_STAGES * key_bytes;
constexpr int tile_values = FB_KV_TILE * value_row;
constexpr int block_rows = FB_QUERY_TILE / FB_CLUSTER;
constexpr int first_taker = 128;
constexpr int takers = (FB_THREADS - first_taker) / 32;
constexpr int own_rows = block_rows / takers;

static_assert(value_bytes_at + FB_STAGES * tile_values == FB_SHARED_BYTES, "the class says else");
static_assert(key_row == 128 && value_row == 64, "a row is what its map's swizzle spans");
static_assert(FB_VALUE_DIM == 32 && FB_KV_TILE == 64, "a lane has a column and two keys");

// ---- where things lie

struct Memory {
    Work work;
    RowFacts rows;
    uint64_t full[FB_STAGES];
    uint64_t empty[FB_STAGES];
    float weights[takers][own_rows][FB_KV_TILE];
};

struct Block {
    const fb_attention_map_params& p;
    unsigned char* tiles; // of keys, then of values
    Memory& memory;
    uint32_t rank;

    FB_DEVICE const fb_attention_record& record() const { return memory.work.record; }
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

FB_DEVICE float key_at(const unsigned char* tile, int token, int element) {
    const int byte = token * key_row + element * 2;
    return bf16_to_float(*reinterpret_cast<const uint16_t*>(tile + (byte ^ (byte >> 7 & 7) << 4)));
}

FB_DEVICE float value_at(const unsigned char* tile, int token, int element) {
    const int byte = token * value_row + element * 2;
    return bf16_to_float(*reinterpret_cast<const uint16_t*>(tile + (byte ^ (byte >> 7 & 3) << 4)));
}

// ---- load

// Where a map has a row: element, head, token (of the page), page.
struct RowPlace {
    int at[4];
};

// Of this block's half of a tile: a page holds a whole number of halves.
FB_DEVICE RowPlace half_at(const Block& b, int32_t start) {
    const fb_attention_params& p = b.p.attention;
    const fb_attention_record& r = b.record();
    const int32_t token = start + int32_t(b.rank) * half_tile;
    if (p.contiguous) return {{0, r.kv_head, r.slot + token, 0}};
    if (token >= r.kv_end) return {{0, r.kv_head, p.page_size, 0}}; // zeros
    const int32_t logical = r.position_start + token;
    const int64_t column = int64_t(r.slot) * p.table_stride + logical / p.page_size;
    return {{0, r.kv_head, logical % p.page_size, read_int(p.page_table, column)}};
}

FB_DEVICE void load_record(const Block& b, Turn turn) {
    const fb_attention_record& r = b.record();
    for (int32_t start = r.kv_start; start < r.kv_end; start += FB_KV_TILE) {
        const uint32_t full = shared_address(&b.memory.full[turn.stage]);
        const uint32_t keys = shared_address(b.tiles) + turn.stage * key_bytes;
        const uint32_t values = shared_address(b.tiles) + value_bytes_at + turn.stage * tile_values;
        const RowPlace place = half_at(b, start);
        mbarrier_wait_cluster(shared_address(&b.memory.empty[turn.stage]), turn.parity ^ 1);
        mbarrier_arrive_expect(full, key_bytes + tile_values); // half of it by the other block
        tensor_load_multicast(keys + b.rank * (key_bytes / 2), &b.p.k, full, place.at, 3);
        tensor_load_multicast(values + b.rank * (tile_values / 2), &b.p.v, full, place.at, 3);
        turn.advance();
    }
}

// ---- compute

// Both blocks' loaders wait until this warp has read the stage.
FB_DEVICE void give_back(uint64_t& empty) {
    __syncwarp();
    const uint32_t lane = threadIdx.x % 32;
    if (lane < FB_CLUSTER) mbarrier_arrive_cluster(map_shared(shared_address(&empty), lane));
}

// Weights of a row's keys in a tile, for all lanes; scores are small, so that their base is 0.
FB_DEVICE float weigh(const Block& b, const unsigned char* keys, int32_t start, int row,
                      float (&weights)[FB_KV_TILE]) {
    const fb_attention_params& p = b.p.attention;
    const fb_attention_record& r = b.record();
    const QueryRow at = query_row(r, row);
    const auto* q = reinterpret_cast<const uint16_t*>(p.q) + at.token * p.q_stride_token +
                    at.head * p.q_stride_head;
    float sum = 0;
    for (int key = int(threadIdx.x % 32); key < FB_KV_TILE; key += 32) {
        const int32_t position = r.position_start + start + key;
        const bool seen = start + key < r.kv_end && position >= b.memory.rows.low[row] &&
                          position <= b.memory.rows.high[row];
        float score = 0;
        for (int d = 0; d < FB_KEY_DIM; d++) score += bf16_to_float(q[d]) * key_at(keys, key, d);
        weights[key] = seen ? exp2_approx(score * score_factor(p, r)) : 0;
        sum += weights[key];
    }
    return sum;
}

FB_DEVICE void finish(const Block& b, int row, float sum, float out) {
    for (int distance = 16; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(~0u, sum, distance);
    const int lane = int(threadIdx.x % 32);
    const float base = sum == 0 ? no_base : 0;
    const RowTarget target = finish_row(b.p.attention, b.record(), row, base, sum, lane == 0);
    const float next = __shfl_xor_sync(~0u, out, 1);
    if (lane % 2 == 0) write_pair(b.p.attention, target, lane, out, next);
}

FB_DEVICE void take_record(const Block& b, Turn turn) {
    const fb_attention_record& r = b.record();
    const int warp = int(threadIdx.x - first_taker) / 32;
    const int first = int(b.rank) * block_rows + warp * own_rows;
    auto& weights = b.memory.weights[warp];
    float sum[own_rows] = {}, out[own_rows] = {};
    for (int32_t start = r.kv_start; start < r.kv_end; start += FB_KV_TILE) {
        const unsigned char* keys = b.tiles + turn.stage * key_bytes;
        const unsigned char* values = b.tiles + value_bytes_at + turn.stage * tile_values;
        const int count = min(FB_KV_TILE, r.kv_end - start);
        mbarrier_wait(shared_address(&b.memory.full[turn.stage]), turn.parity);
        for (int m = 0; m < own_rows; m++)
            if (first + m < r.row_count) sum[m] += weigh(b, keys, start, first + m, weights[m]);
        __syncwarp();
        for (int m = 0; m < own_rows; m++)
            for (int key = 0; key < count && first + m < r.row_count; key++)
                out[m] += weights[m][key] * value_at(values, key, int(threadIdx.x % 32));
        give_back(b.memory.empty[turn.stage]);
        turn.advance();
    }
    for (int m = 0; m < own_rows; m++)
        if (first + m < r.row_count) finish(b, first + m, sum[m], out[m]);
}

// ---- the kernel

FB_DEVICE void open_barriers(const Block& b) {
    if (threadIdx.x == 0) {
        tensor_prefetch(&b.p.k);
        tensor_prefetch(&b.p.v);
        for (int stage = 0; stage < FB_STAGES; stage++) {
            mbarrier_init(shared_address(&b.memory.full[stage]), 1);
            mbarrier_init(shared_address(&b.memory.empty[stage]), FB_CLUSTER * takers);
        }
        fence_mbarrier_init();
    }
    __syncwarp();
    cluster_sync();
}

// Hands what the first block drew to both, whose threads are done with the record.
FB_DEVICE uint32_t share_ticket(uint32_t next, Work& work) {
    cluster_sync();
    if (draws_tickets()) {
        const uint32_t letter = shared_address(&work.next);
        for (uint32_t rank = 0; rank < FB_CLUSTER; rank++)
            store_cluster_4(map_shared(letter, rank), next);
    }
    cluster_sync();
    return work.next;
}

FB_KERNEL(attention_pair, fb_attention_map_params, FB_THREADS, 1) {
    FB_DYNAMIC_SHARED(tiles);
    FB_SHARED(Memory, memory, );
    const Block b = {p, tiles, memory, cluster_rank()};
    int32_t word = open_records(p.attention, memory.work);
    open_barriers(b);
    pdl_wait();
    pdl_launch_dependents();
    Turn turn;
    while (next_record(word, memory.work)) {
        const fb_attention_record& r = b.record();
        const uint32_t next = take_ticket(p.attention);
        if (threadIdx.x < FB_QUERY_TILE)
            describe_row(p.attention, r, memory.rows, int(threadIdx.x));
        __syncthreads();
        if (threadIdx.x == 0) load_record(b, turn);
        else if (threadIdx.x >= first_taker) take_record(b, turn);
        __syncwarp();
        for (int32_t start = r.kv_start; start < r.kv_end; start += FB_KV_TILE) turn.advance();
        word = fetch_record(p.attention, share_ticket(next, memory.work));
    }
    close_records(p.attention);
}
