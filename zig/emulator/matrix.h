// Numbers as the tensor cores read them.
#pragma once
#include "runtime.h"

namespace emu {

float fp8_to_float(uint8_t x, Number kind);
// The two or four elements of one register; returns how many.
int unpack(uint32_t word, Number kind, float* out);

} // namespace emu
