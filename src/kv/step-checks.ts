/** What reserve refuses before it changes anything. */
import { DisposedError, OptionError, PlanError } from "../errors.ts";
import { requireLength } from "../require.ts";
import { tokensMost, tooManyTokens } from "./batch.ts";
import type { SequenceState } from "./sequence-state.ts";
import type { StepArrays } from "./step-batch.ts";
import { maxInt32 } from "./validate.ts";

/** What a step needs to know of a sequence. */
export interface Reservable {
  readonly id: number;
  /** Its page-table row, -1 once freed. */
  readonly slot: number;
  /** The books it belongs to. */
  readonly state: SequenceState;
}

/** Throws a PlanError while a sequence holds tokens that a layer has not written. */
export function requireWritten(state: SequenceState, before: StepArrays): void {
  for (let r = 0; r < before.requestCount; r++) {
    const tokens = state.unwritten(before.slots[r]);
    if (tokens > 0) throw notWritten(`request ${r} of the step before`, tokens);
  }
}

let check = 0;

/** Tokens of the step; throws for sequences that are not live, not of this pool, or given twice. */
export function checkSequences(
  state: SequenceState,
  sequences: readonly Reservable[],
  newTokens: ArrayLike<number>,
): number {
  if (!Array.isArray(sequences))
    throw new OptionError("sequences", sequences, "an array of sequences", "pass [sequence].");
  requireLength("newTokens", newTokens, sequences.length);
  check = check === maxInt32 ? 1 : check + 1;
  const { stamps, lengths, stepSlots, stepTokens } = state;
  let tokens = 0;
  for (let i = 0; i < sequences.length; i++) {
    const sequence: Reservable | undefined = sequences[i];
    if (sequence?.state !== state) throw notOfPool(i, sequence);
    const { slot } = sequence;
    if (slot < 0) throw new DisposedError(`sequence ${sequence.id}`);
    if (stamps[slot] === check) throw givenTwice(i, sequence.id);
    stamps[slot] = check;
    const count = newTokens[i];
    if (!isCount(count)) throw badCount(i, count);
    if (count > maxInt32 - lengths[slot])
      throw tooManyTokens(`newTokens[${i}]`, lengths[slot] + count, maxInt32);
    stepSlots[i] = slot;
    stepTokens[i] = count;
    tokens += count;
  }
  if (tokens > tokensMost) throw tooManyTokens("newTokens", tokens);
  return tokens;
}

/** Errors: OptionError for a position whose window reaches keys that a page group has freed. */
export function checkWindows(
  state: SequenceState,
  requests: number,
  positions: ArrayLike<number>,
): void {
  for (const [g, group] of state.groups.entries()) {
    if (group.windowLeft < 0) continue;
    for (let i = 0, token = 0; i < requests; i++) {
      const slot = state.stepSlots[i];
      const column = Math.max(group.firstColumns[slot], state.windowColumn(group, slot));
      const least = column * state.pageSize + group.windowLeft;
      for (let end = token + state.stepTokens[i]; token < end; token++) {
        if (column === 0 || positions[token] >= least) continue;
        const allowed = `${least} or more: page group ${g} has freed what its window reaches else`;
        const fix = "give positions from the sequence's length on.";
        throw new OptionError(`positions[${token}]`, positions[token], allowed, fix);
      }
    }
  }
}

function isCount(count: unknown): boolean {
  return typeof count === "number" && (count | 0) === count && count >= 0;
}

/** The error for tokens that were reserved and that a layer has not written. */
export function notWritten(what: string, tokens: number): PlanError {
  return new PlanError(
    `${what} holds ${tokens} tokens that not every layer has written; nothing was changed. Fix: ` +
      "append every layer of a step before you go on, or give it back with cache.rollback(batch).",
  );
}

function notOfPool(index: number, sequence: unknown): OptionError {
  return new OptionError(
    `sequences[${index}]`,
    sequence,
    "a sequence of this pool",
    "make sequences with the cache they are used with.",
  );
}

function givenTwice(index: number, id: number): OptionError {
  return new OptionError(
    `sequences[${index}]`,
    `sequence ${id}`,
    "given once per step",
    "add up its new tokens, or fork it.",
  );
}

function badCount(index: number, count: unknown): OptionError {
  return new OptionError(
    `newTokens[${index}]`,
    count,
    `an integer from 0 to ${maxInt32}`,
    "give the new tokens of each sequence.",
  );
}
