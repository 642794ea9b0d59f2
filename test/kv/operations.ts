import { expect } from "bun:test";
import { OutOfPagesError } from "../../src/errors.ts";
import { type Sequence, SequencePool } from "../../src/kv/sequence.ts";
import type { Random } from "../support/random.ts";
import type { NaiveCache } from "./model.ts";

/** A pool of few pages and slots, of one to three groups with and without windows. */
export function randomPool(random: Random): SequencePool {
  const groups = Array.from({ length: random.integer(1, 3) }, () => ({
    pages: random.integer(20, 60),
    windowLeft: random.pick([-1, -1, 0, 1, 7, 20]),
  }));
  const pageSize = random.pick([1, 2, 5, 16]);
  return new SequencePool({ pageSize, groups, maxSequences: random.integer(2, 12) });
}

/** The values in random order. */
export function shuffled<T>(random: Random, values: readonly T[]): T[] {
  const result = [...values];
  for (let i = result.length - 1; i > 0; i--) {
    const j = random.integer(0, i);
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

/** Frees a sequence. */
export function drop(cache: NaiveCache, sequence: Sequence): void {
  sequence.free();
  cache.values.delete(sequence);
}

/** Cuts a sequence where its windows allow it, and checks the refusal where not. */
export function truncate(random: Random, cache: NaiveCache, sequence: Sequence): void {
  const values = cache.values.get(sequence)!;
  const length = random.chance(0.1)
    ? 0
    : values.length - random.integer(0, Math.min(6, values.length));
  const { pool } = cache;
  const held = pool.groups.every(({ windowLeft }, g) => {
    const passed = sequence.pages(g).findIndex((page) => page >= 0);
    const first = passed < 0 ? sequence.pageCount : passed;
    return windowLeft < 0 || first * pool.pageSize <= Math.max(0, length - windowLeft);
  });
  if (held || length === 0) {
    sequence.truncate(length);
    values.length = length;
  } else {
    expect(() => sequence.truncate(length)).toThrow(/length must be 0, or long enough/);
  }
}

/** Keeps some of the tokens of the last step. */
export function compact(random: Random, cache: NaiveCache, sequence: Sequence): void {
  const values = cache.values.get(sequence)!;
  const last = cache.pool.state.lastTokens[sequence.slot];
  const accepted = Array.from({ length: last }, (_, i) => i).filter(() => random.chance(0.6));
  try {
    sequence.compact(accepted);
  } catch (error) {
    expect(error).toBeInstanceOf(OutOfPagesError);
    return;
  }
  const base = values.length - last;
  const kept = accepted.map((index) => values[base + index]);
  values.length = base;
  values.push(...kept);
}
