import { requireInteger } from "../require.ts";
import { PageAllocator } from "./page-allocator.ts";
import { PageTable, withTriple } from "./page-table.ts";
import type { RowSpace } from "./row-space.ts";

/** Layers that share pages: how many, and how far back they look. */
export interface PageGroupOptions {
  /** Pages of the group, 1 or more. */
  pages: number;
  /** Tokens before a query that it still sees; pages wholly before are freed. -1 (default): all. */
  windowLeft?: number;
}

/** The pages, page table and waiting page copies of one group of layers. */
export class PageGroup {
  readonly allocator: PageAllocator;
  readonly table: PageTable;
  /** Tokens before a query that it still sees, -1: all. */
  readonly windowLeft: number;
  /** (source token, target token, tokens) to copy in order before the next append. */
  pendingMoves: Int32Array = new Int32Array(3 * 64);
  moveCount = 0;
  /**
   * (request, column, page) where the last step put a copy in the place of a shared page, in order;
   * page -1: what was copied is written over.
   */
  copies: Int32Array = new Int32Array(3 * 16);
  copyCount = 0;
  /** The allocator's freedCount when the last step was reserved. */
  freedBefore = 0;
  /** By slot, the first column whose page the sequence still holds. */
  readonly firstColumns: Int32Array;
  /** By page, users that the step being checked would remove; all 0 between steps. */
  readonly leaving: Int32Array;
  #left = new Int32Array(64);
  #leftCount = 0;
  /** Pages that the step being checked takes, less those it frees. */
  needed = 0;
  /**
   * Requests of the step being checked that add or copy a page, and those whose window frees one.
   */
  readonly changing: Int32Array;
  changingCount = 0;
  readonly passing: Int32Array;
  passingCount = 0;

  constructor(options: PageGroupOptions, name: string, rows: RowSpace) {
    const slots = rows.starts.length;
    requireInteger(`${name}.windowLeft`, options.windowLeft ?? -1, -1, 0x7fffffff);
    this.allocator = new PageAllocator(options.pages);
    this.table = new PageTable(rows);
    this.windowLeft = options.windowLeft ?? -1;
    this.firstColumns = new Int32Array(slots);
    this.leaving = new Int32Array(options.pages);
    this.changing = new Int32Array(slots);
    this.passing = new Int32Array(slots);
  }

  /** Bytes of its books on the host. */
  get hostBytes(): number {
    const bySlot =
      this.firstColumns.byteLength + this.changing.byteLength + this.passing.byteLength;
    return this.allocator.hostBytes + this.table.hostBytes + this.leaving.byteLength + bySlot;
  }

  /** Forgets the waiting copies, after they were queued on the device. */
  clearMoves(): void {
    this.moveCount = 0;
  }

  /** Notes a copy of `count` tokens within the group's pages. */
  move(source: number, target: number, count: number): void {
    this.pendingMoves = withTriple(this.pendingMoves, this.moveCount++, source, target, count);
  }

  /** Notes that the step put a copy in the place of a page. */
  copied(request: number, column: number, page: number): void {
    this.copies = withTriple(this.copies, this.copyCount++, request, column, page);
  }

  /** Notes that the step being checked would end one use of a page; returns how many by now. */
  leave(page: number): number {
    if (this.#leftCount === this.#left.length) {
      const grown = new Int32Array(2 * this.#leftCount);
      grown.set(this.#left);
      this.#left = grown;
    }
    this.#left[this.#leftCount++] = page;
    return ++this.leaving[page];
  }

  /** Forgets what `leave` noted. */
  forgetLeaving(): void {
    for (let i = 0; i < this.#leftCount; i++) this.leaving[this.#left[i]] = 0;
    this.#leftCount = 0;
  }

  /** First column that a query at position `length` may still see. */
  windowColumn(length: number, pageSize: number): number {
    if (this.windowLeft < 0 || length <= this.windowLeft) return 0;
    return Math.floor((length - this.windowLeft) / pageSize);
  }
}
