import { type AttentionState, mergeStates, type MergeOptions } from "../ops/states.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Communicator } from "./communicator.ts";

/**
 * Queues the attention over all keys of which each rank saw a part: every rank gives its state of
 * the same queries, dense, and gets the merged one (context parallel: the keys of a long request
 * lie on several ranks). States are merged in the order of ranks, so that all have the same bits.
 * Errors: OptionError.
 */
export function mergeRanks(
  ranks: Communicator,
  { out, lse, lseBase }: AttentionState,
  options: Pick<MergeOptions, "dtype" | "out" | "lse"> = {},
): AttentionState {
  const { device } = ranks;
  const count = ranks.ranks;
  using outs = Tensor.empty(device, [count, ...out.shape], out.dtype, "states of ranks");
  using lses = Tensor.empty(device, [count, ...lse.shape], "f32", "states of ranks");
  ranks.allGather(out, outs);
  ranks.allGather(lse, lses);
  const states = Array.from({ length: count }, (_, rank) => {
    return { out: outs.select(0, rank), lse: lses.select(0, rank), lseBase };
  });
  return mergeStates(states, options);
}
