// A cluster for a row, whose blocks hold their parts of it and little else in shared memory, so
// that a multiprocessor has three: what a cut is looked for with lies where the row was.
#pragma once
#define FB_HELD_START 1536
#define FB_PUSHED
#include "held.h"
#include "sample.h"
#include "../ptx/special.h"

// ---- facts

constexpr int light_blocks = 8;
// Of a row of 150,528 f32 each block's part, and what is before it.
constexpr int32_t light_bytes = 76800;

// Before the team's: which rows a block is at, and what it knows of its row. Registers are few.
struct Progress {
    uint64_t loaded;
    Task<light_blocks> task;
    uint32_t turn;
    uint32_t started; // turns whose row the block has begun to load
    Philox random;
    LogitWeights weights;
    uint64_t total; // the sum of what min-p keeps, or of all
    uint64_t from;  // what is drawn from stands there or before; 0: all

    static FB_DEVICE int64_t index(uint32_t turn) {
        return (blockIdx.x + int64_t(recomputed(int(gridDim.x))) * turn) / light_blocks;
    }
};

constexpr int32_t team_start = 192;
static_assert(sizeof(Progress) <= team_start, "it has room");
static_assert(team_start + sizeof(TeamHead) <= held_start, "so does the team");
static_assert((light_bytes - held_start) % (4 * warp_quads) == 0, "padding is within it");
static_assert(team_start + sizeof(TeamShared) <= light_bytes, "a cut is looked for in it");

// ---- the rows of a block

// each(team, progress, ahead), with what is held; it may call ahead() once it needs that no more.
template <class Each> FB_DEVICE void each_light_row(const fb_sample_params& p, Each each) {
    FB_DYNAMIC_SHARED(memory);
    Progress& progress = *reinterpret_cast<Progress*>(memory);
    TeamShared& shared = *reinterpret_cast<TeamShared*>(memory + team_start);
    const Holder<light_blocks> holder = {light_bytes - held_start,
                                         shared_address(&progress.loaded)};
    if (threadIdx.x == 0) progress.turn = progress.started = 0;
    Team<light_blocks> team = {shared};
    team.begin_pushes();
    holder.begin();
    const auto row_of = [&](int64_t index) {
        const uint64_t source = p.x + index * p.x_stride * element_bytes(p.dtype);
        return holder.row(source, p.dtype, p.vocabulary, false);
    };
    pdl_wait();
    pdl_launch_dependents();
    team.leave();
    FB_NO_UNROLL
    while (Progress::index(progress.turn) < p.row_count) {
        const int64_t index = Progress::index(progress.turn);
        if (progress.started == progress.turn) holder.start(row_of(index));
        if (threadIdx.x == 0) {
            progress.task = task_of(p, index, row_of(index));
            // In turn: the others are ahead of it.
            shared.leader = int(progress.turn) % light_blocks;
        }
        if (progress.turn == 0) team.meet();
        holder.wait(progress.turn);
        if (threadIdx.x == 0) progress.started = progress.turn + 1;
        each(team, progress, [&] {
            const int64_t next = Progress::index(progress.turn + 1);
            if (next >= p.row_count) return;
            holder.start(row_of(next));
            if (threadIdx.x == 0) progress.started = progress.turn + 2;
        });
        __syncthreads();
        if (threadIdx.x == 0) progress.turn++;
        __syncthreads();
    }
    if (progress.turn == 0) team.meet();
    // Nobody ends while others may still write to its memory.
    team.sync();
}
