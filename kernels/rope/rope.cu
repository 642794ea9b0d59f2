// Rotary embedding of new tokens: by itself, in place, and on the way into pages, where queries and
// keys are normalised before. Through f32, rounded once.
#include "../ptx/base.h"
#include "../params/rope.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "../common/even.h"
#include "../page/append.h"
#include "unit.h"

// ---- facts

// Threads of a block. An item of the grid covers as many lanes: a head has head_lanes of them.
constexpr int rope_threads = 128;
// Even heads that a lane holds, a slot: their loads are in flight together.
constexpr int held_heads = 2;

// ---- where things lie

// A head of a token, and the lane of it that a thread is.
struct HeadPlace {
    int32_t token;
    int32_t head;
    int32_t lane;
};

FB_DEVICE HeadPlace place_of(int32_t heads, int32_t head_lanes) {
    const int32_t row = blockIdx.x * (rope_threads / head_lanes) + threadIdx.x / head_lanes;
    const int32_t token = row / heads;
    return {token, row - token * heads, int32_t(threadIdx.x) % head_lanes};
}

// A head that is read, normalised if it has weights, turned, and written.
struct Head {
    int32_t token;
    int32_t unit_count;
    int32_t dim;
    bool turns;
    uint64_t source;
    uint64_t target;
    uint64_t weight;
    int32_t source_dtype;
    int32_t target_dtype;
    int32_t weight_dtype;
    float scale;
};

FB_DEVICE Unit unit_of(const fb_turn_params& t, const Head& head, int32_t index) {
    if (!head.turns) return straight_unit(2 * chunk * index, head.dim);
    const int32_t turning = unit_count(t.dim);
    const int32_t before = unit_count(t.first);
    if (index < turning) return turning_unit(t, index);
    if (index < turning + before) return straight_unit(2 * chunk * (index - turning), t.first);
    return straight_unit(t.first + t.dim + 2 * chunk * (index - turning - before), head.dim);
}

FB_DEVICE void find_query(const fb_rope_append_params& p, int32_t head, Head& at) {
    at.source = head_address(p.queries, at.token, head);
    at.target = head_address(p.query_out, at.token, head);
    at.source_dtype = p.queries.dtype;
    at.target_dtype = p.query_out.dtype;
    at.scale = 1;
}

// False: the token is not kept.
FB_DEVICE bool find_row(const fb_append_params& p, int32_t plane, int32_t head, Head& at) {
    const AppendTarget target = target_of(p, at.token);
    if (target.page < 0) return false;
    at.source_dtype = p.source_dtypes[plane];
    at.target_dtype = p.plane_dtypes[plane];
    at.source = source_address(p, plane, at.token, head, element_bytes(at.source_dtype));
    at.target = row_address(p.planes[plane], target, head, element_bytes(at.target_dtype));
    at.scale = p.scales[plane].data == 0 ? 1 : scale_of(p, plane, at.token, target, head);
    return true;
}

// Heads of queries come first, then those of keys and of values. Padding has no units.
FB_DEVICE Head head_of(const fb_rope_append_params& p, const HeadPlace& place) {
    const fb_append_params& append = p.append;
    Head at = {};
    at.token = place.token;
    if (place.token >= append.token_count) return at;
    if (items<const int32_t>(append.token_requests)[place.token] < 0) return at;
    const int32_t key = place.head - p.queries.count;
    const bool is_value = key >= append.heads[0];
    const int32_t side = key < 0 ? 0 : 1;
    if (key < 0) find_query(p, place.head, at);
    else if (!find_row(append, is_value, is_value ? key - append.heads[0] : key, at)) return at;
    at.turns = !is_value;
    at.dim = append.dims[is_value];
    at.weight = is_value ? 0 : p.weights[side];
    at.weight_dtype = p.weight_dtypes[side];
    const int32_t rest = at.dim - p.turn.first - p.turn.dim;
    at.unit_count = is_value ? unit_count(at.dim)
                             : unit_count(p.turn.dim) + unit_count(p.turn.first) + unit_count(rest);
    return at;
}

// ---- compute

FB_DEVICE float square_sum(const float (&x)[2][chunk], float sum) {
    FB_UNROLL
    for (int i = 0; i < 2 * chunk; i++)
        sum = fmaf(x[i / chunk][i % chunk], x[i / chunk][i % chunk], sum);
    return sum;
}

FB_DEVICE void multiply_unit(const fb_rope_append_params& p, const Head& head, const Unit& unit,
                             float factor, float (&x)[2][chunk]) {
    FB_UNROLL
    for (int c = 0; c < 2; c++) {
        float weight[chunk];
        const uint64_t address = head.weight + element_bytes(head.weight_dtype) * unit.at[c];
        load_chunk(head.weight_dtype, address, unit.count[c], weight);
        FB_UNROLL
        for (int i = 0; i < chunk; i++) x[c][i] *= factor * (weight[i] + p.weight_offset);
    }
}

FB_DEVICE void finish_unit(const fb_rope_append_params& p, const Head& head, const Unit& unit,
                           float factor, float (&x)[2][chunk]) {
    if (head.weight != 0) multiply_unit(p, head, unit, factor, x);
    if (unit.pair >= 0) turn_unit(p.turn, angles_of(p.turn, unit.pair, head.token), x);
    if (head.scale != 1) {
        FB_UNROLL
        for (int i = 0; i < 2 * chunk; i++) x[i / chunk][i % chunk] /= head.scale;
    }
    store_unit(head.target_dtype, head.target, unit, x);
}

// ---- even heads: 16-bit numbers in whole units at multiples of 16 bytes, as src/ops/apply-rope.ts
// asks for. A lane has one unit of each of several heads of a token, whose angles, weights and slot
// it finds once.

// Neighbouring heads of queries (side 0), keys or values.
struct HeldHeads {
    int32_t side;
    int32_t first;
    int32_t count; // at most held_heads
};

FB_DEVICE int32_t slots_of(int32_t heads) { return (heads + held_heads - 1) / held_heads; }

// Those of a slot: each side begins with a slot of its own.
FB_DEVICE HeldHeads heads_of(int32_t slot, int32_t queries, int32_t keys, int32_t values) {
    const int32_t key = slot - slots_of(queries), value = key - slots_of(keys);
    const int32_t side = value >= 0 ? 2 : key >= 0 ? 1 : 0;
    const int32_t first = held_heads * (side == 2 ? value : side == 1 ? key : slot);
    const int32_t left = (side == 2 ? values : side == 1 ? keys : queries) - first;
    return {side, first, left < held_heads ? left : held_heads};
}

FB_DEVICE Unit even_unit(const fb_turn_params& t, int32_t index) {
    const int32_t turning = t.dim / (2 * chunk);
    if (index < turning) return turning_unit(t, index);
    const int32_t start = 2 * chunk * (index - turning);
    return straight_unit(start < t.first ? start : start + t.dim, 1 << 30);
}

FB_DEVICE void load_even_unit(uint64_t row, const Unit& unit, uint4 (&raw)[2]) {
    raw[0] = load_even(row, unit.at[0]);
    raw[1] = load_even(row, unit.at[1]);
}

template <int type> FB_DEVICE void widen_unit(const uint4 (&raw)[2], float (&x)[2][chunk]) {
    widen_8<type>(&raw[0], x[0]);
    widen_8<type>(&raw[1], x[1]);
}

FB_DEVICE void turn_even(const fb_rope_params& p) {
    const int32_t queries = p.heads[0].count, keys = p.heads[1].count;
    const HeadPlace place = place_of(slots_of(queries) + slots_of(keys), p.head_lanes);
    if (place.token >= p.token_count || place.lane >= p.turn.dim / (2 * chunk)) return;
    if (p.live != 0 && place.token >= *items<const int32_t>(p.live)) return;
    const Unit unit = turning_unit(p.turn, place.lane);
    const HeldHeads held = heads_of(place.head, queries, keys, 0);
    const fb_heads& heads = p.heads[held.side];
    const uint64_t row = head_address(heads, place.token, held.first);
    const int64_t step = 2 * heads.stride_head;
    uint4 raw[held_heads][2];
    FB_UNROLL
    for (int i = 0; i < held_heads; i++)
        if (i < held.count) load_even_unit(row + i * step, unit, raw[i]);
    const UnitAngles angles = angles_of(p.turn, unit.pair, place.token);
    FB_UNROLL
    for (int i = 0; i < held_heads; i++) {
        if (i >= held.count) break;
        float x[2][chunk];
        widen_even(heads.dtype, raw[i][0], x[0]);
        widen_even(heads.dtype, raw[i][1], x[1]);
        turn_unit(p.turn, angles, x);
        FB_UNROLL
        for (int c = 0; c < 2; c++)
            store_raw(row + i * step, unit.at[c], round_even(heads.dtype, x[c]));
    }
}

// 1 / the root of the mean square, of each head: `sums` are those of lanes.
FB_DEVICE void norm_factors(const fb_rope_append_params& p, float (&sums)[held_heads]) {
    for (int distance = p.head_lanes / 2; distance > 0; distance /= 2) {
        FB_UNROLL
        for (int i = 0; i < held_heads; i++)
            sums[i] += __shfl_xor_sync(~0u, sums[i], distance);
    }
    const float share = 1.0f / p.append.dims[0];
    FB_UNROLL
    for (int i = 0; i < held_heads; i++)
        sums[i] = inverse_root(fmaf(sums[i], share, p.eps));
}

// Where heads go: the first one, bytes to the next, and their type.
struct HeldTarget {
    uint64_t row;
    int64_t step;
    int32_t dtype;
};

FB_DEVICE HeldTarget held_target(const fb_rope_append_params& p, int32_t token,
                                 const HeldHeads& held, const AppendTarget& target) {
    if (held.side == 0) {
        const fb_heads& out = p.query_out;
        return {head_address(out, token, held.first), 2 * out.stride_head, out.dtype};
    }
    const fb_plane& plane = p.append.planes[held.side - 1];
    const int32_t dtype = p.append.plane_dtypes[held.side - 1], bytes = element_bytes(dtype);
    return {row_address(plane, target, held.first, bytes), bytes * plane.stride_head, dtype};
}

// A lane's unit of the heads of one slot, as they are read.
struct HeldUnits {
    uint4 raw[held_heads][2];

    FB_DEVICE void load(const fb_rope_append_params& p, int32_t token, const HeldHeads& held,
                        const Unit& unit) {
        const fb_append_params& append = p.append;
        const int plane = held.side == 2;
        const uint64_t source = held.side == 0
                                    ? head_address(p.queries, token, held.first)
                                    : source_address(append, plane, token, held.first, 2);
        const int64_t step =
            2 * (held.side == 0 ? p.queries.stride_head : append.source_stride_head[plane]);
        FB_UNROLL
        for (int i = 0; i < held_heads; i++)
            if (i < held.count) load_even_unit(source + i * step, unit, raw[i]);
    }
};

// What a lane knows of its token.
struct HeldToken {
    int32_t token;
    Unit unit;
    UnitAngles angles;
    AppendTarget target;
};

// Lanes of a warp come here together; without heads they only take part in sums.
template <int type>
FB_DEVICE void append_heads(const fb_rope_append_params& p, const HeldToken& at,
                            const HeldHeads& held, const HeldUnits& units) {
    const fb_append_params& append = p.append;
    const int plane = held.side == 2;
    const uint64_t weights = held.side < 2 && held.count > 0 ? p.weights[held.side] : 0;
    float factors[held_heads] = {};
    if ((p.weights[0] | p.weights[1]) != 0) {
        FB_UNROLL
        for (int i = 0; i < held_heads; i++) {
            float x[2][chunk];
            widen_unit<type>(units.raw[i], x);
            factors[i] = square_sum(x, 0);
        }
        norm_factors(p, factors);
    }
    if (held.count <= 0 || (held.side > 0 && at.target.page < 0)) return;
    const HeldTarget out = held_target(p, at.token, held, at.target);
    FB_UNROLL
    for (int i = 0; i < held_heads; i++) {
        if (i >= held.count) break;
        float x[2][chunk];
        widen_unit<type>(units.raw[i], x);
        FB_UNROLL
        for (int c = 0; c < 2; c++) {
            if (weights == 0) break;
            float weight[chunk];
            load_term(p.weight_dtypes[held.side], weights, at.unit.at[c], weight);
            FB_UNROLL
            for (int j = 0; j < chunk; j++) x[c][j] *= factors[i] * (weight[j] + p.weight_offset);
        }
        if (held.side < 2 && at.unit.pair >= 0) turn_unit(p.turn, at.angles, x);
        if (held.side > 0 && append.scales[plane].data != 0) {
            const float scale = scale_of(append, plane, at.token, at.target, held.first + i);
            FB_UNROLL
            for (int j = 0; j < 2 * chunk; j++) x[j / chunk][j % chunk] /= scale;
        }
        FB_UNROLL
        for (int c = 0; c < 2; c++)
            store_even(out.dtype, out.row + i * out.step, at.unit.at[c], x[c]);
    }
}

// A lane takes every groups-th slot of its token.
template <int type>
FB_DEVICE void append_even(const fb_rope_append_params& p, const HeadPlace& place,
                           int32_t groups) {
    const fb_append_params& append = p.append;
    const int32_t token = place.token;
    const bool has_unit =
        token < append.token_count && place.lane < append.dims[0] / (2 * chunk);
    HeldToken at = {token, even_unit(p.turn, place.lane), {}, {-1, 0}};
    const auto heads = [&](int32_t turn) {
        HeldHeads held = heads_of(place.head + turn * groups, p.queries.count, append.heads[0],
                                  append.heads[1]);
        if (!has_unit || turn >= p.turns) held.count = 0;
        return held;
    };
    HeldHeads held = heads(0);
    HeldUnits units = {};
    // Those of padding too: heads need not wait for what says that they are.
    units.load(p, token, held, at.unit);
    const bool works = has_unit && items<const int32_t>(append.token_requests)[token] >= 0;
    if (append.key_positions != 0 && place.head == 0 && place.lane == 0)
        append_position(append, token);
    if (works) {
        at.target = target_of(append, token);
        if (at.unit.pair >= 0) at.angles = angles_of(p.turn, at.unit.pair, token);
    }
    FB_NO_UNROLL
    for (int32_t turn = 0; turn < p.turns; turn++) {
        if (turn > 0) {
            held = heads(turn);
            units.load(p, token, held, at.unit);
        }
        if (!works) held.count = 0;
        append_heads<type>(p, at, held, units);
    }
}

// ---- the kernels

// Turns lanes [rope_threads * item, ...) of queries and keys.
FB_OPERATOR(apply_rope, fb_rope_params, rope_threads, 8, rope_threads) {
    pdl_wait();
    pdl_launch_dependents();
    const HeadPlace place = place_of(p.heads[0].count + p.heads[1].count, p.head_lanes);
    if (place.token >= p.token_count) return;
    if (p.live != 0 && place.token >= *items<const int32_t>(p.live)) return;
    const bool is_key = place.head >= p.heads[0].count;
    const fb_heads& heads = p.heads[is_key];
    const int32_t head = is_key ? place.head - p.heads[0].count : place.head;
    const uint64_t row = head_address(heads, place.token, head);
    for (int32_t index = place.lane; index < unit_count(p.turn.dim); index += p.head_lanes) {
        const Unit unit = turning_unit(p.turn, index);
        float x[2][chunk];
        load_unit(heads.dtype, row, unit, x);
        turn_unit(p.turn, angles_of(p.turn, unit.pair, place.token), x);
        store_unit(heads.dtype, row, unit, x);
    }
}

// So many ask: each other block would wait for the same few lines (docs/performance.md, one H200).
constexpr int asking_blocks = 128;

// Asks the L2 cache for what says where a token stands and by what it turns.
FB_DEVICE void prefetch_places(const fb_rope_append_params& p, const HeadPlace& place) {
    const fb_append_params& append = p.append;
    if (blockIdx.x >= asking_blocks || place.token >= append.token_count) return;
    if (place.lane == 0) {
        prefetch_l2(items<const int32_t>(append.token_requests) + place.token);
        prefetch_l2(items<const int32_t>(p.turn.positions) + place.token);
        if (append.slot_mapping != 0)
            prefetch_l2(items<const int32_t>(append.slot_mapping) + place.token);
    }
    if (place.lane < p.turn.dim / 32)
        prefetch_l2(items<const uint4>(p.turn.rates) + 8 * place.lane);
}

// Normalises and turns lanes [rope_threads * item, ...), and writes keys and values into their
// slots. A lane keeps its first unit from the sum to the end.
FB_OPERATOR(norm_rope_append, fb_rope_append_params, rope_threads, 5, rope_threads) {
    const int32_t heads = p.queries.count + p.append.heads[0] + p.append.heads[1];
    const HeadPlace place = place_of(heads, p.head_lanes);
    prefetch_places(p, place);
    pdl_wait();
    pdl_launch_dependents();
    const Head head = head_of(p, place);
    if (p.append.key_positions != 0 && place.head == 0 && place.lane == 0)
        append_position(p.append, place.token);
    const bool works = place.lane < head.unit_count;
    Unit unit = {};
    float x[2][chunk] = {};
    float sum = 0;
    if (works) {
        unit = unit_of(p.turn, head, place.lane);
        load_unit(head.source_dtype, head.source, unit, x);
        sum = square_sum(x, 0);
    }
    if ((p.weights[0] | p.weights[1]) != 0) {
        for (int32_t index = place.lane + p.head_lanes; index < head.unit_count;
             index += p.head_lanes) {
            float more[2][chunk];
            load_unit(head.source_dtype, head.source, unit_of(p.turn, head, index), more);
            sum = square_sum(more, sum);
        }
        for (int32_t distance = p.head_lanes / 2; distance > 0; distance /= 2)
            sum += __shfl_xor_sync(~0u, sum, distance);
    }
    if (!works) return;
    const float factor = 1 / sqrtf(sum / head.dim + p.eps);
    finish_unit(p, head, unit, factor, x);
    for (int32_t index = place.lane + p.head_lanes; index < head.unit_count;
         index += p.head_lanes) {
        unit = unit_of(p.turn, head, index);
        load_unit(head.source_dtype, head.source, unit, x);
        finish_unit(p, head, unit, factor, x);
    }
}

// The same of even heads.
FB_OPERATOR(apply_rope_even, fb_rope_params, rope_threads, 8, rope_threads) {
    pdl_wait();
    pdl_launch_dependents();
    turn_even(p);
}

// Other GPUs turn bf16 by more instructions, whose registers five blocks do not leave.
constexpr int append_blocks = FB_ARCH >= 900 ? 5 : 4;

FB_OPERATOR(norm_rope_append_even, fb_rope_append_params, rope_threads, append_blocks,
            rope_threads) {
    const int32_t* const kept = p.append.heads;
    const int32_t slots = slots_of(p.queries.count) + slots_of(kept[0]) + slots_of(kept[1]);
    const int32_t groups = (slots + p.turns - 1) / p.turns;
    const HeadPlace place = place_of(groups, p.head_lanes);
    prefetch_places(p, place);
    pdl_wait();
    pdl_launch_dependents();
    if (p.queries.dtype == FB_F16) append_even<FB_F16>(p, place, groups);
    else append_even<FB_BF16>(p, place, groups);
}
