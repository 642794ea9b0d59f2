// Which drafted tokens stand: by rejection, or because they are the target's.
#include "../ptx/base.h"
#include "race.h"
#include "../ptx/pdl.h"

// ---- facts

constexpr int match_threads = 128;

FB_DEVICE int32_t drafts_of(const fb_drafts_params& p, int64_t row) {
    if (p.counts == 0) return p.draft_count;
    const int32_t count = items<const int32_t>(p.counts)[row];
    return count < 0 ? 0 : count > p.draft_count ? p.draft_count : count;
}

// The path of a row, node by node.
struct Path {
    const fb_drafts_params& p;
    int64_t row;
    int32_t count;    // of drafts
    int32_t node = 0; // the last one that was accepted
    int32_t depth = 0;

    FB_DEVICE int32_t token(int32_t draft) const {
        return items<const int32_t>(p.tokens)[row * p.draft_count + draft];
    }

    // Of the drafts from `first` on the first that follows the node; `count` if none does. From the
    // node on, so that the path goes ahead whatever the parents are.
    FB_DEVICE int32_t next(int32_t first) const {
        if (p.parents == 0) return first <= node && node < count ? node : count;
        const int32_t* const parents = items<const int32_t>(p.parents) + row * p.draft_count;
        while (first < count && parents[first] != node) first++;
        return first < count ? first : count;
    }

    // By one thread.
    FB_DEVICE void store(int32_t draft) const {
        items<int32_t>(p.out)[row * (p.draft_count + 1) + depth] = token(draft);
        if (p.path != 0) items<int32_t>(p.path)[row * p.draft_count + depth] = draft;
    }

    FB_DEVICE void accept(int32_t draft) {
        node = draft + 1;
        depth++;
    }

    // By one thread: the token behind the path.
    FB_DEVICE void end(int32_t last) const {
        int32_t* const out = items<int32_t>(p.out) + row * (p.draft_count + 1);
        out[depth] = last;
        for (int32_t i = depth + 1; i <= p.draft_count; i++) out[i] = -1;
        for (int32_t i = depth; p.path != 0 && i < p.draft_count; i++)
            items<int32_t>(p.path)[row * p.draft_count + i] = -1;
        items<int32_t>(p.accepted)[row] = depth;
    }
};

// ---- load

// A probability as it counts: 0 for NaN and below 0, 1 above 1. Rounding never doubles one.
FB_DEVICE float probable(float x, uint32_t& status) {
    if (!(x < 2)) status |= FB_SAMPLE_NAN;
    return fminf(cleaned(x, true, status), 1);
}

// What is left of the target's probabilities after a node when drafts were rejected: up to a
// factor max(0, p - b q). Each rejection adds the mass that is left to b: p - q, normalised and
// less q again, is a multiple of p - (1 + mass) q, and so on.
struct Residual {
    Row<1> target;
    uint64_t draft;
    int32_t draft_dtype;
    float b;

    FB_DEVICE void quad_of(int32_t start, const float* x, int32_t count, float* r,
                            uint32_t& status) const {
        float q[quad] = {};
        if (b > 0)
            load_quad(draft_dtype, draft + int64_t(start) * element_bytes(draft_dtype), count, q);
        FB_UNROLL
        for (int i = 0; i < quad; i++) {
            const float left = fmaf(-b, probable(q[i], status), probable(x[i], status));
            r[i] = i < count && left > 0 ? left : 0;
        }
    }

    FB_DEVICE float draft_at(int32_t token, uint32_t& status) const {
        float q[chunk];
        load_chunk(draft_dtype, draft + int64_t(token) * element_bytes(draft_dtype), 1, q);
        return probable(q[0], status);
    }

    FB_DEVICE float at(int32_t token, uint32_t& status) const {
        const float x = fminf(target.at(token), 1);
        const float left = fmaf(-b, b > 0 ? draft_at(token, status) : 0, x);
        return left > 0 ? left : 0;
    }

    FB_DEVICE float mass(Team<1>& team, uint32_t& status) const {
        uint64_t sum = 0;
        target.each_uncleaned([&](int32_t start, const float* x, int32_t count) {
            float r[quad];
            quad_of(start, x, count, r, status);
            FB_UNROLL
            for (int i = 0; i < quad; i++) sum += integer_weight(r[i]);
        });
        return mass_of(team.reduce<Sum>(sum));
    }
};

FB_DEVICE Residual residual_of(const fb_drafts_params& p, int64_t row, int32_t node) {
    const int64_t target = row * p.target_stride + node * p.target_node_stride;
    const int64_t draft = row * p.draft_stride + node * p.draft_node_stride;
    const uint64_t source = p.targets + target * element_bytes(p.target_dtype);
    return {block_row(source, p.target_dtype, p.vocabulary, true),
            p.drafts + draft * element_bytes(p.draft_dtype), p.draft_dtype, 0};
}

// ---- compute

// Whether one of the drafts after the path's node stands; `left` is what they leave of the target.
FB_DEVICE bool step(Team<1>& team, Path& path, Residual& left, Philox random, uint32_t& status) {
    const float whole = left.mass(team, status);
    float mass = whole;
    for (int32_t draft = path.next(path.node); draft < path.count; draft = path.next(draft + 1)) {
        const int32_t token = path.token(draft);
        // What is no token cannot stand.
        if (token < 0 || token >= path.p.vocabulary) continue;
        const uint4 four = random.at(uint32_t(draft) / 4);
        const uint2 two = draft % 4 < 2 ? make_uint2(four.x, four.y) : make_uint2(four.z, four.w);
        const float u = uniform_of(draft % 2 == 0 ? two.x : two.y);
        if (u * left.draft_at(token, status) * mass < left.at(token, status)) {
            if (threadIdx.x == 0) path.store(draft);
            path.accept(draft);
            return true;
        }
        left.b += mass;
        mass = left.mass(team, status);
        if (mass > 0) continue;
        // The draft's probabilities are the target's, up to rounding.
        left.b = 0;
        mass = whole;
    }
    return false;
}

// ---- the kernels

// Row `item`, by the block.
FB_OPERATOR(verify_drafts, fb_drafts_params, team_threads, 1, 1) {
    FB_SHARED(TeamShared, shared, );
    pdl_wait();
    pdl_launch_dependents();
    const int64_t row = blockIdx.x;
    if (row >= p.row_count) return;
    Team<1> team = {shared};
    Path path = {p, row, drafts_of(p, row)};
    const uint64_t seed = uint64_t(number_of(p.seeds, p.seed, row));
    const int64_t of_all = p.is_position_row != 0 ? row : p.position;
    const int64_t position = p.positions == 0 ? of_all : items<const int32_t>(p.positions)[row];
    Residual left = residual_of(p, row, 0);
    uint32_t status = 0;
    while (step(team, path, left, {seed, uint64_t(position + path.depth), accept_draft}, status))
        left = residual_of(p, row, path.node);
    const auto weigh = [&](int32_t start, const float* x, float* weight) {
        left.quad_of(start, x, quad_count(p.vocabulary, start), weight, status);
    };
    // Not the noise of the draft that was rejected here: given that, it is no longer random.
    const Philox random = {seed, uint64_t(position + path.depth), draw_rest};
    const uint64_t winner = team.reduce<Largest>(run(team, left.target, random, weigh).winner());
    status = uint32_t(team.reduce<Largest>(status));
    if (threadIdx.x != 0) return;
    path.end(winner == 0 ? 0 : index_of_winner(winner));
    if (winner == 0) status |= FB_SAMPLE_NO_MASS;
    if (p.status != 0) items<int32_t>(p.status)[row] = int32_t(status);
}

// Rows [match_threads * item, ...): a draft stands if it is the target's token after its parent.
FB_OPERATOR(match_drafts, fb_drafts_params, match_threads, 1, match_threads) {
    pdl_wait();
    pdl_launch_dependents();
    const int64_t row = int64_t(blockIdx.x) * match_threads + threadIdx.x;
    if (row >= p.row_count) return;
    Path path = {p, row, drafts_of(p, row)};
    const int32_t* const targets = items<const int32_t>(p.targets) + row * (p.draft_count + 1);
    for (int32_t draft = path.next(0); draft < path.count;) {
        if (path.token(draft) != targets[path.node]) {
            draft = path.next(draft + 1);
            continue;
        }
        path.store(draft);
        path.accept(draft);
        draft = path.next(draft + 1);
    }
    path.end(targets[path.node]);
    if (p.status != 0) items<int32_t>(p.status)[row] = 0;
}
