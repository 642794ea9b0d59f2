/**
 * The facts of one kernel class, stated once: planner, build and launch read this row, the device
 * checks it when it loads the kernel.
 */
export interface KernelTraits {
  readonly name: string;
  /** Packed query rows of a record, at most. */
  readonly queryTile: number;
  /** Keys that the kernel takes at a time; pieces of a split row start at its multiples. */
  readonly kvTile: number;
  readonly threads: number;
  /** Records in flight on a processor: the walk cuts the work for processors x this. */
  readonly blocksPerProcessor: number;
  /** Tiles of keys and values in flight; 0 where the kernel does not stage them. */
  readonly stages: number;
  readonly cluster: number;
  readonly sharedBytes: number;
  readonly registers: number;
  /** "group": rows are position x group + head; "none": a record holds one query head. */
  readonly packing: "group" | "none";
  /** Stage that transforms raw tiles before the matrix product, if any. */
  readonly transform: "none" | "f32";
  /** "walk": memory-bound, cut contiguously; "share": compute-bound, cut where above a share. */
  readonly schedule: "walk" | "share";
  /** How pieces are taken. */
  readonly take: "as-made" | "longest-first";
}

/**
 * The CPU's classes, by rising query tile. Threads take records from a shared counter in their
 * order, so the blocks of a processor are slack that evens out a slow core.
 */
export const cpuClasses: readonly KernelTraits[] = [
  {
    name: "cpu.row",
    queryTile: 16,
    kvTile: 64,
    threads: 1,
    blocksPerProcessor: 4,
    stages: 0,
    cluster: 1,
    sharedBytes: 0,
    registers: 0,
    packing: "group",
    transform: "f32",
    schedule: "walk",
    take: "as-made",
  },
  {
    name: "cpu.tile",
    queryTile: 128,
    kvTile: 64,
    threads: 1,
    blocksPerProcessor: 4,
    stages: 0,
    cluster: 1,
    sharedBytes: 0,
    registers: 0,
    packing: "group",
    transform: "f32",
    schedule: "share",
    take: "longest-first",
  },
];

/** The classes that rows of a request need: a graph of short queries launches no others. */
export function classesFor(
  classes: readonly KernelTraits[],
  rows: number,
): readonly KernelTraits[] {
  return classes.slice(0, classFor(classes, rows) + 1);
}

/** The smallest class whose tile holds `rows`, else the largest. */
export function classFor(classes: readonly KernelTraits[], rows: number): number {
  let index = 0;
  while (index < classes.length - 1 && classes[index].queryTile < rows) index++;
  return index;
}
