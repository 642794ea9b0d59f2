// Attention of few packed query rows: memory is what it waits for.
#include "warps.h"

FB_KERNEL(attention_decode, fb_attention_params, FB_MOST_THREADS, FB_MIN_BLOCKS) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, memory, shared_address(memory), shares_keys ? int(cluster_rank()) : 0};
    Work& work = b.state().work;
    if constexpr (shares_keys) begin_sending(b);
    if constexpr (rotates) begin_rotation(p, b.rotation(), row_stride(step_keys, 32));
    bool first = true;
    int32_t word = open_records(p, work);
    if (shares_keys) cluster_wait(); // the first record is on its way
    while (next_record(word, work)) {
        word = attend(b, first);
        first = false;
        if (!shares_records(p)) break; // a block has one record
    }
    if (first) begin_beside(p);
    close_records(p);
    end_beside(p);
}
