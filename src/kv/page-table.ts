import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";

/**
 * The host copy of a device page table, [slots, stride] int32, and what changed since it was last
 * uploaded. Entries past a sequence's pages are stale and never read; -1 is a page that its window
 * passed.
 */
export class PageTable {
  readonly slots: number;
  data: Int32Array;
  /** Entries of a row. */
  stride: number;
  /**
   * Raised when the differences do not say it all: upload all of `data` (its stride may be new).
   */
  version = 1;
  /** (index, page) pairs, each index once: table[updates[2 * i]] = updates[2 * i + 1]. */
  updates = new Int32Array(256);
  updateCount = 0;
  /** By index of `data`, its last place in `updates`: believed only if that place names it back. */
  #places: Int32Array;

  /** @param slots rows @param columns pages that a row has room for, until `grow` */
  constructor(slots: number, columns: number) {
    requireInteger("slots", slots, 1);
    requireInteger("columns", columns, 1, Math.floor(0x7fffffff / slots));
    this.slots = slots;
    this.stride = columns;
    this.data = new Int32Array(slots * columns).fill(-1);
    this.#places = new Int32Array(slots * columns);
  }

  /** The page at a slot's column; OptionError outside the table. */
  get(slot: number, column: number): number {
    this.#check(slot, column);
    return this.data[slot * this.stride + column];
  }

  /** Notes the page of a slot's column (-1: none); OptionError outside the table. */
  set(slot: number, column: number, page: number): void {
    this.#check(slot, column);
    if ((page | 0) !== page || page < -1)
      throw new OptionError("page", page, "an integer of -1 or more", "pass an allocated page.");
    const index = slot * this.stride + column;
    if (this.data[index] === page) return;
    this.data[index] = page;
    const place = this.#places[index];
    if (place < this.updateCount && this.updates[2 * place] === index) {
      this.updates[2 * place + 1] = page;
      return;
    }
    this.#push(index, page);
  }

  /** Forgets the differences, after they (or all of `data`) went to the device. */
  clearUpdates(): void {
    this.updateCount = 0;
  }

  /** Makes room for `columns` pages per row; raises `version` when the stride changes. */
  grow(columns: number): void {
    if (columns <= this.stride) return;
    requireInteger("columns", columns, 1, Math.floor(0x7fffffff / this.slots));
    const data = new Int32Array(this.slots * columns).fill(-1);
    for (let slot = 0; slot < this.slots; slot++)
      data.set(this.data.subarray(slot * this.stride, (slot + 1) * this.stride), slot * columns);
    this.data = data;
    this.stride = columns;
    this.#places = new Int32Array(data.length);
    this.#uploadAll();
  }

  #push(index: number, page: number): void {
    // A third of the table changed one by one costs more to send than all of it.
    if (this.updateCount * 3 > Math.max(this.data.length, 256)) {
      this.#uploadAll();
      return;
    }
    if (this.updateCount * 2 === this.updates.length) {
      const updates = new Int32Array(this.updates.length * 2);
      updates.set(this.updates);
      this.updates = updates;
    }
    this.#places[index] = this.updateCount;
    this.updates[2 * this.updateCount] = index;
    this.updates[2 * this.updateCount + 1] = page;
    this.updateCount++;
  }

  #uploadAll(): void {
    this.version++;
    this.updateCount = 0;
  }

  #check(slot: number, column: number): void {
    if (!(slot >= 0 && slot < this.slots && (slot | 0) === slot))
      throw new OptionError(
        "slot",
        slot,
        `an integer from 0 to ${this.slots - 1}`,
        "use a live slot.",
      );
    if (!(column >= 0 && column < this.stride && (column | 0) === column))
      throw new OptionError(
        "column",
        column,
        `an integer from 0 to ${this.stride - 1}`,
        "grow the table first.",
      );
  }
}
