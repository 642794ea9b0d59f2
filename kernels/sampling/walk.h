// The rows that a cluster takes in turn, each of which its blocks hold: bulk copies bring the next
// one while the last steps of this one are taken.
#pragma once
#include "held.h"
#include "sample.h"
#include "../ptx/special.h"

// Where a block is among its rows, and what it knows of this one: in shared memory, as registers
// are few.
template <int size> struct Walk {
    uint64_t loaded; // a barrier
    Task<size> task;
    uint32_t turn;
    uint32_t started; // turns whose row the block has begun to load

    static FB_DEVICE int64_t index(uint32_t turn) {
        return (blockIdx.x + int64_t(recomputed(int(gridDim.x))) * turn) / size;
    }

    FB_DEVICE Holder<size> begin(int32_t bytes) {
        const Holder<size> holder = {bytes, shared_address(&loaded)};
        if (threadIdx.x == 0) turn = started = 0;
        holder.begin();
        return holder;
    }

    // each(ahead) for each row; it may call ahead() once it needs no more what is held. The team
    // meets in the first one.
    template <class Each>
    FB_DEVICE void rows(const fb_sample_params& p, Team<size>& team, const Holder<size>& holder,
                        Each each) {
        const auto row_of = [&](int64_t at) {
            return holder.row(row_source(p, at), p.dtype, p.vocabulary, p.is_probabilities != 0);
        };
        pdl_wait();
        pdl_launch_dependents();
        team.leave();
        FB_NO_UNROLL
        while (index(turn) < p.row_count) {
            const int64_t at = index(turn);
            if (started == turn) holder.start(row_of(at));
            if (threadIdx.x == 0) {
                task = task_of(p, at, row_of(at));
                // In turn: the others are ahead of it.
                team.shared.leader = int(turn) % size;
            }
            holder.wait(turn);
            if (threadIdx.x == 0) started = turn + 1;
            each([&] {
                const int64_t next = index(turn + 1);
                if (next >= p.row_count) return;
                holder.start(row_of(next));
                if (threadIdx.x == 0) started = turn + 2;
            });
            __syncthreads();
            if (threadIdx.x == 0) turn++;
            __syncthreads();
        }
    }
};
