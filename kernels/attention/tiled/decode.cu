// Attention of up to 16 packed query rows: memory is what it waits for.
#include "warps.h"

#include "../../ptx/pdl.h"

FB_KERNEL(attention_decode, fb_attention_params, FB_THREADS, FB_MIN_BLOCKS) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, memory, shared_address(memory)};
    int32_t word = open_records(p, b.state().work);
    pdl_wait();
    pdl_launch_dependents();
    while (next_record(word, b.state().work)) word = attend(b);
    close_records(p);
}
