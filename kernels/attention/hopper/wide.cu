// prefill.cu for rows whose sums do not fit a warpgroup's registers: one scores 64 rows, the others
// have some of the values' columns each.
#include "score.h"
#include "values.h"

// Who computes.
FB_DEVICE void compute_rows(const Block& b) {
    if (uniform(thread_now() / 128) == first_computing) {
        registers_increase<scoring_registers>();
        Score(b).run();
    } else {
        registers_increase<computing_registers>();
        Multiply(b).run();
    }
}

#include "kernel.h"
