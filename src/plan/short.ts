import type { Batch } from "../kv/batch.ts";
import type { Level } from "../kv/layout.ts";
import type { PlannerOptions } from "./options.ts";

/**
 * The class of all tiles of a step of few short requests (ClassTraits.shortRequests), -1: none.
 * They fill half of the processors at most: the clusters of the launch behind find room beside
 * them.
 */
export function classOfShort(batch: Batch, options: PlannerOptions, windowLeft: number): number {
  const { classes, queryHeads, kvHeads, processors, causal = false } = options;
  let kernelClass = classes.length - 1;
  while (kernelClass >= 0 && classes[kernelClass].shortRequests === undefined) kernelClass--;
  const { levels } = batch.layout;
  if (kernelClass < 0 || levels.length > 1) return -1;
  const { queryTile, cluster, shortRequests } = classes[kernelClass];
  const { requestRows, rowCount, kvLengths } = levels[0];
  const clusters = kvHeads * requestRows;
  if (2 * cluster * clusters > processors) return -1;
  const { keysLeast, keysMost, oneClusterKeysMost } = shortRequests!;
  const most = clusters > 1 ? keysMost : oneClusterKeysMost;
  let longest = 0;
  for (let row = 0; row < rowCount; row++) {
    const tokens = tokensOf(levels[0], row);
    if (tokens * (queryHeads / kvHeads) > queryTile) return -1;
    // Keys behind a query are in no window.
    const seen = causal && windowLeft >= 0 ? windowLeft + tokens : Infinity;
    const keys = Math.min(kvLengths[row], seen);
    if (keys > most) return -1;
    longest = Math.max(longest, keys);
  }
  return longest >= keysLeast ? kernelClass : -1;
}

/**
 * The largest class of a step: one for few keys (ClassTraits.keysMost), if rows of no request of
 * more than its tile see more on average; else the last.
 */
export function largestClass(batch: Batch, options: PlannerOptions, windowLeft: number): number {
  const { classes, queryHeads, kvHeads, causal = false } = options;
  const last = classes.length - 1;
  let short = 0;
  while (short < last && !classes[short].keysMost) short++;
  const { queryTile, keysMost = 0, promptsOnly = false } = classes[short];
  if (keysMost === 0 || (promptsOnly && !causal)) return last;
  // Keys behind a query are in no window.
  if (causal && !promptsOnly && windowLeft >= 0 && windowLeft < keysMost) return short;
  const { levels } = batch.layout;
  for (let l = 0; l < levels.length; l++) {
    const { rowCount, kvLengths } = levels[l];
    for (let row = 0; row < rowCount; row++) {
      const tokens = tokensOf(levels[l], row);
      if (tokens * (queryHeads / kvHeads) <= queryTile) {
        if (tokens > 0 && promptsOnly) return last;
        continue;
      }
      if (kvLengths[row] - (causal ? tokens / 2 : 0) > keysMost) return last;
    }
  }
  return short;
}

/** New tokens of the requests of a level's row: heads may have rows of their own. */
function tokensOf({ rowCount, requestRows, queryIndptr }: Level, row: number): number {
  const r = Math.floor((row * requestRows) / rowCount);
  return queryIndptr[r + 1] - queryIndptr[r];
}
