import { describe, expect, test } from "bun:test";
import { OptionError, PlanError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { PrefixIndex } from "../../src/kv/prefix-index.ts";
import { type Sequence, SequencePool } from "../../src/kv/sequence.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { NaiveCache } from "./model.ts";
import { compact, drop, randomPool, shuffled, truncate } from "./operations.ts";

/** A pool whose steps `layers` layers have to write. */
function poolOf(layers: number, pages = 8): SequencePool {
  return new SequencePool({ pageSize: 4, groups: [{ pages }], maxSequences: 4, layers });
}

function reserve(pool: SequencePool, sequences: Sequence[], counts: number[]): Batch {
  const batch = pool.reserve(sequences, counts);
  if (!batch.ok) throw batch.error;
  return batch;
}

/** Tokens, pages and tokens of the last step, by sequence. */
function lengthsOf(sequences: readonly Sequence[]) {
  return sequences.map((sequence) => {
    const { lastTokens } = sequence.state;
    return [sequence.length, sequence.pageCount, lastTokens[sequence.slot]];
  });
}

/** Expects the lengths of before; a window that moved on may have ended the step before. */
function expectLengths(live: readonly Sequence[], before: number[][], windows: boolean): void {
  for (const [i, [length, pages, last]] of lengthsOf(live).entries()) {
    const ended = windows && last === 0;
    expect([length, pages, last]).toEqual([before[i][0], before[i][1], ended ? 0 : before[i][2]]);
  }
}

/** Pages by sequence, those that a window at the sequence's end has passed as -1. */
function pagesOf(pool: SequencePool, g: number, sequences: readonly Sequence[]): number[][] {
  const { windowLeft } = pool.groups[g];
  return sequences.map((sequence) =>
    [...sequence.pages(g)].map((page, column) => {
      const passed = (column + 1) * pool.pageSize <= sequence.length - windowLeft;
      return windowLeft >= 0 && passed ? -1 : page;
    }),
  );
}

/** Whether two sequences end in one page at different places: the shorter may write over it. */
function overlap(pool: SequencePool, g: number, sequences: readonly Sequence[]): boolean {
  const ends = new Map<number, number>();
  for (const sequence of sequences) {
    const offset = sequence.length % pool.pageSize;
    if (offset === 0) continue;
    const page = sequence.pages(g).at(-1)!;
    if ((ends.get(page) ?? offset) !== offset) return true;
    ends.set(page, offset);
  }
  return false;
}

/** A step that writes some of its rows and is then given back. */
function failedStep(random: Random, cache: NaiveCache): number {
  const { pool, live } = cache;
  const chosen = shuffled(random, live).slice(0, random.integer(0, live.length));
  const most = random.pick([1, 3, 2 * pool.pageSize + 2]);
  const before = lengthsOf(live);
  const pages = pool.groups.map((_, g) => pagesOf(pool, g, live));
  const overlaps = pool.groups.map((_, g) => overlap(pool, g, chosen));
  const counts = chosen.map(() => random.integer(0, most));
  const batch = pool.reserve(chosen, counts);
  if (!batch.ok) return 0;
  if (random.chance(0.7)) cache.scribble(batch, random.integer(0, batch.tokenCount));
  pool.rollback(batch);
  expect(batch.stale).toBe(true);
  expect(() => pool.rollback(batch)).toThrow(PlanError);
  const windows = pool.groups.some(({ windowLeft }) => windowLeft >= 0);
  expectLengths(live, before, windows);
  pool.groups.forEach((_, g) => {
    if (!overlaps[g]) expect(pagesOf(pool, g, live)).toEqual(pages[g]);
  });
  return 1;
}

describe("rollback", () => {
  test("gives lengths, pages and contents back over 10,000 random operations", () => {
    let rolledBack = 0;
    forSeeds(20, (random) => {
      const pool = randomPool(random);
      const cache = new NaiveCache(pool);
      for (let operation = 0; operation < 500; operation++) {
        const { live } = cache;
        const full = live.length === pool.maxSequences;
        const kind = live.length === 0 ? 0 : random.integer(0, 19);
        if (kind === 0 && !full) cache.values.set(pool.create(), []);
        else if (kind <= 3 && !full) {
          const sequence = random.pick(live);
          cache.values.set(sequence.fork(), [...cache.values.get(sequence)!]);
        } else if (kind === 4) drop(cache, random.pick(live));
        else if (kind <= 6) truncate(random, cache, random.pick(live));
        else if (kind <= 8) compact(random, cache, random.pick(live));
        else if (kind <= 13) rolledBack += failedStep(random, cache);
        else {
          const chosen = shuffled(random, live).slice(0, random.integer(1, live.length));
          const batch = pool.reserve(
            chosen,
            chosen.map(() => random.integer(0, 4)),
          );
          if (batch.ok) cache.append(batch, chosen);
          else drop(cache, random.pick(live));
        }
        if (random.chance(0.5)) cache.copy();
        cache.check();
      }
      for (const sequence of cache.live) drop(cache, sequence);
      cache.check();
      for (const { allocator } of pool.groups) expect(allocator.usedCount).toBe(0);
    });
    expect(rolledBack).toBeGreaterThan(process.env["SEED"] === undefined ? 2000 : 50);
  });

  test("the next step takes the same pages again", () => {
    const pool = poolOf(0, 20);
    const sequences = [pool.create(), pool.create()];
    reserve(pool, sequences, [3, 6]);
    const places = () => {
      const batch = reserve(pool, sequences, [9, 7]);
      const { tokenCount, slotMappings } = batch;
      return { batch, slots: [...slotMappings[0].subarray(0, tokenCount)] };
    };
    const first = places();
    pool.rollback(first.batch);
    expect(places().slots).toEqual(first.slots);
  });

  test("sequences that were freed, cut or compacted since keep what they have", () => {
    const pool = poolOf(0, 20);
    const all = [pool.create(), pool.create(), pool.create(), pool.create()];
    reserve(pool, all, [6, 6, 6, 6]);
    const batch = reserve(pool, all, [5, 5, 5, 5]);
    const { slot } = all[0];
    all[0].free();
    const other = all[3].fork();
    expect(other.slot).toBe(slot);
    all[1].truncate(2);
    all[2].compact([0, 2]);
    pool.rollback(batch);
    expect([other.length, ...all.slice(1).map(({ length }) => length)]).toEqual([11, 2, 6, 6]);
    expect(pool.groups[0].allocator.usedCount).toBe(3 + 1 + 2);
  });

  test("drafts of the step before are not taken to be at the positions of what was given back", () => {
    const groups = [{ pages: 8 }];
    const pool = new SequencePool({ pageSize: 4, groups, maxSequences: 1, keyPositions: true });
    const sequence = pool.create();
    pool.reserve([sequence], [3], { positions: [0, 1, 7] });
    const batch = pool.reserve([sequence], [3], { positions: [9, 9, 1] });
    if (!batch.ok) throw batch.error;
    pool.rollback(batch);
    sequence.compact([0, 2]);
    expect(pool.state.places.plainLengths[sequence.slot]).toBe(1);
  });

  test("a page copied for a fork is shared again, unless its last user was freed", () => {
    const pool = poolOf(0);
    const first = pool.create();
    reserve(pool, [first], [6]);
    const second = first.fork();
    const page = first.pages()[1];
    pool.rollback(reserve(pool, [first, second], [1, 1]));
    expect([first.pages()[1], second.pages()[1]]).toEqual([page, page]);
    const batch = reserve(pool, [first, second], [1, 1]);
    const copy = first.pages()[1];
    second.free();
    pool.rollback(batch);
    expect([first.length, first.pages()[1]]).toEqual([6, copy]);
    expect(pool.groups[0].allocator.usedCount).toBe(2);
  });

  test("a page that a shorter fork wrote over stays a copy", () => {
    const pool = poolOf(0);
    const cache = new NaiveCache(pool);
    const long = pool.create();
    cache.values.set(long, []);
    cache.append(reserve(pool, [long], [7]), [long]);
    const short = long.fork();
    short.truncate(5);
    cache.values.set(short, cache.values.get(long)!.slice(0, 5));
    const batch = reserve(pool, [long, short], [1, 1]);
    cache.scribble(batch, 2);
    pool.rollback(batch);
    expect([long.length, short.length]).toEqual([7, 5]);
    expect(long.pages()[1]).not.toBe(short.pages()[1]);
    cache.check();
  });

  test("a batch of another pool is refused", () => {
    const [pool, other] = [poolOf(0), poolOf(0)];
    const batch = reserve(other, [other.create()], [1]);
    expect(() => pool.rollback(batch)).toThrow(/not of this cache.*Fix/);
    expect(batch.stale).toBe(false);
  });
});

describe("tokens that a layer has not written", () => {
  test("keep the next step away until they are written, given back, cut or freed", () => {
    const ends: ((pool: SequencePool, batch: Batch, sequence: Sequence) => void)[] = [
      (pool, batch) => pool.wrote(batch, 1),
      (pool, batch) => pool.rollback(batch),
      (_, batch, sequence) => sequence.truncate(sequence.length - batch.tokenCount),
      (_, __, sequence) => sequence.compact([]),
      (_, __, sequence) => sequence.free(),
    ];
    for (const end of ends) {
      const pool = poolOf(2);
      const [sequence, other] = [pool.create(), pool.create()];
      const batch = reserve(pool, [sequence], [3]);
      pool.wrote(batch, 0);
      pool.wrote(batch, 0);
      expect(() => pool.reserve([other], [1])).toThrow(PlanError);
      expect(() => pool.reserve([other], [1])).toThrow(/request 0 .* 3 tokens .*rollback/);
      expect([batch.stale, other.length]).toEqual([false, 0]);
      end(pool, batch, sequence);
      expect(pool.reserve([other], [1]).ok).toBe(true);
      expect(batch.stale).toBe(true);
    }
  });

  test("are not forked, compacted or indexed", () => {
    const pool = poolOf(2);
    const index = new PrefixIndex(pool);
    const [sequence, other] = [pool.create(), pool.create()];
    for (const step of [0, 1]) {
      const batch = reserve(pool, [sequence, other], [4, step]);
      pool.wrote(batch, 0);
      const tokens = Int32Array.from({ length: sequence.length }, (_, i) => i);
      expect(() => index.insert(tokens, sequence)).toThrow(OptionError);
      expect(() => index.insert(tokens, sequence)).toThrow(/without the 4 that not every layer/);
      expect(() => sequence.fork()).toThrow(/sequence 0 holds 4 tokens/);
      expect(() => sequence.compact([0, 1])).toThrow(/sequence 0 holds 4 tokens/);
      expect(index.insert(tokens.subarray(0, 4 * step), sequence)).toBe(0);
      expect(sequence.length).toBe(4 * (step + 1));
      pool.wrote(batch, 1);
      expect(index.insert(tokens, sequence)).toBe(1);
      sequence.fork().free();
    }
  });
});

test("a stale batch says so to whoever reads it, and no other step is read instead", () => {
  const pool = poolOf(0);
  const sequences = [pool.create(), pool.create()];
  const first = reserve(pool, sequences, [1, 1]);
  reserve(pool, sequences, [2, 2]);
  expect(first.stale).toBe(true);
  for (const name of [
    "tokenCount",
    "positions",
    "queryIndptr",
    "slotMappings",
    "layout",
  ] as const) {
    expect(() => first[name]).toThrow(PlanError);
    expect(() => first[name]).toThrow(/stale.*Fix/);
  }
  expect(() => pool.wrote(first, 0)).toThrow(PlanError);
});
