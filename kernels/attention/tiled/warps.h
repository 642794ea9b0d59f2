// Each warp takes keys of its own, 16 at a time, against all 16 query rows: no barrier among the
// keys, and as many bytes in flight as shared memory holds. The warps' sums are merged at the end.
#pragma once
#include "copy.h"
#include "../common/finish.h"
#include "products.h"
#include "../common/scores.h"

// ---- shared memory

static_assert(FB_QUERY_TILE == 16 && FB_KV_TILE == 16 * warp_count, "16 rows, 16 keys per warp");

constexpr int step_keys = 16;
constexpr int value_chunks = round_up(FB_VALUE_DIM, 16) / 8;
using ValueTile = Tile<value_chunks>;
using StepTokens = Tokens<step_keys>;

// A warp's ring of key and value rows, then the tiles that changed rows are written to. At the end
// its sums lie there, rows eight floats apart from a power of two.
constexpr int key_tile_bytes = step_keys * KeyTile::row_bytes;
constexpr int value_tile_bytes = step_keys * ValueTile::row_bytes;
constexpr int stage_keys =
    keys_change ? step_keys * RawRows<FB_KEY_DIM>::row_bytes : key_tile_bytes;
constexpr int stage_values =
    values_change ? step_keys * RawRows<FB_VALUE_DIM>::row_bytes : value_tile_bytes;
constexpr int stage_bytes = stage_keys + stage_values;
constexpr int changed_keys_at = FB_STAGES * stage_bytes;
constexpr int changed_values_at = changed_keys_at + (keys_change ? key_tile_bytes : 0);
constexpr int ring_bytes = changed_values_at + (values_change ? value_tile_bytes : 0);
constexpr int sums_stride = value_chunks * 8 + 8;
constexpr int sums_bytes = 16 * sums_stride * 4;
constexpr int warp_bytes = ring_bytes > sums_bytes ? ring_bytes : sums_bytes;

struct RowSum {
    float base;
    float sum;
};

struct State {
    Work work;
    RowFacts rows;
    RowSum sums[warp_count][16];
    RowAddresses<step_keys> addresses[warp_count];
    StepTokens tokens[warp_count][FB_STAGES];
};

constexpr int warps_at = 16 * KeyTile::row_bytes;
constexpr int state_at = warps_at + warp_count * warp_bytes;
constexpr int shared_bytes = state_at + int(sizeof(State));
static_assert(shared_bytes == FB_SHARED_BYTES, "the planner's formula is another");

struct Block {
    const fb_attention_params& p;
    unsigned char* memory;
    uint32_t shared; // its address

    FB_DEVICE int warp() const { return int(threadIdx.x) / 32; }
    FB_DEVICE State& state() const { return *reinterpret_cast<State*>(memory + state_at); }
    FB_DEVICE const fb_attention_record& record() const { return state().work.record; }
    FB_DEVICE unsigned char* ring() const { return memory + warps_at + warp() * warp_bytes; }
    FB_DEVICE uint32_t ring_address() const { return shared + warps_at + warp() * warp_bytes; }
};

// ---- load

// First token of a warp's step.
FB_DEVICE int32_t step_start(const Block& b, const KeptRange& range, int step) {
    return range.start + (step * warp_count + b.warp()) * step_keys;
}

// The token that a lane finds in a step: lanes 0 to 15 those of keys, the others those of values.
FB_DEVICE Place find_step(const Block& b, const Source& from, const KeptRange& range, int step) {
    const int32_t token = step_start(b, range, step) + int(threadIdx.x % 16);
    return find(b.p, b.record(), from, token, range.end);
}

// A found token with its page id, which was asked for a step ago.
struct PagedToken {
    int32_t page;
    int32_t row;
    int32_t position;
};

FB_DEVICE PagedToken ask(const Place& place) {
    return {place.page == nullptr ? 0 : *place.page, place.row, place.position};
}

// Starts the copies of a step, whose token the lane has found, when all are done with the last.
FB_DEVICE void copy_step(const Block& b, const Source& from, const KeptRange& range, int step,
                         int stage, const PagedToken& token) {
    const fb_attention_record& r = b.record();
    const int lane = int(threadIdx.x % 32);
    const int count = range.end - step_start(b, range, step);
    __syncwarp();
    if (count > 0) {
        RowAddresses<step_keys>& addresses = b.state().addresses[b.warp()];
        StepTokens& tokens = b.state().tokens[b.warp()][stage];
        const bool kept = token.position != past_end;
        const int32_t row = without_full_bit(token.row);
        const int at = lane % 16;
        if (lane < 16) {
            addresses.k[at] = row_address(b.p.k, from.k, token.page, row);
            tokens.position[at] = token.position;
            if (FB_K_TOKEN_SCALE)
                copy_scale(b.p.k_scale, r, token.page, row, kept, &tokens.k_scale[at]);
        } else {
            addresses.v[at] = row_address(b.p.v, from.v, token.page, row);
            if (pairs_hide || Variant::reads_slots) tokens.row[at] = token.row;
            if (Variant::reads_slots) tokens.page[at] = token.page;
            if (FB_V_TOKEN_SCALE)
                copy_scale(b.p.v_scale, r, token.page, row, kept, &tokens.v_scale[at]);
        }
        __syncwarp();
        const uint32_t to = b.ring_address() + stage * stage_bytes;
        copy_tokens<KeyTile, FB_KEY_DIM, keys_change, step_keys, 32>(to, addresses.k, count, lane);
        copy_tokens<ValueTile, FB_VALUE_DIM, values_change, step_keys, 32>(to + stage_keys,
                                                                         addresses.v, count, lane);
    }
    cp_async_commit();
}

// Asks for the rows of a launch's first steps while the kernels before still run, so that they are
// in the L2 cache when those are done. One step: more of them only delayed the copies of the first.
FB_DEVICE void prefetch_step(const Block& b) {
    constexpr uint32_t key_bytes = FB_KEY_DIM * value_bytes;
    constexpr uint32_t row_bytes = FB_VALUE_DIM * value_bytes;
    const fb_attention_record& r = b.record();
    const bool settled = b.p.contiguous || b.p.pages_settled;
    if (key_bytes % 16 != 0 || row_bytes % 16 != 0 || needs_trim(r) || !settled) return;
    const Source from = source_of(b.p, r, b.state().work.by_page);
    const PagedToken token = ask(find_step(b, from, {r.kv_start, r.kv_end}, 0));
    if (token.position == past_end) return;
    const int32_t row = without_full_bit(token.row);
    const bool is_key = threadIdx.x % 32 < 16;
    const uint64_t address = is_key ? row_address(b.p.k, from.k, token.page, row)
                                    : row_address(b.p.v, from.v, token.page, row);
    prefetch_l2_bulk(reinterpret_cast<const void*>(address), is_key ? key_bytes : row_bytes);
}

// ---- compute

// Queries stay in registers where they fit beside the sums.
constexpr bool keeps_queries = FB_KEY_DIM <= 128;
constexpr int key_steps = key_chunks / 2;

struct Sums {
    RowStates<1> rows;
    float out[1][value_chunks][4];
};

struct Queries {
    uint32_t tile;
    uint32_t kept[keeps_queries ? key_steps : 1][4];
};

FB_DEVICE void load_query(const Queries& queries, int step, uint32_t (&q)[4]) {
    ldmatrix_x4(q, KeyTile::step(queries.tile, 0, step * 2));
}

FB_DEVICE void keep_queries(const Block& b, Queries& queries) {
    queries.tile = row_base<KeyTile>(b.shared);
    if constexpr (keeps_queries) {
        FB_UNROLL
        for (int step = 0; step < key_steps; step++) load_query(queries, step, queries.kept[step]);
    }
}

FB_DEVICE void add_step(const Block& b, const KeptRange& range, int step, int stage,
                        const Bounds& bounds, float factor, const Queries& queries, Sums& sums) {
    Keys keys = {view_of(b.record(), b.state().tokens[b.warp()][stage])};
    keys.stored = true;
    if (!look_at_keys(b.record(), bounds, step_start(b, range, step), step_keys, keys)) return;
    const uint32_t from = b.ring_address() + stage * stage_bytes;
    const unsigned char* raw = b.ring() + stage * stage_bytes;
    if (keys_change)
        change_rows<KeyTile, KeyChange, step_keys, 32>(
            b.p, raw, b.ring_address() + changed_keys_at, keys.run, int(threadIdx.x % 32));
    if (values_change)
        change_rows<ValueTile, ValueChange, step_keys, 32>(b.p, raw + stage_keys,
                                                           b.ring_address() + changed_values_at,
                                                           keys.run, int(threadIdx.x % 32));
    if (keys_change || values_change) __syncwarp();
    const uint32_t own = b.ring_address();
    const uint32_t k = key_base<KeyTile>(keys_change ? own + changed_keys_at : from);
    const uint32_t v = row_base<ValueTile>(values_change ? own + changed_values_at
                                                         : from + stage_keys);
    float s[1][2][4];
    clear(s);
    FB_UNROLL
    for (int i = 0; i < key_steps; i++) {
        uint32_t q[1][4];
        if (!keeps_queries) load_query(queries, i, q[0]);
        for (int j = 0; keeps_queries && j < 4; j++) q[0][j] = queries.kept[i][j];
        add_scores<KeyTile>(q, k, i, s);
    }
    probabilities(b.p, b.state().rows, 0, keys, factor, s, sums.rows, sums.out);
    add_values<ValueTile>(s, v, sums.out);
}

// ---- store

// Merges the warps' sums in their order and writes the rows.
FB_DEVICE void finish_sums(const Block& b, const Sums& sums) {
    const fb_attention_record& r = b.record();
    State& state = b.state();
    const int lane = int(threadIdx.x % 32);
    auto* own = reinterpret_cast<float*>(b.ring());
    FB_UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = h * 8 + lane / 4;
        const float sum = quad_sum(sums.rows.sum[0][h]);
        if (lane % 4 == 0) state.sums[b.warp()][row] = {sums.rows.base[0][h], sum};
        FB_UNROLL
        for (int c = 0; c < value_chunks; c++) {
            const float2 pair = make_float2(sums.out[0][c][2 * h], sums.out[0][c][2 * h + 1]);
            const int column = c * 8 + lane % 4 * 2;
            *reinterpret_cast<float2*>(own + row * sums_stride + column) = pair;
        }
    }
    __syncthreads();
    constexpr int row_threads = FB_THREADS / 16;
    const int row = int(threadIdx.x) / row_threads;
    if (row >= r.row_count) return;
    float top = no_base;
    for (int w = 0; w < warp_count; w++) top = fmaxf(top, state.sums[w][row].base);
    float weight[warp_count];
    float total = 0;
    for (int w = 0; w < warp_count; w++) {
        const RowSum part = state.sums[w][row];
        weight[w] = exp2_approx(part.base - top);
        total += part.sum * weight[w];
    }
    const int first = int(threadIdx.x) % row_threads;
    const RowTarget target = finish_row(b.p, r, row, top, total, first == 0);
    const auto* all = reinterpret_cast<const float*>(b.memory + warps_at) + row * sums_stride;
    for (int column = first * 2; column < FB_VALUE_DIM; column += row_threads * 2) {
        float2 pair = make_float2(0, 0);
        for (int w = 0; w < warp_count; w++) {
            const auto part = *reinterpret_cast<const float2*>(all + w * (warp_bytes / 4) + column);
            pair.x += part.x * weight[w];
            pair.y += part.y * weight[w];
        }
        write_pair(b.p, target, column, pair.x, pair.y);
    }
}

// ---- the record

// Returns this thread's part of the record that comes next.
FB_DEVICE int32_t attend(const Block& b) {
    const fb_attention_record& r = b.record();
    RowFacts& rows = b.state().rows;
    const Divider by_page = b.state().work.by_page;
    const Source source = source_of(b.p, r, by_page);
    KeptRange range = {r.kv_start, r.kv_end};
    if (queries_change || needs_trim(r)) {
        if (threadIdx.x < 16) describe_row(b.p, r, rows, int(threadIdx.x));
        __syncthreads();
        if (needs_trim(r)) range = trim(b.p, r, rows, by_page);
    }
    PagedToken found[FB_STAGES];
    FB_UNROLL
    for (int i = 0; i < FB_STAGES; i++) found[i] = ask(find_step(b, source, range, i));
    PagedToken ahead = ask(find_step(b, source, range, FB_STAGES));
    load_queries<FB_THREADS>(b.p, r, rows, b.shared, int(threadIdx.x));
    cp_async_commit();
    FB_UNROLL
    for (int i = 0; i < FB_STAGES; i++) copy_step(b, source, range, i, i, found[i]);
    if (!queries_change && !needs_trim(r) && threadIdx.x < 16)
        describe_row(b.p, r, rows, int(threadIdx.x));
    cp_async_wait<FB_STAGES>();
    __syncthreads(); // rows and queries are there
    const Bounds bounds = bounds_of(rows, 0, 16, r.row_count);
    const float factor = score_factor(b.p, r);
    Queries queries;
    keep_queries(b, queries);
    Sums sums;
    sums.rows = no_state<1>();
    clear(sums.out);
    uint32_t next = 0;
    if (range.start >= range.end) next = take_ticket(b.p);
    int stage = 0;
    FB_NO_UNROLL
    for (int step = 0; step_start(b, range, step) < range.end; step++) {
        if (range.end - step_start(b, range, step) <= FB_KV_TILE) next = take_ticket(b.p);
        cp_async_wait<FB_STAGES - 1>();
        __syncwarp(); // the step's rows are there for all lanes
        add_step(b, range, step, stage, bounds, factor, queries, sums);
        copy_step(b, source, range, step + FB_STAGES, stage, ahead);
        ahead = ask(find_step(b, source, range, step + FB_STAGES + 1));
        stage = stage == FB_STAGES - 1 ? 0 : stage + 1;
    }
    cp_async_wait<0>();
    const int32_t word = fetch_record(b.p, next);
    finish_sums(b, sums);
    return word;
}
