import { requireOptions } from "../require.ts";
import { checkPositions, OutOfPagesResult, paddedCount, type OutOfPages } from "./batch.ts";
import { type ContextPart, keptTokens } from "./context-part.ts";
import type { PageGroup } from "./page-group.ts";
import type { SequenceState } from "./sequence-state.ts";
import type { StepArrays } from "./step-batch.ts";
import { checkSequences, checkWindows, type Reservable, requireWritten } from "./step-checks.ts";

/** Options of a step. */
export interface ReserveOptions {
  /** Pads the token arrays up to this many tokens. */
  padTo?: number;
  /**
   * Position of each new token, from 0 to 2^31 - 2, as a query and as a key; by default they count
   * up from the sequence's length.
   */
  positions?: ArrayLike<number>;
}

/** The names of a step's options. */
export const reserveOptions = ["padTo", "positions"] as const;

/**
 * Grows sequences by newTokens[i] tokens each and writes the step to `batch`; returns null. First
 * checks everything, then changes everything: on a throw or out of pages nothing has changed.
 */
export function reserveStep(
  state: SequenceState,
  batch: StepArrays,
  sequences: readonly Reservable[],
  newTokens: ArrayLike<number>,
  options: ReserveOptions | undefined,
): OutOfPages | null {
  if (options !== undefined) requireOptions("options", options, reserveOptions);
  if (state.writes.step >= 0) requireWritten(state, batch);
  const tokens = checkSequences(state, sequences, newTokens);
  const count = sequences.length;
  const padded = paddedCount(options?.padTo, tokens);
  if (options?.positions !== undefined) {
    checkPositions(options.positions, tokens);
    checkWindows(state, count, options.positions);
  }
  for (let g = 0; g < state.groups.length; g++) {
    const group = state.groups[g];
    countPages(state, group, count);
    const missing = group.needed - group.allocator.freeCount;
    if (missing > 0) return new OutOfPagesResult(missing, g);
  }
  growRows(state);
  batch.ensure(count, padded);
  batch.requestCount = count;
  batch.tokenCount = tokens;
  batch.paddedTokens = padded;
  for (let g = 0; g < state.groups.length; g++) {
    const group = state.groups[g];
    takePages(state, group);
    mapTokens(state, group, batch.slotMappings[g], count);
    if (padded > tokens) batch.slotMappings[g].fill(-1, tokens, padded);
  }
  writeStep(state, batch, count);
  if (options?.positions !== undefined) writePositions(state, batch, options.positions);
  notePlain(state, batch);
  if (state.part !== undefined) keepPart(batch, state.part);
  state.writes.begin(batch.generation, tokens);
  return null;
}

/**
 * Sets group.needed: pages for new tokens and for copies of shared last pages, less those that
 * windows free. `leaving` notes users as they would be removed, for sequences that share pages.
 */
function countPages(state: SequenceState, group: PageGroup, requests: number): void {
  group.needed = 0;
  group.changingCount = group.passingCount = 0;
  if (group.windowLeft >= 0) countPassed(state, group, requests);
  const { pageSize, lengths, pageCounts, stepSlots, stepTokens } = state;
  const { allocator, table } = group;
  const { starts } = state.rows;
  for (let i = 0; i < requests; i++) {
    const count = stepTokens[i];
    if (count === 0) continue;
    const slot = stepSlots[i];
    const pages = pageCounts[slot];
    const room = pages * pageSize - lengths[slot];
    const page = room === 0 ? -1 : table.at(starts[slot] + pages - 1);
    const users = room === 0 ? 1 : allocator.referenceCount(page);
    if (count <= room && users === 1) continue;
    group.changing[group.changingCount++] = i;
    if (count > room) group.needed += Math.ceil((count - room) / pageSize);
    if (users === 1 || users - group.leaving[page] === 1) continue;
    group.needed++;
    group.leave(page);
  }
  group.forgetLeaving();
}

/** Counts the pages that windows have passed and that nothing else uses. */
function countPassed(state: SequenceState, group: PageGroup, requests: number): void {
  const { stepSlots, stepTokens } = state;
  for (let i = 0; i < requests; i++) {
    const slot = stepSlots[i];
    if (stepTokens[i] === 0 || !hasPassed(state, group, slot)) continue;
    group.passing[group.passingCount++] = i;
    const end = state.windowColumn(group, slot);
    for (let column = group.firstColumns[slot]; column < end; column++) {
      const page = group.table.get(slot, column);
      if (group.leave(page) === group.allocator.referenceCount(page)) group.needed--;
    }
  }
}

/** Whether the slot's first held page lies wholly before the window of the next query. */
function hasPassed(state: SequenceState, group: PageGroup, slot: number): boolean {
  const end = (group.firstColumns[slot] + 1) * state.pageSize;
  return end + group.windowLeft <= state.lengths[slot] && end <= state.places.plainLengths[slot];
}

/** Makes room in the rows of the sequences that take more pages: in every group the same. */
function growRows(state: SequenceState): void {
  const { pageSize, lengths, stepSlots, stepTokens } = state;
  const { changing, changingCount } = state.groups[0];
  for (let i = 0; i < changingCount; i++) {
    const slot = stepSlots[changing[i]];
    state.growRow(slot, Math.ceil((lengths[slot] + stepTokens[changing[i]]) / pageSize));
  }
}

/** Frees what windows passed, then copies shared last pages and adds new ones. */
function takePages(state: SequenceState, group: PageGroup): void {
  const { pageSize, lengths, pageCounts, stepSlots, stepTokens } = state;
  const { allocator, table } = group;
  group.copyCount = 0;
  for (let i = 0; i < group.passingCount; i++)
    state.releasePassed(group, stepSlots[group.passing[i]]);
  for (let i = 0; i < group.changingCount; i++) {
    const request = group.changing[i];
    const slot = stepSlots[request];
    const pages = pageCounts[slot];
    const room = pages * pageSize - lengths[slot];
    if (room > 0) {
      const page = table.get(slot, pages - 1);
      if (allocator.referenceCount(page) > 1) {
        group.copied(request, pages - 1, page);
        state.ownPage(group, slot, pages - 1, pageSize - room);
      } else if (group.copyCount > 0) {
        writeOver(state, group, page, pageSize - room);
      }
    }
    const end = Math.ceil((lengths[slot] + stepTokens[request]) / pageSize);
    for (let column = pages; column < end; column++) table.set(slot, column, allocator.take());
  }
  group.freedBefore = allocator.freedCount;
}

/**
 * The last user of a page writes it from its token `kept` on: a request that copied more of it than
 * that cannot have it back.
 */
function writeOver(state: SequenceState, group: PageGroup, page: number, kept: number): void {
  const { copies, copyCount } = group;
  for (let at = 0; at < 3 * copyCount; at += 3) {
    if (copies[at + 2] !== page) continue;
    const length = state.lengths[state.stepSlots[copies[at]]];
    if (length - copies[at + 1] * state.pageSize > kept) copies[at + 2] = -1;
  }
}

/** Writes where each new token goes: page * pageSize + offset. */
function mapTokens(
  state: SequenceState,
  group: PageGroup,
  mapping: Int32Array,
  requests: number,
): void {
  const { pageSize, lengths, pageCounts, stepSlots, stepTokens } = state;
  const { table } = group;
  let token = 0;
  for (let i = 0; i < requests; i++) {
    const count = stepTokens[i];
    if (count === 0) continue;
    const slot = stepSlots[i];
    let index = table.rows.starts[slot] + pageCounts[slot];
    let offset = lengths[slot] - pageCounts[slot] * pageSize;
    // A negative offset lies in the last page the sequence had, which is not full.
    if (offset < 0) {
      index--;
      offset += pageSize;
    }
    let place = table.at(index) * pageSize + offset;
    const end = token + count;
    while (true) {
      mapping[token++] = place++;
      if (token === end) break;
      if (++offset === pageSize) {
        offset = 0;
        place = table.at(++index) * pageSize;
      }
    }
  }
}

/** Writes what all groups share, and grows the sequences. */
function writeStep(state: SequenceState, batch: StepArrays, requests: number): void {
  const { lengths, pageCounts, lastTokens, pageSize, stepSlots, stepTokens } = state;
  const { queryIndptr, kvLengths, positions, tokenRequests } = batch;
  const { slots, lengthsBefore, lastTokensBefore } = batch;
  const starts = batch.whole.slots;
  const rowStarts = state.rows.starts;
  const step = ++batch.generation;
  state.places.begin(positions);
  let token = 0;
  for (let i = 0; i < requests; i++) {
    const slot = stepSlots[i];
    const count = stepTokens[i];
    let position = lengths[slot];
    lengthsBefore[i] = position;
    const end = token + count;
    while (token < end) {
      positions[token] = position++;
      tokenRequests[token++] = i;
    }
    queryIndptr[i + 1] = token;
    kvLengths[i] = position;
    slots[i] = slot;
    starts[i] = rowStarts[slot];
    lengths[slot] = position;
    lastTokensBefore[i] = lastTokens[slot];
    lastTokens[slot] = count;
    state.steps[slot] = step;
    state.places.add(slot, queryIndptr[i]);
    if (position > pageCounts[slot] * pageSize) pageCounts[slot] = Math.ceil(position / pageSize);
  }
  if (token < batch.paddedTokens) {
    positions.fill(0, token, batch.paddedTokens);
    tokenRequests.fill(-1, token, batch.paddedTokens);
  }
  batch.whole.rowCount = batch.whole.requestRows = requests;
  batch.layout.levels = batch.wholeLevels;
  batch.customPositions = false;
}

/** Writes the caller's positions, and which sequences have keys that no longer stand at places. */
function writePositions(
  state: SequenceState,
  batch: StepArrays,
  positions: ArrayLike<number>,
): void {
  for (let token = 0; token < batch.tokenCount; token++) {
    const place = batch.positions[token];
    if (place === positions[token]) continue;
    state.places.give(batch.slots[batch.tokenRequests[token]], place);
    batch.customPositions = true;
    batch.positions[token] = positions[token];
  }
}

/** Notes the step's keys that stand at their places, if not all do. */
function notePlain(state: SequenceState, batch: StepArrays): void {
  batch.plainLengths = null;
  if (!state.places.kept) return;
  for (let r = 0; r < batch.requestCount; r++) {
    batch.plain[r] = state.places.plainLengths[batch.slots[r]];
    if (batch.plain[r] < batch.kvLengths[r]) batch.plainLengths = batch.plain;
  }
}

/**
 * Makes a step that was written for whole sequences one over the keys that are kept here: lengths
 * count these, the other new tokens are not appended, and keys are told by their positions.
 */
function keepPart(step: StepArrays, part: ContextPart): void {
  const { kvLengths, requestCount, tokenCount, slotMappings, plain } = step;
  const { rank, ranks } = part;
  for (let r = 0; r < requestCount; r++) kvLengths[r] = keptTokens(kvLengths[r], part);
  // Pages begin at multiples of `ranks`, so that a token's place in its page is its owner, too.
  for (const places of slotMappings)
    for (let token = 0; token < tokenCount; token++)
      places[token] = places[token] % ranks === rank ? Math.floor(places[token] / ranks) : -1;
  step.part = part;
  step.customPositions = true;
  step.plainLengths = plain.fill(0, 0, requestCount);
}
