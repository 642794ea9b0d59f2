import type { Batch } from "../kv/batch.ts";
import type { PlannerOptions } from "./options.ts";
import { classFor, type ClassTraits } from "./traits.ts";

/**
 * The class that takes all tiles of a step with a shared prefix in one launch, where that costs
 * less than launches in turn, by rows; -1: none. Its tiles may read the prefix more often than one
 * large tile does. Only of a token for each request and of dense levels is it known what they cost.
 */
export function classOfAll(batch: Batch, options: PlannerOptions): number {
  const { classes, kvHeads, processors } = options;
  const { levels } = batch.layout;
  if (levels.length < 2 || batch.tokenCount > batch.requestCount) return -1;
  for (let l = 0; l < levels.length; l++) if (levels[l].columns !== null) return -1;
  const byRows = keysOf(batch, options, -1);
  // Of one class there is one launch anyway.
  if (byRows < 0) return -1;
  let best = -1;
  let least = byRows * kvHeads;
  for (let c = 0; c < classes.length; c++) {
    const { together } = classes[c];
    if (together === undefined) continue;
    const keys = keysOf(batch, options, c) * kvHeads - together.launchKeys * processors;
    if (keys >= least) continue;
    best = c;
    least = keys;
  }
  return best;
}

/**
 * Keys of a KV head that processors could read in the time that all tiles take: in one class, or
 * each in that of its rows, where -1 says that these are one.
 */
function keysOf(
  { layout: { levels } }: Batch,
  { classes, queryHeads, kvHeads }: PlannerOptions,
  kernelClass: number,
): number {
  let sum = 0;
  let first = -1;
  let apart = kernelClass >= 0;
  for (let l = 0; l < levels.length; l++) {
    const { requestRows, queryIndptr, kvLengths } = levels[l];
    for (let r = 0; r < requestRows; r++) {
      const rows = (queryIndptr[r + 1] - queryIndptr[r]) * (queryHeads / kvHeads);
      if (rows === 0 || kvLengths[r] === 0) continue;
      const own = kernelClass < 0 ? classFor(classes, rows) : kernelClass;
      if (first < 0) first = own;
      apart ||= own !== first;
      sum += kvLengths[r] * keyCost(classes[own], rows, kernelClass >= 0);
    }
  }
  return apart ? sum : -1;
}

/** What a key costs, in keys that are only read; of `whole` tiles all rows are multiplied. */
function keyCost({ queryTile, rowsPerKey }: ClassTraits, rows: number, whole: boolean): number {
  const multiplied = whole ? Math.ceil(rows / queryTile) * queryTile : rows;
  return Math.max(1, multiplied / (rowsPerKey ?? Infinity));
}
