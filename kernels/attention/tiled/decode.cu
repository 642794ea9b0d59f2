// Attention of up to 16 packed query rows. Rows too wide for a warp's registers are shared out.
#include "../../ptx/pdl.h"

#include "facts.h"

#if FB_KEY_DIM <= 256 && FB_VALUE_DIM <= 256
#include "warps.h"
#else
#include "block.h"
#endif

FB_KERNEL(attention_decode, fb_attention_params, FB_THREADS, FB_MIN_BLOCKS) {
    FB_DYNAMIC_SHARED(memory);
    const Block b = {p, memory, shared_address(memory)};
    pdl_wait();
    int32_t word = record_word(p, blockIdx.x);
    while (next_record(word, b.state().work)) word = attend(b);
    pdl_launch_dependents();
    close_queue(p);
}
