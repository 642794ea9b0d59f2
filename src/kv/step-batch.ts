import { made } from "../made.ts";
import { showByLine } from "../shown.ts";
import { type Batch, describeBatch, staleBatch } from "./batch.ts";
import type { ContextPart } from "./context-part.ts";
import { createLayout, createLevel, type Layout, type Level } from "./layout.ts";

/** The arrays that an owner writes every step to; they grow by doubling. */
export class StepArrays {
  /** Raised when a step is written, and when it is given back. */
  generation = 0;
  requestCount = 0;
  tokenCount = 0;
  paddedTokens = 0;
  queryIndptr = new Int32Array(1);
  kvLengths = new Int32Array(0);
  positions = new Int32Array(0);
  tokenRequests = new Int32Array(0);
  slotMappings: Int32Array[];
  layout: Layout;
  customPositions = false;
  plainLengths: Int32Array | null = null;
  /** `[requestCount]`: what plainLengths is, where any key was given a position. */
  plain = new Int32Array(0);
  /** Of a pool whose keys several processes share: those of this one. */
  part: ContextPart | undefined;
  /** `[requestCount]`: slot of each request's sequence. */
  slots = new Int32Array(0);
  /** `[requestCount]`: tokens of each request's sequence before the step. */
  lengthsBefore = new Int32Array(0);
  /** `[requestCount]`: what `lastTokens` of each request's slot said before the step. */
  lastTokensBefore = new Int32Array(0);
  /** The whole sequences: one row per request. Shares queryIndptr and kvLengths with the batch. */
  readonly whole: Level = createLevel(0);
  /** Levels of a step without shared prefixes. */
  readonly wholeLevels: Level[] = [this.whole];

  constructor(
    /** The pool, or the page lists. */
    readonly owner: object,
    pageSize: number,
    groups: number,
  ) {
    this.slotMappings = Array.from({ length: groups }, () => new Int32Array(0));
    this.layout = createLayout(pageSize, false, this.wholeLevels);
  }

  /**
   * Makes room for a step of so many requests and padded tokens; what was in the arrays is lost.
   */
  ensure(requests: number, tokens: number): void {
    if (requests > this.kvLengths.length) this.#growRequests(roomFor(requests));
    if (tokens > this.positions.length) this.#growTokens(roomFor(tokens));
  }

  // Both make all arrays before they keep one, so that running out of memory changes nothing.
  #growRequests(size: number): void {
    const queryIndptr = new Int32Array(size + 1);
    const kvLengths = new Int32Array(size);
    const requests = identity(size);
    const slots = new Int32Array(size);
    const starts = new Int32Array(size);
    const positionStarts = new Int32Array(size);
    const lengthsBefore = new Int32Array(size);
    const lastTokensBefore = new Int32Array(size);
    const plain = new Int32Array(size);
    Object.assign(this, { queryIndptr, kvLengths, slots, lengthsBefore, lastTokensBefore, plain });
    Object.assign(this.whole, { queryIndptr, kvLengths, requests, slots: starts, positionStarts });
  }

  #growTokens(size: number): void {
    const positions = new Int32Array(size);
    const tokenRequests = new Int32Array(size);
    const slotMappings = this.slotMappings.map(() => new Int32Array(size));
    Object.assign(this, { positions, tokenRequests, slotMappings });
  }
}

/**
 * One step's handle on its owner's arrays. It is stale from the next step on: then every use of it,
 * reading included, throws a PlanError, so that no step is ever taken for another.
 */
export class StepBatch implements Batch {
  readonly ok = true;
  readonly generation: number;
  readonly #arrays: StepArrays;

  constructor(arrays: StepArrays) {
    this.generation = arrays.generation;
    this.#arrays = arrays;
  }

  get stale(): boolean {
    return this.generation !== this.#arrays.generation;
  }

  get owner(): object {
    return this.#arrays.owner;
  }

  /** What the owner wrote: for its own family. Errors: PlanError when stale. */
  get arrays(): StepArrays {
    const arrays = this.#arrays;
    if (this.generation !== arrays.generation) throw staleBatch();
    return arrays;
  }

  get requestCount(): number {
    return this.arrays.requestCount;
  }

  get tokenCount(): number {
    return this.arrays.tokenCount;
  }

  get paddedTokens(): number {
    return this.arrays.paddedTokens;
  }

  get queryIndptr(): Int32Array {
    return this.arrays.queryIndptr;
  }

  get kvLengths(): Int32Array {
    return this.arrays.kvLengths;
  }

  get positions(): Int32Array {
    return this.arrays.positions;
  }

  get tokenRequests(): Int32Array {
    return this.arrays.tokenRequests;
  }

  get slotMappings(): Int32Array[] {
    return this.arrays.slotMappings;
  }

  get layout(): Layout {
    return this.arrays.layout;
  }

  get customPositions(): boolean {
    return this.arrays.customPositions;
  }

  get plainLengths(): Int32Array | null {
    return this.arrays.plainLengths;
  }

  get part(): ContextPart | undefined {
    return this.arrays.part;
  }

  toString(): string {
    return this.stale ? `Batch of step ${this.generation} (stale)` : describeBatch(this);
  }
}

showByLine(made("batch", StepBatch.prototype));

/** [0, 1, ..., count - 1]. */
export function identity(count: number): Int32Array {
  const result = new Int32Array(count);
  for (let i = 0; i < count; i++) result[i] = i;
  return result;
}

/** The power of two, 64 or more, that holds `count`. */
export function roomFor(count: number): number {
  let size = 64;
  while (size < count) size *= 2;
  return size;
}
