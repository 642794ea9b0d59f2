// Rotary embedding of new tokens: by itself, in place, and on the way into pages, where queries and
// keys are normalised before. Through f32, rounded once.
#include "../ptx/base.h"
#include "../params/rope.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "../page/append.h"
#include "unit.h"

// ---- facts

// Threads of a block. An item of the grid covers as many lanes: a head has head_lanes of them.
constexpr int rope_threads = 128;

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
    if (unit.pair >= 0) turn_unit(p.turn, unit, head.token, x);
    if (head.scale != 1) {
        FB_UNROLL
        for (int i = 0; i < 2 * chunk; i++) x[i / chunk][i % chunk] /= head.scale;
    }
    store_unit(head.target_dtype, head.target, unit, x);
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
        turn_unit(p.turn, unit, place.token, x);
        store_unit(heads.dtype, row, unit, x);
    }
}

// Asks the L2 cache for what says where a token stands and by what it turns.
FB_DEVICE void prefetch_places(const fb_rope_append_params& p, const HeadPlace& place) {
    const fb_append_params& append = p.append;
    if (place.token >= append.token_count) return;
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
FB_OPERATOR(norm_rope_append, fb_rope_append_params, rope_threads, 6, rope_threads) {
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
