// Rows from global to shared memory by cp.async, row by row: where no box of a tensor map has them.
#pragma once
#include "facts.h"

// Where 16-byte pieces of rows lie: in panels, or one after the other. `row_bytes` and `next_eight`
// take one to the next row, and to the eighth piece after it.
template <int Panel> struct InPanels {
    static constexpr int row_bytes = panel_row;
    static constexpr int next_eight = Panel;
    static FB_DEVICE uint32_t at(int row, int piece) {
        return piece / 8 * Panel + row * panel_row + swizzled_piece(row, piece % 8);
    }
};
template <int Row> struct InRows {
    static constexpr int row_bytes = Row;
    static constexpr int next_eight = panel_row;
    static FB_DEVICE uint32_t at(int row, int piece) { return row * Row + piece * 16; }
};
template <bool Raw, int Row, int Panel> struct LayoutOf : InRows<Row> {};
template <int Row, int Panel> struct LayoutOf<false, Row, Panel> : InPanels<Panel> {};

// Of 32 rows the one that a lane knows: the eight lanes that copy every fourth row know these.
FB_DEVICE int row_of_lane() {
    const uint32_t lane = uint32_t(thread_now()) % 32;
    return int(lane % 8 * 4 + lane / 8);
}

// Where the lanes' rows begin, for the eight lanes that copy them: 16 bytes for each unit behind
// some place, or anywhere.
struct NearRows {
    uint64_t place;
    uint32_t unit;

    FB_DEVICE uint64_t from(int i, uint32_t piece) const {
        return place + piece * 16 + uint64_t(__shfl_sync(0xffffffffu, unit, i, 8)) * 16;
    }
};
struct FarRows {
    uint64_t address;

    FB_DEVICE uint64_t from(int i, uint32_t piece) const {
        return __shfl_sync(0xffffffffu, address, i, 8) + piece * 16;
    }
};

// Copies `count` rows, a multiple of 4, of the 32 that the lanes know; of lanes that are not in
// `there`, zeros. A warp that copies waits for nothing but its own instructions, so that what a
// step does not change is not computed in it.
template <class Layout, int RowBytes, class Rows>
FB_DEVICE void copy_rows_of(uint32_t to, int count, const Rows& rows, uint32_t there) {
    constexpr int pieces = RowBytes / 16;
    const uint32_t lane = uint32_t(thread_now()) % 32;
    const uint32_t piece = lane % 8;
    const uint32_t own = there >> (lane & 24);
    // The swizzle is the same every eight rows.
    const uint32_t even = to + Layout::at(lane / 8, piece);
    const uint32_t odd = to + Layout::at(lane / 8 + 4, piece);
    FB_UNROLL
    for (int i = 0; i < 8; i++) {
        if (4 * i >= count) break;
        const uint64_t from = rows.from(i, piece);
        const uint32_t row = (i % 2 == 0 ? even : odd) + i / 2 * 8 * Layout::row_bytes;
        FB_UNROLL
        for (int first = 0; first < pieces; first += 8)
            if (first + piece < pieces)
                cp_async_16_if(own & 1u << i, row + first / 8 * Layout::next_eight,
                               reinterpret_cast<const void*>(from + first * 16));
    }
}
