import { DisposedError, OptionError } from "../errors.ts";
import type { Batch } from "./batch.ts";
import { createLevel } from "./layout.ts";
import { PrefixRuns } from "./prefix-runs.ts";
import { SequenceState } from "./sequence-state.ts";
import { identity, roomFor, type StepArrays, StepBatch } from "./step-batch.ts";
import type { Reservable } from "./step-checks.ts";

/** Whether a prefix of so many tokens, read once for so many requests and query tokens, pays. */
export type WorthSharing = (sharedTokens: number, requests: number, queryTokens: number) => boolean;

/**
 * Splits a pool's batch into two levels where neighbours hold the same leading full pages: level 0
 * reads each shared prefix once for its run of requests (rows without one have length 0), level 1
 * each request's rest. `sequences` are those of the batch's reserve, best in prefix order. Runs are
 * chosen to spare the most K/V reads, then kept if worthSharing. False, and one level, if none is.
 * Errors: OptionError, PlanError for a stale batch.
 */
export function sharePrefixes(
  batch: Batch,
  sequences: readonly Reservable[],
  worthSharing: WorthSharing,
): boolean {
  if (!(batch instanceof StepBatch))
    throw new OptionError("batch", batch, "a batch made by reserve", "reserve the step first.");
  const { arrays } = batch;
  if (!areReserved(sequences, arrays)) refuseOthers(sequences, arrays);
  if (typeof worthSharing !== "function")
    throw new OptionError("worthSharing", worthSharing, "a function", "pass that of an attention.");
  if (arrays.requestCount < 2) return false;
  let sharer = sharers.get(arrays);
  if (sharer === undefined) sharers.set(arrays, (sharer = new PrefixSharer()));
  return sharer.share(arrays, sequences[0].state, worthSharing);
}

/** Whether these are the sequences of a step, in its order. One look at each: every step asks. */
function areReserved(sequences: readonly Reservable[], arrays: StepArrays): boolean {
  const owner: { readonly state?: SequenceState } = arrays.owner;
  const { state } = owner;
  const { slots, requestCount } = arrays;
  if (state === undefined || !Array.isArray(sequences) || sequences.length !== requestCount)
    return false;
  for (let i = 0; i < requestCount; i++) {
    const sequence: Reservable | undefined = sequences[i];
    if (sequence?.state !== state || sequence.slot !== slots[i]) return false;
  }
  return true;
}

/** Says which of the sequences is not that of the step. Errors: OptionError, DisposedError. */
function refuseOthers(sequences: readonly Reservable[], arrays: StepArrays): void {
  checkList(sequences);
  const owner: { readonly state?: SequenceState } = arrays.owner;
  const count = arrays.requestCount;
  const fix = "pass the sequences of this batch's reserve, in the same order.";
  if (sequences.length !== count)
    throw new OptionError("sequences.length", sequences.length, `${count}`, fix);
  for (let i = 0; i < count; i++) {
    const { slot, state, id } = sequences[i];
    if (slot < 0) throw new DisposedError(`sequence ${id}`);
    if (state === owner.state && slot === arrays.slots[i]) continue;
    const allowed = "the one reserved at this place";
    throw new OptionError(`sequences[${i}]`, `sequence ${id}`, allowed, fix);
  }
}

function checkList(sequences: readonly Reservable[]): void {
  const state = Array.isArray(sequences) ? (sequences[0] as Reservable | undefined)?.state : null;
  if (state === null)
    throw new OptionError("sequences", sequences, "an array of sequences", "pass [sequence].");
  for (let i = 0; i < sequences.length; i++) {
    const sequence: Reservable | undefined = sequences[i];
    if (!(sequence?.state instanceof SequenceState) || sequence.state !== state)
      throw new OptionError(`sequences[${i}]`, sequence, "of one cache", "pass its sequences.");
  }
}

const sharers = new WeakMap<StepArrays, PrefixSharer>();

/** Remembers from step to step which neighbours share what, and owns the two levels. */
class PrefixSharer {
  readonly #shared = createLevel(0);
  readonly #rest = createLevel(0);
  readonly #levels = [this.#shared, this.#rest];
  #capacity = 0;
  // By request i: its slot and row version, and the pages it shares with request i + 1, when these
  // were last compared. Pages that are only added never lengthen what two rows share: a shared last
  // page is copied before it is written.
  #count = 0;
  #slots = new Int32Array(0);
  #versions = new Int32Array(0);
  readonly #runs = new PrefixRuns();

  share(batch: StepArrays, state: SequenceState, worthSharing: WorthSharing): boolean {
    this.#ensure(batch.requestCount);
    if (this.#compare(batch, state)) this.#runs.choose(batch.requestCount);
    if (this.#runs.spared === 0) return false;
    if (!this.#write(batch, state, worthSharing)) return false;
    batch.layout.levels = this.#levels;
    return true;
  }

  #ensure(count: number): void {
    if (count <= this.#capacity) return;
    this.#capacity = roomFor(count);
    const size = this.#capacity;
    for (const level of this.#levels) Object.assign(level, createLevel(size));
    this.#rest.requests = identity(size);
    this.#count = 0;
    this.#slots = new Int32Array(size);
    this.#versions = new Int32Array(size);
    this.#runs.resize(size);
  }

  /** Brings the shared page counts up to date; true when any has changed. */
  #compare(batch: StepArrays, state: SequenceState): boolean {
    const count = batch.requestCount;
    const { slots } = batch;
    const { common } = this.#runs;
    let changed = count !== this.#count;
    let changedBefore = false;
    for (let i = 0; i < count; i++) {
      const slot = slots[i];
      const version = state.versions[slot];
      const same = i < this.#count && this.#slots[i] === slot && this.#versions[i] === version;
      const known = same && !changedBefore && i > 0;
      if (!known && i > 0) {
        const pages = commonPages(state, slots[i - 1], slot);
        if (pages !== common[i - 1]) changed = true;
        common[i - 1] = pages;
      }
      changedBefore = !same;
      this.#slots[i] = slot;
      this.#versions[i] = version;
    }
    this.#count = count;
    return changed;
  }

  /** Writes both levels; false when no run is worth sharing. */
  #write(batch: StepArrays, state: SequenceState, worthSharing: WorthSharing): boolean {
    const { queryIndptr, kvLengths, requestCount } = batch;
    const { slots } = batch.whole;
    const rest = this.#rest;
    this.#shared.rowCount = 0;
    rest.rowCount = rest.requestRows = requestCount;
    rest.queryIndptr = queryIndptr;
    rest.slots = slots;
    let next = 0;
    for (let start = 0, end = 0; start < requestCount; start = end) {
      end = this.#runs.ends[start];
      const tokens = this.#runs.pages[start] * state.pageSize;
      if (tokens === 0) continue;
      if (!worthSharing(tokens, end - start, queryIndptr[end] - queryIndptr[start])) continue;
      if (next < start) this.#pushRow(batch, next, 0);
      this.#pushRow(batch, start, tokens);
      for (let r = next; r < end; r++) {
        const shared = r < start ? 0 : tokens;
        rest.positionStarts[r] = shared;
        rest.kvLengths[r] = kvLengths[r] - shared;
      }
      next = end;
    }
    if (next === 0) return false;
    if (next < requestCount) this.#pushRow(batch, next, 0);
    for (let r = next; r < requestCount; r++) {
      rest.positionStarts[r] = 0;
      rest.kvLengths[r] = kvLengths[r];
    }
    this.#shared.queryIndptr[this.#shared.rowCount] = batch.tokenCount;
    return true;
  }

  #pushRow(batch: StepArrays, request: number, tokens: number): void {
    const level = this.#shared;
    const row = level.rowCount++;
    level.requestRows = level.rowCount;
    level.queryIndptr[row] = batch.queryIndptr[request];
    level.requests[row] = request;
    level.slots[row] = batch.whole.slots[request];
    level.kvLengths[row] = tokens;
  }
}

/** Leading full pages that two rows have in common in every group. */
function commonPages(state: SequenceState, a: number, b: number): number {
  let common = Math.floor(Math.min(state.lengths[a], state.lengths[b]) / state.pageSize);
  for (let g = 0; g < state.groups.length; g++) {
    const { table } = state.groups[g];
    const rowA = table.rows.starts[a];
    const rowB = table.rows.starts[b];
    let column = 0;
    while (column < common && table.at(rowA + column) === table.at(rowB + column)) column++;
    common = column;
  }
  return common;
}

/**
 * Writes to into[0..sequences.length) the indices of `sequences` in prefix order: sequences with
 * the same leading pages are together, deeper shares closer. Keeps the order of equals.
 */
export function orderByPrefix(sequences: readonly Reservable[], into: Int32Array): void {
  checkList(sequences);
  if (!(into instanceof Int32Array))
    throw new OptionError("into", into, "an Int32Array", "give room for every sequence.");
  if (into.length < sequences.length)
    throw new OptionError(
      "into.length",
      into.length,
      `${sequences.length} or more`,
      "give room for every sequence.",
    );
  for (let i = 0; i < sequences.length; i++)
    if (sequences[i].slot < 0) throw new DisposedError(`sequence ${sequences[i].id}`);
  for (let i = 0; i < sequences.length; i++) {
    // Steps mostly come in order already: look at the end first.
    let low = i > 0 && comparePages(sequences[into[i - 1]], sequences[i]) <= 0 ? i : 0;
    let high = i;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (comparePages(sequences[i], sequences[into[middle]]) < 0) high = middle;
      else low = middle + 1;
    }
    if (low < i) into.copyWithin(low + 1, low, i);
    into[low] = i;
  }
}

/** Orders two sequences of a pool by page ids, column by column; a prefix comes first. */
export function comparePages(a: Reservable, b: Reservable): number {
  const { pageCounts, groups } = a.state;
  let group = 0;
  while (group + 1 < groups.length && groups[group].windowLeft >= 0) group++;
  const { table } = groups[group];
  const columns = Math.min(pageCounts[a.slot], pageCounts[b.slot]);
  const rowA = table.rows.starts[a.slot];
  const rowB = table.rows.starts[b.slot];
  for (let column = 0; column < columns; column++) {
    const difference = table.at(rowA + column) - table.at(rowB + column);
    if (difference !== 0) return difference;
  }
  return pageCounts[a.slot] - pageCounts[b.slot];
}
