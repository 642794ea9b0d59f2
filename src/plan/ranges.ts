import { PlanError } from "../errors.ts";
import type { VisibleRanges } from "../variant/variant.ts";
import { IntList } from "./list.ts";

/** Ints of a range: start, end, and 1 where all queries see all of it. */
export const rangeInts = 3;

/** Ascending, disjoint ranges of positions; neighbours of one kind are one range. */
export class Ranges implements VisibleRanges {
  readonly list = new IntList(rangeInts);
  #limit = 0;
  #from = 0;

  /** Forgets all ranges; those added next are cut to [0, limit). */
  clear(limit = 0x7fffffff): void {
    this.list.clear();
    this.#limit = limit;
    this.#from = 0;
  }

  get length(): number {
    return this.list.length;
  }

  /** Adds a range of a variant's visible(); what an earlier one has stays as it was. */
  add(start: number, end: number, full: boolean): void {
    let from = start < 0 ? 0 : start;
    const to = end > this.#limit ? this.#limit : end;
    const { data, length } = this.list;
    if (from < this.#from || Number.isNaN(start) || Number.isNaN(end)) {
      throw outOfOrder(start, end, `from ${this.#from} up`);
    }
    if (from >= to) return;
    if (!Number.isInteger(from) || !Number.isInteger(to)) {
      throw outOfOrder(start, end, "whole numbers");
    }
    this.#from = from;
    const last = length === 0 ? 0 : data[length * rangeInts - 2];
    if (from < last) from = last;
    if (from < to) this.push(from, to, full ? 1 : 0);
  }

  /** Appends a range that starts at the end of the last or beyond. */
  push(start: number, end: number, full: number): void {
    const { list } = this;
    const last = list.length * rangeInts - rangeInts;
    if (last >= 0 && list.data[last + 1] === start && list.data[last + 2] === full) {
      list.data[last + 1] = end;
      return;
    }
    const at = list.add();
    list.data[at] = start;
    list.data[at + 1] = end;
    list.data[at + 2] = full;
  }

  /**
   * Makes this the positions of `a` and of `b`, or of either of them; full is what both call full.
   */
  combine(a: Ranges, b: Ranges, both: boolean): void {
    this.clear();
    const x = a.list.data;
    const y = b.list.data;
    const xEnd = a.length * rangeInts;
    const yEnd = b.length * rangeInts;
    let i = 0;
    let j = 0;
    let at = 0;
    for (;;) {
      while (i < xEnd && x[i + 1] <= at) i += rangeInts;
      while (j < yEnd && y[j + 1] <= at) j += rangeInts;
      const moreX = i < xEnd;
      const moreY = j < yEnd;
      if (both ? !moreX || !moreY : !moreX && !moreY) return;
      const inX = moreX && x[i] <= at;
      const inY = moreY && y[j] <= at;
      const nextX = !moreX ? 0x7fffffff : inX ? x[i + 1] : x[i];
      const nextY = !moreY ? 0x7fffffff : inY ? y[j + 1] : y[j];
      const next = nextX < nextY ? nextX : nextY;
      const inside = inX && inY;
      if (both ? inside : inX || inY) this.push(at, next, inside ? x[i + 2] & y[j + 2] : 0);
      at = next;
    }
  }
}

function outOfOrder(start: number, end: number, allowed: string): PlanError {
  return new PlanError(
    `visible() of the variant added [${start}, ${end}), but the next range starts ${allowed}. ` +
      "Fix: add ranges of key positions by rising start.",
  );
}
