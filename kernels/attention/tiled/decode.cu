// Attention of up to 16 packed query rows: memory is what it waits for.
#include "warps.h"

#include "../../ptx/pdl.h"

FB_KERNEL(attention_decode, fb_attention_params, FB_THREADS, FB_MIN_BLOCKS) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, memory, shared_address(memory)};
    bool more = next_record(open_records(p, b.state().work), b.state().work);
    if (more) prefetch_step(b);
    pdl_wait();
    pdl_launch_dependents();
    while (more) more = next_record(attend(b), b.state().work);
    close_records(p);
}
