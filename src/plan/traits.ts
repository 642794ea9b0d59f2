import type { CostModel } from "./cost.ts";

/** What the planner knows of one kernel class. */
export interface ClassTraits {
  readonly name: string;
  /** Packed query rows of a record, at most: row = token x group + head in the group. */
  readonly queryTile: number;
  /** Keys that the kernel takes at a time; pieces of a split row start at its multiples. */
  readonly kvTile: number;
  /** Blocks that take a record together; 1: each its own. */
  readonly cluster: number;
  /** Blocks in flight on a processor: the walk cuts the work for as many clusters as they form. */
  readonly blocksPerProcessor: number;
  /**
   * "walk": memory-bound, cut contiguously; "share": compute-bound, cut where above a share;
   * "whole": not cut, or packed where an even share ends earlier by more than splitting costs.
   */
  readonly schedule: "walk" | "share" | "whole";
  /**
   * How pieces are taken; "longest-first": those of a walk as they begin in their stretches;
   * "few-heads": longest first, those of a few KV heads before those of others, so that the keys
   * and values of a few stay in a cache.
   */
  readonly take: "as-made" | "longest-first" | "few-heads";
  /**
   * Packed rows that a processor multiplies with a key and value while its share of the memory's
   * rate brings them: beyond, arithmetic is what a record waits for. Launches of classes that have
   * it run beside each other; absent: one after the other.
   */
  readonly rowsPerKey?: number;
  /**
   * How it is launched where its tiles are no more than the processors, and more than a part of
   * the places that are then, so that few need be cut: a block on each processor, of more warps, or
   * in a cluster of so many that share a record's keys; so many keys are taken at a time.
   */
  readonly few?: { readonly kvTile: number; readonly cluster: number; readonly over: number };
  /**
   * It takes any number of rows in steps where these see no more keys on average (short.ts); 0, or
   * absent: as many as a record has.
   */
  readonly keysMost?: number;
  /** The same, but only in steps of nothing but causal prompts of more rows than its tile. */
  readonly promptsOnly?: boolean;
  /**
   * It takes all tiles of a step of few short requests, whole, so that no launch has to merge
   * (short.ts), and never others: it stands behind a class of the same query tile.
   */
  readonly shortRequests?: {
    /** Keys of the step's longest request, at least: others are not cut. */
    readonly keysLeast: number;
    /** The same, at most, of several clusters and of one alone. */
    readonly keysMost: number;
    readonly oneClusterKeysMost: number;
  };
  /** Its kernel merges split rows whose last piece it has taken: no launch has to. */
  readonly mergesRows?: boolean;
  /** What differs from the costs of the offer where its tiles are cut. */
  readonly costs?: Partial<Pick<CostModel, "pieceKeys" | "rowKeys" | "leastKeys" | "splitKeys">>;
  /**
   * It takes all tiles of a step with a shared prefix where one launch is cheaper (together.ts),
   * and never others: it stands behind a class of the same query tile.
   */
  readonly together?: {
    /** Keys that each processor could read in the time that launches in turn lose against it. */
    readonly launchKeys: number;
  };
}

/** Records that are in flight at once on so many processors. */
export function placesOf(
  traits: Pick<ClassTraits, "blocksPerProcessor" | "cluster">,
  processors: number,
): number {
  return Math.max(1, Math.floor((processors * traits.blocksPerProcessor) / traits.cluster));
}

/** The classes that rows of a request need: a graph of short queries launches no others. */
export function classesFor<T extends ClassTraits>(classes: readonly T[], rows: number): T[] {
  return classes.slice(0, classFor(classes, rows) + 1);
}

/**
 * The classes of a graph for shared prefixes: one that takes all rows, else those of a request and
 * the one of a prefix.
 */
export function classesOfPrefix<T extends ClassTraits>(
  classes: readonly T[],
  rows: number,
  prefixRows: number,
): T[] {
  const one = classes.find(({ together }) => together !== undefined);
  if (one !== undefined) {
    const { together: _, ...alone } = one;
    return [alone as T];
  }
  const own = classesFor(classes, rows);
  const wide = classes[classFor(classes, prefixRows)];
  return own.includes(wide) ? own : [...own, wide];
}

/** Classes that a step's tiles may be in, the first and the last. */
export interface ClassRange {
  least: number;
  most: number;
}

/** By their rows alone. */
export const anyClass: ClassRange = { least: 0, most: Infinity };

/** The smallest class of a range whose tile holds `rows`, else the largest. */
export function classFor(
  classes: readonly ClassTraits[],
  rows: number,
  { least, most } = anyClass,
): number {
  const last = Math.min(most, classes.length - 1);
  let index = least;
  while (index < last && classes[index].queryTile < rows) index++;
  return index;
}
