// Decode of multi-head latent attention (DeepSeek): one latent key of 576 elements for all heads,
// whose first 512 are the value. docs/kernels/mla.md draws the roles and their barriers.
#include "score.h"
#include "sums.h"
#include "values.h"

#include "kernel.h"
