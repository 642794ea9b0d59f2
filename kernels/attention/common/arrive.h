// Split rows merge in the block whose part comes last, in the order of their parts: no launch of
// its own has to.
#pragma once
#include "../merge.h"
#include "records.h"

// Counters of merges lie behind those of tickets.
constexpr int merge_counters_at = 64;

static_assert(FB_QUERY_TILE <= 32, "a record's rows are in as many merges as a warp has lanes");

// In shared memory, what a record's rows need to merge.
struct Arrivals {
    uint32_t complete;       // a bit for each of the record's merges
    int32_t noted;           // parts of the first that are noted
    int32_t part_counts[32]; // of its merges; 0: no merge of its rows
    int32_t parts[32];       // of the first
    fb_merge_record first;
};

FB_DEVICE bool merges_rows(const fb_attention_record& r) {
    return r.partial_row >= 0 && r.first_merge >= 0;
}

// Notes a record's merges, by a whole warp, while its keys are awaited.
FB_DEVICE void note_merges(const fb_attention_params& p, const fb_attention_record& r,
                           Arrivals& arrivals) {
    if (!merges_rows(r)) return;
    const int lane = int(threadIdx.x % 32);
    const int at = r.first_merge + lane;
    fb_merge_record m = {};
    if (at < p.merge_count) m = reinterpret_cast<const fb_merge_record*>(p.merges)[at];
    const bool own = m.row_count > 0 && m.query_head_start == r.query_head_start &&
                     m.row_start < r.row_start + r.row_count;
    arrivals.part_counts[lane] = own ? m.part_count : 0;
    const auto* parts = reinterpret_cast<const int32_t*>(p.parts);
    const int first = __shfl_sync(0xffffffffu, m.part_start, 0);
    const int count = min(32, __shfl_sync(0xffffffffu, m.part_count, 0));
    if (lane < count) arrivals.parts[lane] = parts[first + lane];
    if (lane == 0) arrivals.first = m;
    if (lane == 0) arrivals.noted = count;
}

// Counts a record whose partial rows the block has written in the merges of its rows, and merges
// those that are complete.
FB_DEVICE void merge_rows(const fb_attention_params& p, const fb_attention_record& r,
                          MergeRoom& room, Arrivals& arrivals) {
    if (!merges_rows(r)) return;
    __syncthreads(); // all rows are written, and the room is free
    if (threadIdx.x < 32) {
        const int count = arrivals.part_counts[threadIdx.x];
        auto* counter = reinterpret_cast<uint32_t*>(p.counters) + merge_counters_at +
                        r.first_merge + threadIdx.x;
        const bool last = count > 0 && int(atomic_add_acq_rel_4(counter, 1)) == count - 1;
        if (last) *counter = 0;
        const uint32_t complete = __ballot_sync(0xffffffffu, last);
        if (threadIdx.x == 0) arrivals.complete = complete;
    }
    __syncthreads();
    for (uint32_t left = arrivals.complete; left != 0; left &= left - 1) {
        const int i = __ffs(int(left)) - 1;
        fb_merge_record m = arrivals.first;
        if (i > 0) m = reinterpret_cast<const fb_merge_record*>(p.merges)[r.first_merge + i];
        const auto* parts = reinterpret_cast<const int32_t*>(p.parts) + m.part_start;
        if (i == 0 && m.part_count == arrivals.noted) parts = arrivals.parts;
        merge_pieces(p, m, parts, 0, 1, room);
    }
}
