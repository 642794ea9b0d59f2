// Attention of many query rows: a block takes 64 or 128 packed rows against tiles of keys; or up
// to 16, whose keys or values, above 256 elements, do not fit the registers of one warp.
#include "block.h"

FB_KERNEL(attention_prefill, fb_attention_params, FB_THREADS, FB_MIN_BLOCKS) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, memory, shared_address(memory)};
    int32_t word = open_records(p, b.state().work);
    if constexpr (rotates) begin_rotation(p, b.rotation(), row_stride(FB_KV_TILE, FB_THREADS));
    begin_beside(p);
    while (next_record(word, b.state().work)) word = attend(b);
    close_records(p);
    end_beside(p);
}
