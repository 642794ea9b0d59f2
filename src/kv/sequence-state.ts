import { OptionError, OutOfPagesError } from "../errors.ts";
import { requireInteger, requireOptions } from "../require.ts";
import { type ContextPart, keptTokens } from "./context-part.ts";
import { KeyPlaces } from "./key-places.ts";
import { PageGroup, type PageGroupOptions } from "./page-group.ts";
import { RowSpace } from "./row-space.ts";
import { StepWrites } from "./step-writes.ts";

/** What a SequencePool is made of; sizes in tokens, pages and sequences. */
export interface SequencePoolOptions {
  /** Tokens per page, 1 or more. */
  pageSize: number;
  groups: readonly PageGroupOptions[];
  /** Most sequences alive at once: rows of the page tables. */
  maxSequences: number;
  /**
   * Layers that have to write a step's tokens before they may be built upon, each announced by
   * `wrote`. Default 0: what is reserved counts as written.
   */
  layers?: number;
  /** Whether positions of keys are kept from the first step on; default: once some are given. */
  keyPositions?: boolean;
  /** @internal Which keys are kept here, where several processes share them; default all. */
  part?: ContextPart | undefined;
}

const poolOptions = ["pageSize", "maxSequences", "groups", "layers", "keyPositions", "part"];

/** Pages of a group, at most: books take some 20 bytes for each. */
const pagesMost = 1 << 26;

/**
 * The pool's books: flat arrays by slot, so that a step touches no objects. Everything here trusts
 * its caller; SequencePool and Sequence check.
 */
export class SequenceState {
  readonly pageSize: number;
  readonly part: ContextPart | undefined;
  readonly groups: readonly PageGroup[];
  /** Where the rows of all groups' page tables lie. */
  readonly rows: RowSpace;
  readonly maxSequences: number;
  /** By slot: tokens, pages (released ones counted), tokens of the last step. */
  readonly lengths: Int32Array;
  readonly pageCounts: Int32Array;
  readonly lastTokens: Int32Array;
  /** By slot: raised whenever pages in the row change or leave it, not when pages are added. */
  readonly versions: Int32Array;
  /** By slot: the step that its sequence was in last; 0 when in none. */
  readonly steps: Int32Array;
  /** Which keys stand at their places. */
  readonly places: KeyPlaces;
  /** Whether the last step's tokens are written. */
  readonly writes: StepWrites;
  /** By slot: the last check it was seen in, to find a sequence given twice. */
  readonly stamps: Int32Array;
  /** The step being reserved, by request: slot and new tokens. */
  readonly stepSlots: Int32Array;
  readonly stepTokens: Int32Array;
  #freeSlots: Int32Array;
  #freeCount: number;

  constructor(options: SequencePoolOptions) {
    requireOptions("options", options, poolOptions);
    const { pageSize, maxSequences, layers = 0, keyPositions = false } = options;
    requireInteger("pageSize", pageSize, 1, 0x7fffffff);
    requireInteger("maxSequences", maxSequences, 1, 1 << 20);
    requireInteger("layers", layers, 0, 1 << 16);
    if (!Array.isArray(options.groups) || options.groups.length === 0)
      throw new OptionError(
        "groups",
        options.groups,
        "a list of one page group or more",
        "give groups: [{ pages }].",
      );
    const mostPages = Math.min(pagesMost, Math.floor(0x7fffffff / pageSize));
    options.groups.forEach((group: PageGroupOptions, g) => {
      requireOptions(`groups[${g}]`, group, ["pages", "windowLeft", "layers"]);
      requireInteger(`groups[${g}].pages`, group.pages, 1, mostPages, "tokens count in int32");
    });
    this.pageSize = pageSize;
    this.part = options.part;
    this.maxSequences = maxSequences;
    this.rows = new RowSpace(maxSequences);
    this.groups = options.groups.map((group, g) => new PageGroup(group, `groups[${g}]`, this.rows));
    this.lengths = new Int32Array(maxSequences);
    this.pageCounts = new Int32Array(maxSequences);
    this.lastTokens = new Int32Array(maxSequences);
    this.versions = new Int32Array(maxSequences);
    this.steps = new Int32Array(maxSequences);
    this.places = new KeyPlaces(maxSequences, keyPositions);
    this.writes = new StepWrites(layers);
    this.stamps = new Int32Array(maxSequences);
    this.stepSlots = new Int32Array(maxSequences);
    this.stepTokens = new Int32Array(maxSequences);
    this.#freeCount = maxSequences;
    this.#freeSlots = new Int32Array(maxSequences);
    for (let i = 0; i < maxSequences; i++) this.#freeSlots[i] = maxSequences - 1 - i;
  }

  /** Bytes of the books: by slot here and in the rows, by page and by row in the groups. */
  get hostBytes(): number {
    const bySlot = 14 * this.lengths.byteLength;
    return this.groups.reduce((sum, { hostBytes }) => sum + hostBytes, bySlot);
  }

  get liveCount(): number {
    return this.maxSequences - this.#freeCount;
  }

  /** A free slot holding an empty sequence; OptionError when all are taken. */
  takeSlot(): number {
    if (this.#freeCount === 0)
      throw new OptionError(
        "maxSequences",
        this.maxSequences,
        "more than the sequences alive",
        "free a sequence first, or create the cache for more sequences.",
      );
    const slot = this.#freeSlots[--this.#freeCount];
    this.lengths[slot] = this.pageCounts[slot] = this.lastTokens[slot] = 0;
    this.steps[slot] = 0;
    this.places.cut(slot, 0);
    for (const group of this.groups) group.firstColumns[slot] = 0;
    return slot;
  }

  /** Tokens at a sequence's end that were reserved and that a layer has not written yet. */
  unwritten(slot: number): number {
    return this.steps[slot] === this.writes.step ? this.lastTokens[slot] : 0;
  }

  /** Releases a slot's pages and the slot. */
  freeSlot(slot: number): void {
    this.cut(slot, 0);
    this.rows.release(slot);
    this.#freeSlots[this.#freeCount++] = slot;
  }

  /** Makes room for so many columns in a slot's rows. Errors: OptionError. */
  growRow(slot: number, columns: number): void {
    if (columns <= this.rows.capacities[slot]) return;
    const before = this.rows.grow(slot, columns);
    for (const { table } of this.groups) table.moved(slot, before, this.pageCounts[slot]);
  }

  /** A new slot sharing all pages of `slot`. */
  forkSlot(slot: number): number {
    const copy = this.takeSlot();
    this.growRow(copy, this.pageCounts[slot]);
    this.lengths[copy] = this.lengths[slot];
    this.pageCounts[copy] = this.pageCounts[slot];
    this.lastTokens[copy] = this.lastTokens[slot];
    this.places.fork(slot, copy);
    for (const { table, allocator, firstColumns } of this.groups) {
      firstColumns[copy] = firstColumns[slot];
      for (let column = 0; column < this.pageCounts[slot]; column++) {
        const page = table.get(slot, column);
        if (page >= 0) allocator.retain(page);
        table.set(copy, column, page);
      }
    }
    return copy;
  }

  /** Whether a sequence may be cut to `length`. */
  canCut(slot: number, length: number): boolean {
    return length === 0 || this.holdsWindow(slot, length);
  }

  /** Whether the pages that a query at position `length` looks back on are still held. */
  holdsWindow(slot: number, length: number): boolean {
    for (const group of this.groups) {
      if (group.firstColumns[slot] > group.windowColumn(length, this.pageSize)) return false;
    }
    return true;
  }

  /** Cuts a sequence to `length` tokens, releasing the pages past it. */
  cut(slot: number, length: number): void {
    const pages = Math.ceil(length / this.pageSize);
    for (const { table, allocator, firstColumns } of this.groups) {
      const from = Math.max(pages, firstColumns[slot]);
      for (let column = this.pageCounts[slot] - 1; column >= from; column--)
        allocator.release(table.get(slot, column));
      table.cut(slot, pages);
      if (length === 0) firstColumns[slot] = 0;
    }
    const removed = this.lengths[slot] - length;
    this.lastTokens[slot] = Math.max(0, this.lastTokens[slot] - removed);
    this.lengths[slot] = length;
    this.places.cut(slot, length);
    this.pageCounts[slot] = pages;
    this.versions[slot]++;
  }

  /**
   * Makes a shared page the slot's own: a new page takes its place, and its first `used` tokens are
   * copied before the next append. A free page must be there.
   */
  ownPage(group: PageGroup, slot: number, column: number, used: number): void {
    const page = group.table.get(slot, column);
    const copy = group.allocator.take();
    const { part } = this;
    const size = this.pageSize / (part?.ranks ?? 1);
    group.move(page * size, copy * size, part === undefined ? used : keptTokens(used, part));
    group.allocator.release(page);
    group.table.set(slot, column, copy);
    this.versions[slot]++;
  }

  /**
   * First column that the window of a query at the sequence's end has not passed: keys at positions
   * of their own, and all behind them, stay.
   */
  windowColumn(group: PageGroup, slot: number): number {
    const column = group.windowColumn(this.lengths[slot], this.pageSize);
    return Math.min(column, Math.floor(this.places.plainLengths[slot] / this.pageSize));
  }

  /** Releases the pages that the window of a query at the sequence's end has passed. */
  releasePassed(group: PageGroup, slot: number): void {
    const { table, allocator, firstColumns } = group;
    const end = this.windowColumn(group, slot);
    for (let column = firstColumns[slot]; column < end; column++) {
      allocator.release(table.get(slot, column));
      table.set(slot, column, -1);
      this.versions[slot]++;
    }
    firstColumns[slot] = Math.max(firstColumns[slot], end);
  }

  /**
   * Keeps the last step's tokens named by `accepted` (checked: ascending, below lastTokens) and
   * cuts the rest. Throws OutOfPagesError, with nothing changed, if a page shared with a fork
   * cannot be copied.
   */
  compact(slot: number, accepted: ArrayLike<number>): void {
    const base = this.lengths[slot] - this.lastTokens[slot];
    let first = 0;
    while (first < accepted.length && accepted[first] === first) first++;
    if (first < accepted.length) {
      const from = Math.floor((base + first) / this.pageSize);
      const to = Math.ceil((base + accepted.length) / this.pageSize);
      for (let g = 0; g < this.groups.length; g++) {
        const { allocator } = this.groups[g];
        const missing = this.#sharedPages(this.groups[g], slot, from, to) - allocator.freeCount;
        if (missing > 0) throw new OutOfPagesError(missing, g);
      }
      for (const group of this.groups) {
        this.#ownPages(group, slot, from, to);
        this.#moveAccepted(group, slot, base, accepted, first);
      }
    }
    this.places.compact(slot, base, accepted, first);
    this.cut(slot, base + accepted.length);
    this.lastTokens[slot] = accepted.length;
  }

  #sharedPages(group: PageGroup, slot: number, from: number, to: number): number {
    const { table, allocator } = group;
    let shared = 0;
    for (let column = from; column < to; column++) {
      if (allocator.referenceCount(table.get(slot, column)) > 1) shared++;
    }
    return shared;
  }

  #ownPages(group: PageGroup, slot: number, from: number, to: number): void {
    const { table, allocator } = group;
    for (let column = from; column < to; column++) {
      if (allocator.referenceCount(table.get(slot, column)) === 1) continue;
      const used = Math.min(this.pageSize, this.lengths[slot] - column * this.pageSize);
      this.ownPage(group, slot, column, used);
    }
  }

  /** Moves accepted tokens down, in runs that stay in one page and never overlap themselves. */
  #moveAccepted(
    group: PageGroup,
    slot: number,
    base: number,
    accepted: ArrayLike<number>,
    first: number,
  ): void {
    let run = 1;
    for (let i = first; i < accepted.length; i += run) {
      const source = base + accepted[i];
      const target = base + i;
      const most = Math.min(
        source - target,
        this.pageSize - (source % this.pageSize),
        this.pageSize - (target % this.pageSize),
        accepted.length - i,
      );
      for (run = 1; run < most && accepted[i + run] === accepted[i] + run;) run++;
      group.move(this.#token(group, slot, source), this.#token(group, slot, target), run);
    }
  }

  #token(group: PageGroup, slot: number, position: number): number {
    const page = group.table.get(slot, Math.floor(position / this.pageSize));
    return page * this.pageSize + (position % this.pageSize);
  }
}
