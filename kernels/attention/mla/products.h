// The two products of a tile.
#pragma once
#include "../../ptx/wgmma.h"
#include "facts.h"

// Operands of pieces. K-major: rows are queries or tokens. Along tokens (values): `leading` leads
// from 64 columns to the next.
FB_DEVICE uint64_t row_operand(uint32_t address) {
    return wgmma_operand(address, 128, 16, 1024);
}
FB_DEVICE uint64_t value_operand(uint32_t address) {
    return wgmma_operand(address, 128, piece_bytes, 1024);
}
FB_DEVICE uint64_t operand_step(uint32_t bytes) { return bytes >> 4; }
