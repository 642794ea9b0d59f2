// Attention of many query rows on Hopper: a warpgroup loads tiles by bulk copies (TMA), another one
// changes them where they are not yet what products take, one to three compute by wgmma.
// docs/kernels/hopper.md draws it.
#include "compute.h"

#include "kernel.h"
