// Which record a block, or a cluster of FB_CLUSTER blocks, works on. Each starts at its own index
// and takes the next by ticket; a record without rows ends the list. The last to leave resets the
// counters. Beside another launch, which leaves room for some of the blocks only, all records are
// by ticket: none waits for a block that starts late.
#pragma once
#include "../../ptx/cluster.h"
#include "../../ptx/memory.h"
#include "../../ptx/pdl.h"
#include "locate.h"

constexpr int record_ints = sizeof(fb_attention_record) / 4;
static_assert(record_ints == 16, "threads 0 to 15 hold an int each");

// In shared memory.
struct Work {
    fb_attention_record record;
    Divider by_page;
    uint32_t next; // index of the next record, where registers are scarce
    uint32_t reserved;
};

// An int of record `index`, for threads 0 to 15; 0 past the last.
FB_DEVICE int32_t record_word(const fb_attention_params& p, uint32_t index) {
    if (threadIdx.x >= record_ints || index >= uint32_t(p.record_count)) return 0;
    return reinterpret_cast<const int32_t*>(p.records)[index * record_ints + threadIdx.x];
}

// Clusters of the launch (blocks, where each is alone), and which one this block is of.
FB_DEVICE uint32_t cluster_count() { return gridDim.x / FB_CLUSTER; }
FB_DEVICE uint32_t cluster_index() { return blockIdx.x / FB_CLUSTER; }

// The thread of a cluster that draws its tickets.
FB_DEVICE bool draws_tickets() {
    return threadIdx.x == 0 && (FB_CLUSTER == 1 || cluster_rank() == 0);
}

FB_DEVICE bool starts_by_ticket(const fb_attention_params& p) { return p.beside != 0; }

// Clusters that have a record each, and start at once, need no tickets.
FB_DEVICE bool shares_records(const fb_attention_params& p) {
    return starts_by_ticket(p) || uint32_t(p.record_count) > cluster_count();
}

// A launch may run beside those before it of the same plan: when it starts, all of their blocks are
// past their wait for what came before, and so it need not wait. At its end it waits for them, so
// that whoever waits for it waits for them, too.
FB_DEVICE void begin_beside(const fb_attention_params& p) {
    if (p.beside == 0) pdl_wait();
    pdl_launch_dependents();
}

FB_DEVICE void end_beside(const fb_attention_params& p) {
    if (p.beside != 0) pdl_wait();
}

// This launch's counters: records taken, blocks gone.
FB_DEVICE uint32_t* tickets(const fb_attention_params& p) {
    return reinterpret_cast<uint32_t*>(p.counters) + 2 * p.beside;
}

// Index of the next record, by one thread of a cluster that shares records.
FB_DEVICE uint32_t draw_ticket(const fb_attention_params& p) {
    return (starts_by_ticket(p) ? 0 : cluster_count()) + atomicAdd(tickets(p), 1u);
}

// The same, for the thread that draws: asked for before the record ends, it is there when it is
// needed.
FB_DEVICE uint32_t take_ticket(const fb_attention_params& p) {
    if (!draws_tickets() || !shares_records(p)) return uint32_t(p.record_count);
    return draw_ticket(p);
}

// The first warp loads its part of the record that its first lane names, for next_record().
FB_DEVICE int32_t fetch_record(const fb_attention_params& p, uint32_t next) {
    if (threadIdx.x >= 32) return 0;
    return record_word(p, __shfl_sync(0xffffffffu, next, 0));
}

// Begins a launch: what is the same for all records, and this thread's part of the first. Records
// come by a copy, not from a kernel: they may be read before begin_beside().
FB_DEVICE int32_t open_records(const fb_attention_params& p, Work& work) {
    if (threadIdx.x == 0) work.by_page = divider_of(uint32_t(p.page_size));
    return starts_by_ticket(p) ? fetch_record(p, take_ticket(p)) : record_word(p, cluster_index());
}

// Hands a record to the block; false: there is none.
FB_DEVICE bool next_record(int32_t word, Work& work) {
    __syncthreads(); // no thread reads the last one any more
    if (threadIdx.x < record_ints) reinterpret_cast<int32_t*>(&work.record)[threadIdx.x] = word;
    __syncthreads();
    return work.record.row_count > 0;
}

// Ends a launch, by one thread of a cluster that shares records.
FB_DEVICE void leave_records(const fb_attention_params& p) {
    uint32_t* counters = tickets(p);
    if (atomic_add_acq_rel_4(counters + 1, 1) != cluster_count() - 1) return;
    counters[0] = 0;
    counters[1] = 0;
}

// The same, for the thread that draws.
FB_DEVICE void close_records(const fb_attention_params& p) {
    if (draws_tickets() && shares_records(p)) leave_records(p);
}

// Packed row `i` of a record.
struct QueryRow {
    int32_t token;
    int32_t head;
};

FB_DEVICE QueryRow query_row(const fb_attention_record& r, int i) {
    const int32_t row = r.row_start + i;
    const int32_t token = int32_t(uint32_t(row) / uint32_t(r.query_head_count));
    return {token, r.query_head_start + row - token * r.query_head_count};
}
