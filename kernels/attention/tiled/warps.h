// Each warp takes keys of its own, 16 or 32 at a time, against all query rows: no barrier among the
// keys, and as many bytes in flight as shared memory holds. The warps' sums are merged at the end.
// Where tiles are few a block has more warps than FB_THREADS, with shared memory for each.
//
// Where requests are few and short, the blocks of a cluster share a record's keys out, warp by
// warp. They merge each other's sums, each block some columns, as each has merged those of its
// warps: no launch has to (pieces.h).
//
// Rows are few, so keys and then columns of values are the rows of the products (products.h).
//
// fp8 that nothing else changes is widened to f16, exactly, on its way from shared memory to the
// products; queries for it are f16, too.
#pragma once
#include "pieces.h"
#include "products.h"

// ---- load

// First token of a warp's step.
FB_DEVICE int32_t step_start(const Block& b, const KeptRange& range, int step) {
    return range.start + (step * b.shares() + b.share()) * step_keys;
}

// The token that a lane finds in a step: of its key, its value or, where there are 32, of both.
FB_DEVICE Place find_step(const Block& b, const Source& from, const KeptRange& range, int step) {
    const int32_t token = step_start(b, range, step) + int(threadIdx.x % step_keys);
    return find(b.p, b.record(), from, token, range.end);
}

// A found token with its page id, which was asked for a step ago.
struct PagedToken {
    int32_t page;
    int32_t value_page;
    int32_t row;
    int32_t place;
};

FB_DEVICE PagedToken ask(const Block& b, const Place& place) {
    if (place.page == nullptr) return {0, 0, place.row, place.place};
    const int32_t page = *place.page;
    return {page, FB_VALUE_PAGES ? *value_entry(b.p, place.page) : page, place.row, place.place};
}

// Where sums, and what widens fp8 without an instruction for it, leave registers for the addresses
// of what a lane copies, they are found beforehand.
constexpr bool finds_first = row_blocks == 1 && FB_KEY_DIM <= 128 && FB_VALUE_DIM <= 128 &&
                             (FB_ARCH >= 890 || value_bytes > 1);

// What a lane copies of a step.
struct StepCopies {
    int count; // tokens from the warp's first to the last of all; 0: none
    TokenCopies<KeyRows, FB_KEY_DIM, FB_KEY_TAIL, keys_pass, step_keys, 32> keys;
    TokenCopies<ValueRows, FB_VALUE_DIM, 0, values_pass, step_keys, 32> values;
};

// Notes the tokens of a step, of which the lane has found one, when all are done with the last.
FB_DEVICE void place_step(const Block& b, const Source& from, const KeptRange& range, int step,
                          int stage, const PagedToken& token, StepCopies& copies) {
    const fb_attention_record& r = b.record();
    const int lane = int(threadIdx.x % 32);
    copies.count = range.end - step_start(b, range, step);
    __syncwarp();
    if (copies.count <= 0) return;
    RowAddresses<step_keys>& addresses = b.own().addresses;
    StepTokens& tokens = b.own().tokens[stage];
    const bool kept = token.place != past_end;
    const int32_t row = without_full_bit(token.row);
    const int at = lane % step_keys;
    if (lane < step_keys) {
        addresses.k[at] = row_address(key_plane(b.p, r), from.k, token.page, row);
        addresses.note(at, tail_address(b.p, r, token.page, row));
        tokens.position[at] = position_of(b.p, token.page, row, token.place);
        tokens.note(at, token.place);
        if (FB_K_TOKEN_SCALE)
            copy_scale(b.p.k_scale, r, token.page, row, kept, tokens.key_scale(at));
    }
    if (lane >= 32 - step_keys) {
        addresses.v[at] = row_address(value_plane(b.p, r), from.v, token.value_page, row);
        if (pairs_hide || Variant::reads_slots) tokens.row[at] = token.row;
        if (Variant::reads_slots) tokens.page[at] = token.page;
        if (FB_V_TOKEN_SCALE)
            copy_scale(b.p.v_scale, r, token.value_page, row, kept, tokens.value_scale(at));
    }
    __syncwarp();
    if (!finds_first) return;
    copies.keys.find(addresses.k, addresses.tails(), lane);
    copies.values.find(addresses.v, nullptr, lane);
}

FB_DEVICE void start_step(const Block& b, int stage, StepCopies& copies) {
    const int lane = int(threadIdx.x % 32);
    const uint32_t to = b.ring_address() + stage * stage_bytes;
    if (copies.count > 0) {
        const RowAddresses<step_keys>& addresses = b.own().addresses;
        if (!finds_first) copies.keys.find(addresses.k, addresses.tails(), lane);
        copies.keys.start(to, copies.count, lane);
        if (!finds_first) copies.values.find(addresses.v, nullptr, lane);
        copies.values.start(to + stage_keys, copies.count, lane);
    }
    cp_async_commit();
}

FB_DEVICE void copy_step(const Block& b, const Source& from, const KeptRange& range, int step,
                         int stage, const PagedToken& token) {
    StepCopies copies;
    place_step(b, from, range, step, stage, token, copies);
    start_step(b, stage, copies);
}

// Whether a record's first tokens can be found without what the kernels before write.
FB_DEVICE bool found_early(const Block& b) {
    return !queries_change && !needs_trim(b.record()) && (b.p.contiguous || b.p.pages_settled);
}

// Asks for the rows of a lane's token of a launch's first step while the kernels before still run,
// so that they are in the L2 cache when those are done. One step: more of them only delayed the
// copies of the first.
FB_DEVICE void prefetch_rows(const Block& b, const Source& from, const PagedToken& token) {
    constexpr uint32_t key_bytes = (FB_KEY_DIM - FB_KEY_TAIL) * value_bytes;
    constexpr uint32_t row_bytes = FB_VALUE_DIM * value_bytes;
    if (key_bytes % 16 != 0 || row_bytes % 16 != 0 || token.place == past_end) return;
    const int32_t row = without_full_bit(token.row);
    const int lane = int(threadIdx.x % 32);
    const fb_attention_record& r = b.record();
    const uint64_t key = row_address(key_plane(b.p, r), from.k, token.page, row);
    const uint64_t value = row_address(value_plane(b.p, r), from.v, token.value_page, row);
    if (lane < step_keys) prefetch_l2_bulk(reinterpret_cast<const void*>(key), key_bytes);
    if (lane >= 32 - step_keys) prefetch_l2_bulk(reinterpret_cast<const void*>(value), row_bytes);
}

// ---- queries of fp8 keys

// f16 holds the elements of a bf16 row that is times a power of two down to 2^-32 of the largest;
// what f16 rounds below that is beneath the rounding of the row's sums.
constexpr bool scales_queries = keys_widen && FB_Q_TYPE == FB_BF16;

// Exponent, as f32 has it, of the power of two that takes a row whose largest element is `top` to
// between 2^14 and 2^15.
FB_DEVICE uint32_t query_power(float top) {
    return 14 + 254 - max(__float_as_uint(top) >> 23, 15u);
}

FB_DEVICE uint32_t bf16_to_f16(uint32_t pair, float factor) {
    return pack_f16(bf16_low(pair) * factor, bf16_high(pair) * factor);
}

// Makes the queries in the tile f16, in the order of elements in which fp8 keys come: of 16, those
// at 4i and 4i + 1 in the first chunk, those at 4i + 2 and 4i + 3 in the second. A warp has a row.
FB_DEVICE void widen_queries(const Block& b) {
    constexpr int quads = 2 * key_chunks;
    constexpr int turns = (quads + 31) / 32;
    const int lane = int(threadIdx.x % 32);
    // Rows past the last are zeros, and stay so.
    const int rows = b.record().row_count;
    if (scales_queries && int(threadIdx.x) >= rows && threadIdx.x < FB_QUERY_TILE)
        b.state().units[threadIdx.x] = 1;
    FB_NO_UNROLL
    for (int row = b.warp(); row < rows; row += b.warps()) {
        uint2 x[turns];
        float top = 0;
        FB_UNROLL
        for (int i = 0; i < turns; i++) {
            const int quad = lane + i * 32;
            x[i] = make_uint2(0, 0);
            if (quad < quads)
                x[i] = *reinterpret_cast<const uint2*>(b.memory + KeyTile::at(row, quad / 2) +
                                                       quad % 2 * 8);
            top = fmaxf(top, fmaxf(fabsf(bf16_low(x[i].x)), fabsf(bf16_high(x[i].x))));
            top = fmaxf(top, fmaxf(fabsf(bf16_low(x[i].y)), fabsf(bf16_high(x[i].y))));
        }
        FB_UNROLL
        for (int distance = 16; distance > 0; distance /= 2)
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, distance));
        const uint32_t power = query_power(top);
        const float factor = __uint_as_float(power << 23);
        if (scales_queries && lane == 0)
            b.state().units[row] = __uint_as_float((254 - power) << 23);
        __syncwarp(); // all lanes have read their part of the row
        FB_UNROLL
        for (int i = 0; i < turns; i++) {
            const int quad = lane + i * 32;
            if (quad >= quads) continue;
            const uint32_t first = scales_queries ? bf16_to_f16(x[i].x, factor) : x[i].x;
            const uint32_t second = scales_queries ? bf16_to_f16(x[i].y, factor) : x[i].y;
            const int chunk = quad / 4 * 2, at = quad % 4 * 4;
            *reinterpret_cast<uint32_t*>(b.memory + KeyTile::at(row, chunk) + at) = first;
            *reinterpret_cast<uint32_t*>(b.memory + KeyTile::at(row, chunk + 1) + at) = second;
        }
    }
}

// ---- compute

// Queries stay in registers where they fit beside the sums.
constexpr bool keeps_queries = FB_KEY_DIM * row_blocks <= 256;
constexpr int key_steps = key_chunks / 2;

using Scores = Products<row_blocks, step_keys / 16, true>;

struct Sums {
    RowStates<row_blocks> rows;
    Products<row_blocks, value_chunks / 2, true> out;
    int scale_power; // of the largest value scale, where f16 holds probabilities times them
};

struct Queries {
    uint32_t tile;
    uint32_t kept[keeps_queries ? key_steps : 1][row_blocks][2];
};

FB_DEVICE void keep_queries(const Block& b, Queries& queries) {
    queries.tile = key_base<KeyTile>(b.shared);
    if constexpr (keeps_queries) {
        FB_UNROLL
        for (int step = 0; step < key_steps; step++)
            load_turned_queries<KeyTile>(queries.tile, step, queries.kept[step]);
    }
}

// A step's scores, of queries that are times their rows' units. Of few rows in two sums, so that
// each product waits for half as many others.
FB_DEVICE void score(const Block& b, uint32_t keys, const Queries& queries, Scores& s) {
    constexpr bool two_sums = row_blocks == 1;
    Scores odd;
    s.clear();
    odd.clear();
    FB_UNROLL
    for (int i = 0; i < key_steps; i++) {
        uint32_t q[row_blocks][2];
        if constexpr (keeps_queries) copy_words(queries.kept[i], q);
        else load_turned_queries<KeyTile>(queries.tile, i, q);
        Scores& sum = two_sums && i % 2 == 1 ? odd : s;
        if constexpr (keys_widen) add_wide_scores<KeyRows>(q, keys, i, sum.x);
        else add_turned_scores<KeyRows>(q, keys, i, sum.x);
    }
    if (two_sums) s.add(odd);
    if (!scales_queries) return;
    FB_UNROLL
    for (int i = 0; i < Scores::rows; i++) s.multiply_row(i, b.state().units[Scores::row(i)]);
}

FB_DEVICE void add_step(const Block& b, const KeptRange& range, int step, int stage,
                        const Bounds& bounds, float factor, const Queries& queries, Sums& sums) {
    Keys keys = {view_of(b.record(), b.own().tokens[stage])};
    keys.stored = true;
    if (!look_at_keys(b.p, b.record(), bounds, step_start(b, range, step), step_keys, keys)) return;
    const uint32_t from = b.ring_address() + stage * stage_bytes;
    const unsigned char* raw = b.ring() + stage * stage_bytes;
    if (keys_pass)
        change_rows<KeyRows, KeyChange, step_keys, 32>(
            b.p, raw, b.ring_address() + changed_keys_at, keys.run, int(threadIdx.x % 32));
    if (values_pass)
        change_rows<ValueRows, ValueChange, step_keys, 32>(b.p, raw + stage_keys,
                                                           b.ring_address() + changed_values_at,
                                                           keys.run, int(threadIdx.x % 32));
    if (keys_pass || values_pass) __syncwarp();
    if constexpr (rotates) {
        const int at = keys_pass ? changed_keys_at : stage * stage_bytes;
        rotate_keys<KeyTile, step_keys, 32, 4>(b.rotation(), b.ring() + at, keys.run.position,
                                               int(threadIdx.x % 32));
        __syncwarp();
    }
    const uint32_t own = b.ring_address();
    const uint32_t k = keys_pass ? own + changed_keys_at : from;
    const uint32_t v = values_pass ? own + changed_values_at : from + stage_keys;
    Scores s;
    score(b, keys_widen ? wide_base<KeyRows, step_keys>(k) : row_base<KeyRows>(k), queries, s);
    probabilities(b.p, b.state().rows, 0, keys, factor, s, sums.rows, sums.out);
    if constexpr (values_widen) {
        if (FB_V_TOKEN_SCALE) scale_f16_values(keys.run.v_scale, s, sums.scale_power, sums.out);
        add_wide_values<ValueRows>(s.x, wide_base<ValueRows, step_keys>(v), sums.out.x);
    } else {
        if (FB_V_TOKEN_SCALE) scale_values(keys.run.v_scale, 1, s);
        add_turned_values<ValueRows>(s.x, key_base<ValueRows>(v), sums.out.x);
    }
}

// ---- store

// Hands the warps' sums over and writes the rows.
FB_DEVICE void finish_sums(const Block& b, const Sums& sums) {
    const fb_attention_record& r = b.record();
    const int lane = int(threadIdx.x % 32);
    auto* own = reinterpret_cast<float*>(b.ring());
    const bool scaled = values_widen && FB_V_TOKEN_SCALE;
    const float unit = scaled ? scale_unit(sums.scale_power) : 1;
    FB_UNROLL
    for (int i = 0; i < Scores::rows; i++) {
        const int row = Scores::row(i);
        float* const to = own + row * sums_stride;
        float total = 0;
        FB_UNROLL
        for (int j = 0; j < value_chunks; j += 2) {
            const float x[2] = {sums.out.at(i, j) * unit, sums.out.at(i, j + 1) * unit};
            total += x[0] + x[1];
            // Of 16 columns of fp8, even ones and odd ones.
            const int column = values_widen ? j * 8 + 2 * own_row() : sums.out.column(j);
            to[column] = x[0];
            to[values_widen ? column + 1 : sums.out.column(j + 1)] = x[1];
        }
        const float base = sums.rows.base[i / 2][i % 2];
        const float sum = Scores::row_sum(sums.rows.sum[i / 2][i % 2]);
        // The eight lanes that have the row have its columns.
        const uint32_t wrong = __ballot_sync(0xffffffffu, is_wrong(base, sum, total));
        const bool any = (wrong & 0x11111111u << lane % 4) != 0;
        if (lane / 4 == 0) b.own().sums[row] = {any ? FB_INFINITY : base, sum};
    }
    __syncthreads();
    if constexpr (shares_keys) exchange_sums(b);
    constexpr int turns = FB_QUERY_TILE * row_pieces / warp_count;
    const auto piece_in = [&](int turn) { return b.warp() + turn * b.warps(); };
    const auto row_in = [&](int turn) { return piece_in(turn) / row_pieces; };
    uint32_t wrong = 0;
    FB_NO_UNROLL
    for (int turn = 0; row_in(turn) < r.row_count; turn++) {
        const int n = piece_in(turn);
        if (shares_keys && owner_of(n) != b.rank) continue;
        const bool written = shares_keys ? write_piece(b, piece_of(n), block_parts(b, n))
                                         : write_piece(b, piece_of(n), warp_parts(b, piece_of(n)));
        if (!written) wrong |= 1u << turn;
    }
    const int first = piece_of(b.warp()).first;
    attend_wrong<turns>(b.p, r, b.state().work.by_page, wrong, {first, piece_columns / 8},
                        first == 0, row_in, b.room());
    if constexpr (Variant::projects_output) project_outputs(b.p, r, b.room());
}

// ---- the record

// Scales and positions of tokens may be what kernels before write.
constexpr bool places_early =
    finds_first && !FB_K_TOKEN_SCALE && !FB_V_TOKEN_SCALE && !FB_KEY_POSITIONS;

// Bounds of the record's rows, by each warp for itself; the first one notes the rows for all.
FB_DEVICE Bounds describe_rows(const Block& b) {
    const fb_attention_record& r = b.record();
    RowFacts& rows = b.state().rows;
    Bounds bounds = no_bounds();
    const int i = int(threadIdx.x % 32);
    if (i < FB_QUERY_TILE) {
        const RowSight sight = sight_of(b.p, r, i);
        if (i < r.row_count) bounds.add(sight.low, sight.high);
        if (b.warp() == 0) note_sight(b.p, r, rows, i, sight);
    }
    bounds.join();
    return bounds;
}

// Returns this thread's part of the record that comes next; `first`: of the launch. Of a launch's
// first record all that does not follow from what other kernels write is found before the wait for
// these: a short request goes through this code once, and that takes longer than its keys.
FB_DEVICE int32_t attend(const Block& b, bool first) {
    const fb_attention_record& r = b.record();
    const bool early = first && found_early(b);
    if (first && !early) begin_beside(b.p);
    RowFacts& rows = b.state().rows;
    const Divider by_page = b.state().work.by_page;
    const Source source = source_of(b.p, r, by_page);
    KeptRange range = {r.kv_start, r.kv_end};
    const bool described = queries_change || needs_trim(r);
    Bounds bounds = no_bounds();
    if (described) {
        bounds = describe_rows(b);
        __syncthreads();
        if (needs_trim(r)) range = trim(b.p, r, bounds, by_page);
    }
    PagedToken found[FB_STAGES];
    FB_UNROLL
    for (int i = 0; i < FB_STAGES; i++) found[i] = ask(b, find_step(b, source, range, i));
    PagedToken ahead = ask(b, find_step(b, source, range, FB_STAGES));
    StepCopies copies;
    if (early) prefetch_rows(b, source, found[0]);
    if (early && !places_early) begin_beside(b.p);
    place_step(b, source, range, 0, 0, found[0], copies);
    const int thread = int(threadIdx.x);
    if constexpr (Variant::projects_query) {
        project_queries<warps_bytes>(b.p, r, rows, b.room().outputs, b.shared, thread);
    } else if constexpr (queries_change) {
        if (thread < FB_THREADS) load_queries<FB_THREADS>(b.p, r, rows, b.shared, thread);
    } else {
        QueryCopies<FB_THREADS> queries;
        queries.find(b.p, r, thread);
        if (early && places_early) begin_beside(b.p);
        if (thread < FB_THREADS) queries.start(b.shared, thread);
    }
    cp_async_commit();
    start_step(b, 0, copies);
    FB_UNROLL
    for (int i = 1; i < FB_STAGES; i++) copy_step(b, source, range, i, i, found[i]);
    if (!described) bounds = describe_rows(b);
    if (!shares_keys && b.warp() == warp_count - 1) note_merges(b.p, r, b.state().arrivals);
    const float factor = score_factor(b.p, r);
    cp_async_wait<FB_STAGES>();
    __syncthreads(); // rows and queries are there
    if (keys_widen) {
        widen_queries(b);
        __syncthreads();
    }
    if constexpr (rotates) {
        if (threadIdx.x < FB_THREADS)
            rotate_rows<KeyTile, FB_QUERY_TILE, FB_THREADS>(b.rotation(), b.memory, rows.position,
                                                            b.p.rope_factor, int(threadIdx.x));
        __syncthreads();
    }
    Queries queries;
    keep_queries(b, queries);
    Sums sums;
    sums.rows = no_state<row_blocks>();
    sums.scale_power = least_scale_power;
    sums.out.clear();
    // One stage means tiles so large that no register is left for the ticket.
    uint32_t drawn = 0;
    uint32_t& next = FB_STAGES > 1 ? drawn : b.state().work.next;
    if (range.start >= range.end && threadIdx.x == 0) next = take_ticket(b.p);
    int stage = 0;
    FB_NO_UNROLL
    for (int step = 0; step_start(b, range, step) < range.end; step++) {
        const int32_t left = range.end - step_start(b, range, step);
        if (left <= b.shares() * step_keys && threadIdx.x == 0) next = take_ticket(b.p);
        cp_async_wait<FB_STAGES - 1>();
        __syncwarp(); // the step's rows are there for all lanes
        add_step(b, range, step, stage, bounds, factor, queries, sums);
        copy_step(b, source, range, step + FB_STAGES, stage, ahead);
        ahead = ask(b, find_step(b, source, range, step + FB_STAGES + 1));
        stage = stage == FB_STAGES - 1 ? 0 : stage + 1;
    }
    cp_async_wait<0>();
    const int32_t word = fetch_record(b.p, threadIdx.x == 0 ? next : 0);
    finish_sums(b, sums);
    if (!shares_keys) merge_rows(b.p, r, b.merging(), b.state().arrivals);
    return word;
}
