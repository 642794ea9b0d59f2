// Logits before tokens are chosen: bias, penalties for what was said, tokens that are not allowed.
#include "../ptx/base.h"
#include "../params/sampling.h"
#include "../ptx/pdl.h"
#include "../common/chunk.h"

// ---- facts

constexpr int adjust_threads = 256;
constexpr int adjust_elements = 2048;
constexpr int count_threads = 128;

static_assert(adjust_elements == adjust_threads * chunk, "a thread has a chunk");

struct Penalties {
    float repetition;
    float presence;
    float frequency;
};

// What is not allowed is as if it were not given.
FB_DEVICE Penalties penalties_of(const fb_adjust_params& p, int64_t row) {
    const auto number = [=](uint64_t rows, float of_all) {
        return rows == 0 ? of_all : items<const float>(rows)[row];
    };
    Penalties n = {number(p.repetitions, p.repetition), number(p.presences, p.presence),
                   number(p.frequencies, p.frequency)};
    if (!(n.repetition > 0 && n.repetition < FB_INFINITY)) n.repetition = 1;
    if (!(fabsf(n.presence) < FB_INFINITY)) n.presence = 0;
    if (!(fabsf(n.frequency) < FB_INFINITY)) n.frequency = 0;
    return n;
}

FB_DEVICE bool bit_of(const int32_t* words, int32_t token) {
    return uint32_t(words[token / 32]) >> token % 32 & 1;
}

// ---- compute

FB_DEVICE float penalised(float x, Penalties n, bool was_said, int32_t count) {
    if (was_said) x = x > 0 ? x / n.repetition : x * n.repetition;
    if (count > 0) x = x - n.frequency * float(count) - n.presence;
    return x;
}

// ---- the kernels

// Elements [adjust_elements * piece, ...) of a row, by pieces of all rows.
FB_OPERATOR(adjust_logits, fb_adjust_params, adjust_threads, 4, adjust_elements) {
    pdl_wait();
    pdl_launch_dependents();
    const int32_t pieces = (p.vocabulary + adjust_elements - 1) / adjust_elements;
    const int64_t row = int32_t(blockIdx.x) / pieces;
    const int32_t start = int32_t(blockIdx.x) % pieces * adjust_elements + threadIdx.x * chunk;
    if (row >= p.row_count || start >= p.vocabulary) return;
    const int32_t left = p.vocabulary - start;
    const int32_t count = left < chunk ? left : chunk;
    const int32_t bytes = element_bytes(p.dtype);
    const int64_t slot = p.slots == 0 ? row : items<const int32_t>(p.slots)[row];
    const bool has_slot = slot >= 0 && slot < p.slot_count;
    const int32_t* const counts = has_slot && p.counts != 0
        ? items<const int32_t>(p.counts) + slot * p.counts_stride : nullptr;
    const int32_t* const prompts = has_slot && p.prompts != 0
        ? items<const int32_t>(p.prompts) + slot * p.prompts_stride : nullptr;
    const int32_t* const allowed =
        p.allowed != 0 ? items<const int32_t>(p.allowed) + row * p.allowed_stride : nullptr;
    const Penalties n = penalties_of(p, row);
    float x[chunk];
    load_chunk(p.dtype, p.x + (row * p.x_stride + start) * bytes, count, x);
    float bias[chunk] = {};
    if (p.bias != 0) load_chunk(FB_F32, p.bias + (row * p.bias_stride + start) * 4, count, bias);
    for (int i = 0; i < count; i++) {
        const int32_t token = start + i;
        const int32_t said = counts != nullptr ? counts[token] : 0;
        const bool was_said = said > 0 || (prompts != nullptr && bit_of(prompts, token));
        x[i] = penalised(x[i] + bias[i], n, was_said, said);
        if (allowed != nullptr && !bit_of(allowed, token)) x[i] = -FB_INFINITY;
    }
    store_chunk(p.dtype, p.out + (row * p.out_stride + start) * bytes, count, x);
}

// Rows [count_threads * item, ...).
FB_OPERATOR(count_tokens, fb_count_tokens_params, count_threads, 1, count_threads) {
    pdl_wait();
    pdl_launch_dependents();
    const int64_t row = int64_t(blockIdx.x) * count_threads + threadIdx.x;
    if (row >= p.row_count) return;
    const int32_t token = items<const int32_t>(p.tokens)[row];
    const int64_t slot = p.slots == 0 ? row : items<const int32_t>(p.slots)[row];
    if (token < 0 || token >= p.vocabulary || slot < 0 || slot >= p.slot_count) return;
    // Two rows may be of one slot.
    atomicAdd(items<int32_t>(p.counts) + slot * p.counts_stride + token, 1);
}
