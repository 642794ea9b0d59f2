// decode.cu for records of 16 or 32 rows.
#include "wide.h"

#include "turned.h"
#include "values.h"

#include "kernel.h"
