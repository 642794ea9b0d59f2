// Rotary embedding of new tokens: through f32, rounded once.
#include "../ptx/base.h"
#include "../params/rope.h"
#include "../ptx/pdl.h"
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

// ---- the kernels

// Turns lanes [rope_threads * item, ...) of queries and keys.
FB_OPERATOR(apply_rope, fb_rope_params, rope_threads, 8, rope_threads) {
    pdl_wait();
    pdl_launch_dependents();
    const HeadPlace place = place_of(p.heads[0].count + p.heads[1].count, p.head_lanes);
    if (place.token >= p.token_count) return;
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
