// The hooks of variants over a few rows and keys. The test writes a kernel behind it that chooses
// among variants.
#include "attention/hooks.h"

// q: int32 [8 inputs, row]; k.data: int32 [2 inputs, key]; partial_out: f32 x [row, key];
// out: f32 [row, key]. Keys are slots of the record count, rows the rest of the threads.
template <class V> FB_DEVICE void probe_logits(const fb_attention_params& p) {
    const int keys = p.record_count;
    const int rows = int(blockDim.x) / keys;
    const int row = int(threadIdx.x) / keys;
    const int key = int(threadIdx.x) % keys;
    const auto* of_rows = reinterpret_cast<const int32_t*>(p.q) + row;
    const auto* of_keys = reinterpret_cast<const int32_t*>(p.k.data) + key;
    const RowInputs row_inputs = {of_rows[0],        of_rows[rows],     of_rows[2 * rows],
                                  of_rows[3 * rows], of_rows[4 * rows], of_rows[5 * rows],
                                  of_rows[6 * rows], of_rows[7 * rows]};
    const KeyInputs key_inputs = {of_keys[0], of_keys[keys], 0};
    const float x = reinterpret_cast<const float*>(p.partial_out)[threadIdx.x];
    const Pair pair = {x, V::logits_factor(p), true};
    reinterpret_cast<float*>(p.out)[threadIdx.x] =
        V::logits(p, V::row(p, row_inputs), V::key_words(p, key_inputs), pair);
}
