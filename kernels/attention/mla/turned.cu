// decode.cu for records of 16 or 32 rows.
#include "narrow.h"
#include "values.h"

#include "kernel.h"
