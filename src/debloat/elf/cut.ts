import type { Section } from "./elf.ts";
import type { Ranges } from "./ranges.ts";

/** What to take out of a file. */
export interface Cut {
  /** Runs of whole pages inside loaded segments, [file offset, bytes]. */
  readonly holes: Ranges;
  /** Of the holes those that are zeros in memory; the others are not mapped. */
  readonly zeros: Ranges;
  /** What nobody needs any more, [file offset, bytes]: holes, and what is left beside them. */
  readonly free: Ranges;
  /** Sections that may have holes: what else lies in one is an error. */
  readonly holed: ReadonlySet<number>;
  /** New sizes by section. */
  readonly sizes: ReadonlyMap<number, number>;
  /** Sections that are not loaded and go. */
  readonly stripped: readonly Section[];
  readonly pageBytes: number;
}
