import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";

/** Hands out page ids [0, pageCount) and counts the users of each; last freed, first reused. */
export class PageAllocator {
  readonly pageCount: number;
  #free: Int32Array;
  #freeCount: number;
  #references: Int32Array;
  #freedCount = 0;

  /** @param pageCount pages of the group, 1 or more */
  constructor(pageCount: number) {
    requireInteger("pages", pageCount, 1, 0x7fffffff);
    this.pageCount = pageCount;
    this.#references = new Int32Array(pageCount);
    this.#freeCount = pageCount;
    this.#free = new Int32Array(pageCount);
    // The stack's top is its end: low pages go out first, which reads well in a drawing.
    for (let i = 0; i < pageCount; i++) this.#free[i] = pageCount - 1 - i;
  }

  get freeCount(): number {
    return this.#freeCount;
  }

  get usedCount(): number {
    return this.pageCount - this.#freeCount;
  }

  /** Bytes of its books. */
  get hostBytes(): number {
    return this.#free.byteLength + this.#references.byteLength;
  }

  /** Times that a page lost its last user: while it stays the same, no page changed hands. */
  get freedCount(): number {
    return this.#freedCount;
  }

  /**
   * Writes `count` new pages to into[at...], each with one user; false and no change if too few.
   */
  tryAllocate(count: number, into: Int32Array, at: number): boolean {
    requireInteger("count", count, 0, into.length);
    requireInteger("at", at, 0, into.length - count);
    if (count > this.#freeCount) return false;
    for (let i = 0; i < count; i++) into[at + i] = this.take();
    return true;
  }

  /** One new page with one user, or -1 when none is free. */
  take(): number {
    if (this.#freeCount === 0) return -1;
    const page = this.#free[--this.#freeCount];
    this.#references[page] = 1;
    return page;
  }

  /** Adds a user to a page in use; OptionError if it is not in use. */
  retain(page: number): void {
    if (!(this.#references[page] > 0)) throw this.#notInUse(page);
    this.#references[page]++;
  }

  /** Removes a user; true when it was the last, which frees the page. OptionError if not in use. */
  release(page: number): boolean {
    if (!(this.#references[page] > 0)) throw this.#notInUse(page);
    if (--this.#references[page] > 0) return false;
    this.#free[this.#freeCount++] = page;
    this.#freedCount++;
    return true;
  }

  /** Users of a page, 0 when free; OptionError if there is no such page. */
  referenceCount(page: number): number {
    const count = this.#references[page];
    if (count === undefined) throw this.#notInUse(page);
    return count;
  }

  #notInUse(page: unknown): OptionError {
    return new OptionError(
      "page",
      page,
      `a page in use, from 0 to ${this.pageCount - 1}`,
      "use page ids as they were allocated, and release each use once.",
    );
  }
}
