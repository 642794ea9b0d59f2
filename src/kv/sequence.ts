import { DisposedError, OptionError, PlanError } from "../errors.ts";
import { requireInteger, requireList, requireOptions } from "../require.ts";
import { counted, showAsText } from "../shown.ts";
import { type Batch, type OutOfPages, requireBatch } from "./batch.ts";
import type { PageGroup } from "./page-group.ts";
import { PrefixPlace } from "./prefix-place.ts";
import { reserveStep, type ReserveOptions } from "./reserve.ts";
import { rollbackStep } from "./rollback.ts";
import { SequenceState, type SequencePoolOptions } from "./sequence-state.ts";
import { StepArrays, StepBatch } from "./step-batch.ts";
import { notWritten } from "./step-checks.ts";

/** Cached pages that a new sequence may start from; found by PrefixIndex.match. */
export interface PrefixMatch {
  /** Matched tokens, a multiple of the page size. */
  readonly tokens: number;
  /** Pages by [column, group], -1 where a window group keeps none. */
  readonly pages: readonly number[];
  /** @internal The books that the pages belong to. */
  readonly state: SequenceState;
  /** True once the index has dropped pages since: match again. */
  readonly stale: boolean;
  /** @internal Notes where the tokens lie that a sequence begins with. */
  begin(sequence: Sequence): void;
}

/** The sequences, pages and page tables of a paged cache; pure state, no device memory. */
export class SequencePool {
  /** @internal The books. */
  readonly state: SequenceState;
  readonly #arrays: StepArrays;
  #lastBatch: Batch | undefined;
  #nextId = 0;

  constructor(options: SequencePoolOptions) {
    this.state = new SequenceState(options);
    const pageSize = options.pageSize / (options.part?.ranks ?? 1);
    this.#arrays = new StepArrays(this, pageSize, options.groups.length);
  }

  get pageSize(): number {
    return this.state.pageSize;
  }

  /** @internal */
  get groups(): readonly PageGroup[] {
    return this.state.groups;
  }

  get maxSequences(): number {
    return this.state.maxSequences;
  }

  /** Sequences alive. */
  get sequenceCount(): number {
    return this.state.liveCount;
  }

  /**
   * An empty sequence, or one that starts with a matched prefix; OptionError when there are too
   * many.
   */
  create(options: { prefix?: PrefixMatch } = {}): Sequence {
    requireOptions("options", options, ["prefix"]);
    const { prefix } = options;
    if (prefix !== undefined) this.#checkPrefix(prefix);
    const slot = this.state.takeSlot();
    if (prefix !== undefined) this.#adopt(slot, prefix);
    const sequence = this.adopt(slot);
    prefix?.begin(sequence);
    return sequence;
  }

  /** @internal The handle of a taken slot. */
  adopt(slot: number): Sequence {
    return new Sequence(this, this.#nextId++, slot);
  }

  /** What `reserve` returned last, stale once rolled back. */
  get lastBatch(): Batch | undefined {
    return this.#lastBatch;
  }

  /**
   * Grows sequences[i] by newTokens[i] tokens, which the caller then appends, and returns the step;
   * the batch of the step before is stale then. Out of pages is a result; bad input throws
   * OptionError or DisposedError, and a PlanError says that a sequence holds tokens of the step
   * before that a layer has not written; either way nothing has changed.
   */
  reserve(
    sequences: readonly Sequence[],
    newTokens: ArrayLike<number>,
    options?: ReserveOptions,
  ): Batch | OutOfPages {
    const refused = reserveStep(this.state, this.#arrays, sequences, newTokens, options);
    return refused ?? (this.#lastBatch = new StepBatch(this.#arrays));
  }

  /**
   * Gives back what the pool's last step took: its sequences that were not freed since have the
   * lengths and the pages of before, and its batch is stale. Of the pages, those that a window had
   * passed stay free, and a page that was copied to be written stays a copy where another sequence
   * has written or freed the original. Errors: PlanError for a batch that is stale or of another
   * pool.
   */
  rollback(batch: Batch): void {
    this.#require(batch);
    rollbackStep(this.state, this.#arrays);
  }

  /**
   * @internal Notes that a layer holds the new tokens of the pool's last step. Errors as rollback.
   */
  wrote(batch: Batch, layer: number): void {
    this.#require(batch);
    this.state.writes.add(layer);
  }

  /** @internal Pages and sequences in a few words. */
  describe(): string {
    const groups = this.groups.map(({ allocator }) => {
      return `${allocator.freeCount} of ${counted(allocator.pageCount, "page")} free`;
    });
    const sequences = counted(this.sequenceCount, "sequence");
    return `${groups.join(" and ")}, ${this.pageSize} tokens per page, ${sequences}`;
  }

  /** @internal */
  toString(): string {
    return `SequencePool: ${this.describe()}`;
  }

  #require(batch: Batch): void {
    requireBatch(batch);
    if (batch.owner === this) return;
    throw new PlanError("the batch is not of this cache. Fix: use what its own reserve returned.");
  }

  #checkPrefix(prefix: PrefixMatch): void {
    if (typeof prefix !== "object" || prefix === null)
      throw new OptionError("prefix", prefix, "a match", "pass what index.match returned.");
    if (prefix.state !== this.state || prefix.stale)
      throw new OptionError(
        "prefix",
        prefix.stale ? "a match from before an eviction" : "a match of another pool",
        "a match made by an index of this pool since its last eviction",
        "call match again right before create.",
      );
  }

  #adopt(slot: number, prefix: PrefixMatch): void {
    const { state } = this;
    const { groups, pageSize } = state;
    const columns = prefix.tokens / pageSize;
    state.growRow(slot, columns);
    for (let g = 0; g < groups.length; g++) {
      const { table, allocator, firstColumns } = groups[g];
      const first = groups[g].windowColumn(prefix.tokens, pageSize);
      firstColumns[slot] = first;
      for (let column = 0; column < columns; column++) {
        const page = column < first ? -1 : prefix.pages[column * groups.length + g];
        if (page >= 0) allocator.retain(page);
        table.set(slot, column, page);
      }
    }
    state.lengths[slot] = prefix.tokens;
    state.pageCounts[slot] = columns;
  }
}

/** One sequence of tokens in a pool: a handle on a page-table row, and disposable. */
export class Sequence {
  readonly pool: SequencePool;
  /** @internal */
  readonly state: SequenceState;
  /** Unlike a slot, never used again. */
  readonly id: number;
  /** @internal Its page-table row, -1 once freed. */
  slot: number;
  /** @internal Where an index of the pool has its first tokens. */
  readonly place = new PrefixPlace();

  /** @internal */
  constructor(pool: SequencePool, id: number, slot: number) {
    this.pool = pool;
    this.state = pool.state;
    this.id = id;
    this.slot = slot;
  }

  /** Tokens, including those reserved by the last step. */
  get length(): number {
    return this.state.lengths[this.#live()];
  }

  /** Pages its tokens span, including those its windows have passed. */
  get pageCount(): number {
    return this.state.pageCounts[this.#live()];
  }

  /** A copy of its page ids in a group, by column. -1: passed. */
  pages(group = 0): Int32Array {
    const slot = this.#live();
    requireInteger("group", group, 0, this.state.groups.length - 1);
    return this.state.groups[group].table.copy(slot, this.state.pageCounts[slot]);
  }

  /**
   * A copy that shares all pages; whichever writes first copies the last page if it is not full.
   * Errors: PlanError while a layer has not written its last tokens.
   */
  fork(): Sequence {
    return this.pool.adopt(this.state.forkSlot(this.#written()));
  }

  /**
   * Drops the tokens from `length` on; OptionError if a window has passed what it would look back
   * on.
   */
  truncate(length: number): void {
    const slot = this.#live();
    requireInteger("length", length, 0, this.state.lengths[slot]);
    if (!this.state.canCut(slot, length))
      throw new OptionError(
        "length",
        length,
        "0, or long enough that the window's pages before it are still held",
        "truncate to 0 and compute the sequence again.",
      );
    if (length < this.state.lengths[slot]) this.state.cut(slot, length);
  }

  /**
   * Keeps, of the n tokens reserved in the last step, those at the ascending indices `accepted` in
   * [0, n), and drops the others. Throws OutOfPagesError, with nothing changed, if a page shared
   * with a fork has to be copied and none is free, PlanError, unless all are dropped, while a layer
   * has not written them, and OptionError where ranks share the keys and any would move.
   */
  compact(accepted: ArrayLike<number>): void {
    const count = requireList("accepted", accepted);
    const slot = count === 0 ? this.#live() : this.#written();
    const last = this.state.lastTokens[slot];
    let least = 0;
    for (let i = 0; i < count; i++) {
      requireInteger(`accepted[${i}]`, accepted[i], least, last - 1, "ascend within the last step");
      least = accepted[i] + 1;
    }
    // A key that moves may have to go to another process.
    if (this.state.part !== undefined && least > count) {
      const allowed = "the first ones where ranks share the keys";
      throw new OptionError("accepted", Array.from(accepted).join(", "), allowed, "set no dcp.");
    }
    this.state.compact(slot, accepted);
  }

  /** Releases its pages; freeing twice is no error, any other use after is a DisposedError. */
  free(): void {
    if (this.slot < 0) return;
    this.state.freeSlot(this.slot);
    this.slot = -1;
  }

  [Symbol.dispose](): void {
    this.free();
  }

  /** @internal */
  toString(): string {
    if (this.slot < 0) return `Sequence ${this.id} (freed)`;
    const pages = counted(this.pageCount, "page");
    return `Sequence ${this.id}: ${counted(this.length, "token")} in ${pages}`;
  }

  #written(): number {
    const slot = this.#live();
    const tokens = this.state.unwritten(slot);
    if (tokens > 0) throw notWritten(`sequence ${this.id}`, tokens);
    return slot;
  }

  #live(): number {
    if (this.slot < 0) throw new DisposedError(`sequence ${this.id}`);
    return this.slot;
  }
}

for (const { prototype } of [SequencePool, Sequence]) showAsText(prototype);
