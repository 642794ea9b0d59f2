// Which experts tokens go to: a warp has a token, and the block that ends last sorts the entries.
#include "../ptx/base.h"
#include "../params/moe.h"
#include "../ptx/memory.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int route_threads = 256;
constexpr int route_tokens = 8;
constexpr int experts_most = 1024;

static_assert(route_threads == 32 * route_tokens, "a warp has a token");
static_assert(route_tokens * experts_most * 4 <= 40 * 1024, "keys are in static shared memory");

// ---- load

FB_DEVICE float load_logit(const fb_route_params& p, int32_t token, int32_t expert) {
    const int64_t at = token * p.logits_stride + expert;
    float x;
    switch (p.dtype) {
    case FB_F32: x = items<const float>(p.logits)[at]; break;
    case FB_F16: x = f16_to_float(items<const uint16_t>(p.logits)[at]); break;
    default: x = bf16_to_float(items<const uint16_t>(p.logits)[at]);
    }
    return x == x ? x : -FB_INFINITY;
}

// ---- compute

FB_DEVICE float warp_max(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, distance));
    return x;
}

FB_DEVICE float warp_sum(float x) {
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(~0u, x, distance);
    return x;
}

// What logits become scores by: the largest of a token, and the sum of exponentials.
struct Softmax {
    float largest, sum;
};

FB_DEVICE float score_of(const fb_route_params& p, const Softmax& softmax, float logit) {
    return p.sigmoid ? 1 / (1 + expf(-logit)) : expf(logit - softmax.largest) / softmax.sum;
}

// Key e belongs to lane e % 32, which alone reads and writes it.
FB_DEVICE Softmax load_keys(const fb_route_params& p, int32_t token, float* keys) {
    const int lane = threadIdx.x % 32;
    Softmax softmax = {-FB_INFINITY, 0};
    for (int e = lane; e < p.expert_count; e += 32) {
        keys[e] = load_logit(p, token, e);
        softmax.largest = fmaxf(softmax.largest, keys[e]);
    }
    softmax.largest = warp_max(softmax.largest);
    for (int e = lane; e < p.expert_count; e += 32)
        softmax.sum += expf(keys[e] - softmax.largest);
    softmax.sum = warp_sum(softmax.sum);
    if (p.bias != 0) {
        for (int e = lane; e < p.expert_count; e += 32) {
            const float key = score_of(p, softmax, keys[e]) + items<const float>(p.bias)[e];
            keys[e] = key == key ? key : -FB_INFINITY;
        }
    }
    return softmax;
}

// The largest key that is not NaN, as those that were taken are and no others; of several the one
// of the lowest index.
FB_DEVICE int32_t take_largest(const fb_route_params& p, float* keys) {
    float largest = -FB_INFINITY;
    int32_t best = p.expert_count;
    for (int e = threadIdx.x % 32; e < p.expert_count; e += 32) {
        const bool is_first = best == p.expert_count && keys[e] == keys[e];
        if (!(keys[e] > largest || is_first)) continue;
        largest = keys[e];
        best = e;
    }
    FB_UNROLL
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(~0u, largest, distance);
        const int32_t index = __shfl_xor_sync(~0u, best, distance);
        if (!(other > largest || (other == largest && index < best))) continue;
        largest = other;
        best = index;
    }
    if (threadIdx.x % 32 == best % 32) keys[best] = __int_as_float(0x7fffffff);
    return best;
}

// Takes the keys of all groups but the best ones; a lane has a group.
FB_DEVICE void drop_groups(const fb_route_params& p, float* keys) {
    const int lane = threadIdx.x % 32;
    const int size = p.expert_count / p.group_count;
    const bool has_group = lane < p.group_count;
    float largest = -FB_INFINITY, second = -FB_INFINITY;
    __syncwarp();
    for (int e = lane * size; has_group && e < (lane + 1) * size; e++) {
        const float key = keys[e];
        if (key > largest) {
            second = largest;
            largest = key;
        } else if (key > second)
            second = key;
    }
    const float score = p.group_best == 2 ? largest + second : largest;
    int before = 0;
    for (int group = 0; group < p.group_count; group++) {
        const float other = __shfl_sync(~0u, score, group);
        before += other > score || (other == score && group < lane);
    }
    const uint32_t dropped = __ballot_sync(~0u, has_group && before >= p.groups_kept);
    // Each lane its own keys, as everywhere.
    for (int e = lane; e < p.expert_count; e += 32)
        if (dropped >> (e / size) & 1) keys[e] = __int_as_float(0x7fffffff);
}

FB_DEVICE void choose_experts(const fb_route_params& p, int32_t token, float* keys) {
    const Softmax softmax = load_keys(p, token, keys);
    if (p.group_count > 1) drop_groups(p, keys);
    int32_t* const experts = items<int32_t>(p.experts) + int64_t(token) * p.top_k;
    float* const weights = items<float>(p.weights) + int64_t(token) * p.top_k;
    float total = 0, own = 0;
    for (int32_t slot = 0; slot < p.top_k; slot++) {
        const int32_t expert = take_largest(p, keys);
        const float score = score_of(p, softmax, load_logit(p, token, expert));
        total += score;
        if (threadIdx.x % 32 != slot) continue;
        experts[slot] = expert;
        own = score;
    }
    if (int(threadIdx.x % 32) >= p.top_k) return;
    weights[threadIdx.x % 32] = (p.renormalize ? own / total : own) * p.scale;
}

// ---- store

// Entries by experts, in their order: counts, then where each expert's begin, then places.
FB_DEVICE void sort_entries(const fb_route_params& p, int32_t* next) {
    const int32_t count = p.token_count * p.top_k;
    const int32_t* const experts = items<const int32_t>(p.experts);
    for (int e = threadIdx.x; e < p.expert_count; e += route_threads) next[e] = 0;
    __syncthreads();
    for (int32_t i = threadIdx.x; i < count; i += route_threads) atomicAdd(next + experts[i], 1);
    __syncthreads();
    if (threadIdx.x < 32) {
        int32_t before = 0;
        for (int first = 0; first < p.expert_count; first += 32) {
            const int e = first + threadIdx.x;
            const int32_t own = e < p.expert_count ? next[e] : 0;
            int32_t sum = own;
            FB_UNROLL
            for (int distance = 1; distance < 32; distance *= 2) {
                const int32_t lower = __shfl_up_sync(~0u, sum, distance);
                if (int(threadIdx.x) >= distance) sum += lower;
            }
            if (e < p.expert_count) {
                next[e] = before + sum - own;
                items<int32_t>(p.starts)[e] = next[e];
            }
            before += __shfl_sync(~0u, sum, 31);
        }
        if (threadIdx.x == 0) items<int32_t>(p.starts)[p.expert_count] = before;
    }
    for (int32_t first = 0; first < count; first += route_threads) {
        const int32_t i = first + threadIdx.x;
        const int32_t expert = i < count ? experts[i] : -1;
        const uint32_t same = __match_any_sync(~0u, expert);
        const uint32_t lower = same & ((1u << threadIdx.x % 32) - 1);
        for (int warp = 0; warp < route_threads / 32; warp++) {
            __syncthreads();
            if (int(threadIdx.x / 32) != warp) continue;
            const int32_t begin = expert < 0 ? 0 : next[expert];
            __syncwarp();
            if (expert < 0) continue;
            const int32_t place = begin + __popc(lower);
            items<int32_t>(p.rows)[place] = i / p.top_k;
            items<int32_t>(p.places)[i] = place;
            if (lower == 0) next[expert] = begin + __popc(same);
        }
    }
}

// ---- the kernel

// Tokens [route_tokens * item, ...).
FB_OPERATOR(moe_route, fb_route_params, route_threads, 2, route_tokens) {
    FB_SHARED(float, keys, [route_tokens * experts_most]);
    FB_SHARED(int32_t, is_last, [1]);
    pdl_wait();
    pdl_launch_dependents();
    const int warp = threadIdx.x / 32;
    const int32_t token = blockIdx.x * route_tokens + warp;
    if (token < p.token_count) choose_experts(p, token, keys + warp * experts_most);
    __syncthreads();
    if (threadIdx.x == 0) {
        const bool last = atomic_add_acq_rel_4(items<void>(p.ticket), 1) == gridDim.x - 1;
        if (last) *items<int32_t>(p.ticket) = 0;
        is_last[0] = last;
    }
    __syncthreads();
    if (is_last[0]) sort_entries(p, reinterpret_cast<int32_t*>(keys));
}
