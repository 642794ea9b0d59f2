import type { Batch } from "../kv/batch.ts";
import type { PlannerOptions } from "./options.ts";

/**
 * The class of all tiles of a step of few short requests (ClassTraits.short), -1: none. They fill
 * half of the processors at most: the clusters of the launch behind find room beside them.
 */
export function classOfShort(batch: Batch, options: PlannerOptions, windowLeft: number): number {
  const { classes, queryHeads, kvHeads, processors, causal = false } = options;
  let kernelClass = 0;
  while (kernelClass < classes.length && classes[kernelClass].short === undefined) kernelClass++;
  const { levels } = batch.layout;
  if (kernelClass === classes.length || levels.length > 1) return -1;
  const { queryTile, cluster, short } = classes[kernelClass];
  const { requestRows, rowCount, queryIndptr, kvLengths } = levels[0];
  const clusters = kvHeads * requestRows;
  if (2 * cluster * clusters > processors) return -1;
  const { keysLeast, keysMost, oneKeysMost } = short!;
  const most = clusters > 1 ? keysMost : oneKeysMost;
  let longest = 0;
  for (let row = 0; row < rowCount; row++) {
    const r = Math.floor((row * requestRows) / rowCount);
    const tokens = queryIndptr[r + 1] - queryIndptr[r];
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
  const { queryTile, keysMost = 0, onlyShort = false } = classes[short];
  if (keysMost === 0 || (onlyShort && !causal)) return last;
  // Keys behind a query are in no window.
  if (causal && !onlyShort && windowLeft >= 0 && windowLeft < keysMost) return short;
  const { levels } = batch.layout;
  for (let l = 0; l < levels.length; l++) {
    const { rowCount, requestRows, queryIndptr, kvLengths } = levels[l];
    for (let row = 0; row < rowCount; row++) {
      const r = Math.floor((row * requestRows) / rowCount);
      const tokens = queryIndptr[r + 1] - queryIndptr[r];
      if (tokens * (queryHeads / kvHeads) <= queryTile) {
        if (tokens > 0 && onlyShort) return last;
        continue;
      }
      if (kvLengths[row] - (causal ? tokens / 2 : 0) > keysMost) return last;
    }
  }
  return short;
}
