// decode.cu for keys of 8 bits.
#include "bytes.h"

#include "turned.h"
#include "values.h"

#include "kernel.h"
