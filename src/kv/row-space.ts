import { OptionError } from "../errors.ts";
import { maxInt32 } from "./validate.ts";

/** Entries of the smallest block, as a power of two: a cache line. */
const leastOrder = 4;

/**
 * Where the rows of page tables lie in one line of entries. A row is a block of 2^n entries at a
 * multiple of 2^n (buddy allocation: Knuth, The Art of Computer Programming 1, section 2.5), so
 * the line is as long as the pages in use ask for, and not as all slots times the longest row.
 */
export class RowSpace {
  /** By slot, the first entry of its row. */
  readonly starts: Int32Array;
  /** By slot, entries that its row has room for; 0: no row yet. */
  readonly capacities: Int32Array;
  /** By n, the first entries of free blocks of 2^n entries. */
  readonly #free: Set<number>[] = Array.from({ length: 31 }, () => new Set<number>());
  #end = 0;

  /** @param slots most rows */
  constructor(slots: number) {
    this.starts = new Int32Array(slots);
    this.capacities = new Int32Array(slots);
  }

  /** Entries of the line: no row lies beyond. It never shrinks. */
  get end(): number {
    return this.#end;
  }

  /**
   * Gives a slot a block for so many columns, more than its row has room for, and returns the start
   * of the block it had, which is free again. Errors: OptionError beyond what int32 can index.
   */
  grow(slot: number, columns: number): number {
    const order = Math.max(leastOrder, 32 - Math.clz32(columns - 1));
    const start = this.#take(order);
    const before = this.starts[slot];
    this.release(slot);
    this.starts[slot] = start;
    this.capacities[slot] = 2 ** order;
    return before;
  }

  /** Frees a slot's block. */
  release(slot: number): void {
    let start = this.starts[slot];
    let size = this.capacities[slot];
    this.starts[slot] = this.capacities[slot] = 0;
    if (size === 0) return;
    // Two halves of a block make it whole.
    while (this.#free[orderOf(size)].delete(start ^ size)) {
      start &= ~size;
      size *= 2;
    }
    this.#free[orderOf(size)].add(start);
  }

  #take(order: number): number {
    for (let n = order; n < this.#free.length; n++) {
      if (this.#free[n].size === 0) continue;
      for (const start of this.#free[n]) {
        this.#free[n].delete(start);
        this.#freeBetween(start + 2 ** order, start + 2 ** n);
        return start;
      }
    }
    const size = 2 ** order;
    const start = Math.ceil(this.#end / size) * size;
    if (start + size > maxInt32) {
      const fix = "use larger pages, or fewer and shorter sequences.";
      throw new OptionError("page tables", start + size, `at most ${maxInt32} entries`, fix);
    }
    this.#freeBetween(this.#end, start);
    this.#end = start + size;
    return start;
  }

  /** Frees what lies between, in the largest blocks that fit. */
  #freeBetween(from: number, to: number): void {
    for (let at = from; at < to;) {
      // The lowest set bit of `at` says which blocks may start there.
      let size = at === 0 ? 2 ** 30 : at & -at;
      while (at + size > to) size /= 2;
      this.#free[orderOf(size)].add(at);
      at += size;
    }
  }
}

/** The power of two that a size is. */
function orderOf(size: number): number {
  return 31 - Math.clz32(size);
}
