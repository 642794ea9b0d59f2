import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { createLevel, type Layout, type Level } from "../../src/kv/layout.ts";
import type { PlannerOptions } from "../../src/plan/options.ts";
import type { ClassTraits } from "../../src/plan/traits.ts";
import type { Random } from "../support/random.ts";

/** A random planner: heads, processors, masks, classes. */
export function randomOptions(random: Random): PlannerOptions {
  const kvHeads = random.integer(1, 4);
  const group = random.pick([1, 2, 3, 4, 5, 6, 7, 8, 16]);
  const blocks = random.integer(1, 4);
  const cluster = random.pick([1, 1, 1, 2, 4]);
  const classes: ClassTraits[] = cpuClasses.map((row, c) => ({
    ...row,
    cluster,
    blocksPerProcessor: blocks,
    queryTile: random.pick(c === 0 ? [8, 16] : [16, 32, 64]),
    kvTile: random.pick([8, 16, 64]),
    schedule: random.pick([row.schedule, "whole"]),
    keysMost: random.chance(0.2) ? random.integer(1, 300) : 0,
    mergesRows: random.chance(0.7),
    few: random.chance(0.3)
      ? { kvTile: 128, cluster: random.pick([1, 2]), over: 1 / 2 }
      : undefined,
  }));
  if (random.chance(0.3)) {
    const [keysMost, oneClusterKeysMost] = [random.integer(1, 300), random.integer(1, 300)];
    const shortRequests = { keysLeast: random.integer(0, 20), keysMost, oneClusterKeysMost };
    const whole = { schedule: "whole", costs: { splitKeys: Infinity }, few: undefined } as const;
    classes.splice(1, 0, { ...classes[0], ...whole, name: "short", cluster: 1, shortRequests });
  }
  const leastKeys = random.pick([1, 8, 32, 128]);
  return {
    kvHeads,
    queryHeads: kvHeads * group,
    valueDim: 64,
    processors: random.pick([1, 2, 3, 8, 16]),
    causal: random.chance(0.6),
    windowLeft: random.chance(0.3) ? random.integer(0, 60) : -1,
    mask: random.pick(["none", "none", "all", "tail"]),
    classes,
    costs: {
      pieceKeys: random.integer(1, 30),
      rowKeys: 0.1,
      mergeKeys: 4,
      sharedRowKeys: 56,
      leastKeys,
      splitKeys: random.pick([0, 50]),
    },
  };
}

/** Random lengths of a step: some decodes, some prefills, some empty. */
function randomLengths(random: Random): { queries: number[]; keys: number[] } {
  const requests = random.integer(1, 6);
  const queries: number[] = [];
  const keys: number[] = [];
  for (let r = 0; r < requests; r++) {
    const query = random.pick([0, 1, 1, 1, 2, random.integer(1, 30)]);
    queries.push(query);
    keys.push(random.chance(0.1) ? 0 : query + random.pick([0, 1, random.integer(0, 300)]));
  }
  return { queries, keys };
}

/** A batch over one level of pages, or a shared prefix and the rest, or sparse columns. */
export function randomBatch(random: Random, options: PlannerOptions, single = false): Batch {
  const { queries, keys } = randomLengths(random);
  const blockSize = random.pick([1, 5, 16, 64]);
  const queryIndptr = new Int32Array(queries.length + 1);
  queries.forEach((count, r) => (queryIndptr[r + 1] = queryIndptr[r] + count));
  const kind = single ? "dense" : random.pick(["dense", "dense", "shared", "sparse", "heads"]);
  let levels: Level[];
  if (kind === "shared") levels = sharedLevels(random, queryIndptr, keys, blockSize);
  else if (kind === "dense") levels = [denseLevel(queryIndptr, keys)];
  else
    levels = [sparseLevel(random, queryIndptr, keys, blockSize, kind === "heads", options.kvHeads)];
  const layout: Layout = { blockSize, contiguous: false, levels };
  const positions = random.chance(0.15) ? randomPositions(random, queries, keys) : undefined;
  const batch = createBatch({ queryLengths: queries, kvLengths: keys, layout, positions });
  // Keys from somewhere on stand anywhere; those that requests share do so in all.
  const most = random.integer(0, 300);
  if (!single && random.chance(0.15))
    batch.plainLengths = Int32Array.from(keys, (length) =>
      kind === "shared" ? most : random.integer(0, length),
    );
  return batch;
}

function randomPositions(random: Random, queries: number[], keys: number[]): number[] {
  return queries.flatMap((count, r) =>
    Array.from({ length: count }, () => random.integer(0, Math.max(keys[r] - 1, 0))),
  );
}

function denseLevel(queryIndptr: Int32Array, keys: number[]): Level {
  const level = createLevel(keys.length);
  level.rowCount = level.requestRows = keys.length;
  level.queryIndptr = queryIndptr;
  keys.forEach((length, r) => {
    level.requests[r] = r;
    level.slots[r] = r;
    level.kvLengths[r] = length;
  });
  return level;
}

function sharedLevels(
  random: Random,
  queryIndptr: Int32Array,
  keys: number[],
  blockSize: number,
): Level[] {
  const split = random.integer(0, keys.length);
  const runs = [[0, split] as const, [split, keys.length] as const];
  const shared = createLevel(2);
  const rest = denseLevel(queryIndptr, keys);
  rest.kvLengths = Int32Array.from(keys);
  shared.rowCount = shared.requestRows = 2;
  runs.forEach(([first, end], run) => {
    const least = first === end ? 0 : Math.min(...keys.slice(first, end));
    const pages = random.integer(0, Math.floor(least / blockSize));
    shared.queryIndptr[run] = queryIndptr[first];
    shared.queryIndptr[run + 1] = queryIndptr[end];
    shared.requests[run] = Math.min(first, keys.length - 1);
    shared.slots[run] = Math.min(first, keys.length - 1);
    shared.kvLengths[run] = pages * blockSize;
    for (let r = first; r < end; r++) {
      rest.positionStarts[r] = pages * blockSize;
      rest.kvLengths[r] -= pages * blockSize;
    }
  });
  return [shared, rest];
}

function sparseLevel(
  random: Random,
  queryIndptr: Int32Array,
  keys: number[],
  blockSize: number,
  perHead: boolean,
  kvHeads: number,
): Level {
  const copies = perHead ? kvHeads : 1;
  const level = createLevel(keys.length * copies);
  level.rowCount = keys.length * copies;
  level.requestRows = keys.length;
  level.perHead = perHead;
  level.queryIndptr = queryIndptr;
  level.columnIndptr = new Int32Array(level.rowCount + 1);
  const columns: number[] = [];
  for (let row = 0; row < level.rowCount; row++) {
    const request = Math.floor(row / copies);
    const all = Math.ceil(keys[request] / blockSize);
    let kept = 0;
    for (let column = 0; column < all; column++) {
      if (!random.chance(0.6)) continue;
      columns.push((column << 1) | random.integer(0, 1));
      kept += Math.min(blockSize, keys[request] - column * blockSize);
    }
    level.slots[row] = request;
    level.kvLengths[row] = kept;
    level.columnIndptr[row + 1] = columns.length;
  }
  keys.forEach((_, r) => (level.requests[r] = r));
  level.columns = Int32Array.from(columns);
  return level;
}
