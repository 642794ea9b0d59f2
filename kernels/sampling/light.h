// A cluster for a row, whose blocks hold their parts of it and little else in shared memory, so
// that a multiprocessor has three: what a cut is looked for with lies where the row was.
#pragma once
#define FB_HELD_START 1536
#define FB_PUSHED
#include "walk.h"

// ---- facts

constexpr int light_blocks = 8;
// Of a row of 150,528 f32 each block's part, and what is before it.
constexpr int light_bytes = 76800;
// Blocks of a multiprocessor; older ones, which do not load it, have no room for three.
#if FB_ARCH >= 900
constexpr int light_resident = 3;
#else
constexpr int light_resident = 1;
#endif

// Before the team's. Registers are few.
struct Progress : Walk<light_blocks> {
    Philox random;
    LogitWeights weights;
    uint64_t total; // the sum of what min-p keeps, or of all
    uint64_t from;  // what is drawn from stands there or before; 0: all
};

constexpr int32_t team_start = 192;
static_assert(sizeof(Progress) <= team_start, "it has room");
static_assert(team_start + sizeof(TeamHead) <= held_start, "so does the team");
static_assert((light_bytes - held_start) % (4 * warp_quads) == 0, "padding is within it");
static_assert(team_start + sizeof(TeamShared) <= light_bytes, "a cut is looked for in it");

// ---- the rows of a block

// each(team, progress, ahead), as Walk calls it.
template <class Each> FB_DEVICE void each_light_row(const fb_sample_params& p, Each each) {
    FB_DYNAMIC_SHARED(memory);
    Progress& progress = *reinterpret_cast<Progress*>(memory);
    TeamShared& shared = *reinterpret_cast<TeamShared*>(memory + team_start);
    Team<light_blocks> team = {shared};
    team.begin_pushes();
    const Holder<light_blocks> holder = progress.begin(light_bytes - held_start);
    progress.rows(p, team, holder, [&](const auto& ahead) {
        if (progress.turn == 0) team.meet();
        each(team, progress, ahead);
    });
    if (progress.turn == 0) team.meet();
    // Nobody ends while others may still write to its memory.
    team.sync();
}
