import { describe, expect, test } from "bun:test";
import { OutOfPagesError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { Sequence, SequencePool } from "../../src/kv/sequence.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { NaiveCache, pagesMissing } from "./model.ts";
import { compact, drop, randomPool, shuffled, truncate } from "./operations.ts";

/** Reserves for some sequences and checks the batch; frees one when pages ran out. */
function step(random: Random, pool: SequencePool, cache: NaiveCache): void {
  const chosen = shuffled(random, cache.live).slice(0, random.integer(0, cache.live.length));
  const most = random.pick([1, 1, 3, 2 * pool.pageSize + 2]);
  const counts = chosen.map(() => random.integer(0, most));
  const before = chosen.map((sequence) => sequence.length);
  const missing = pool.groups.map((_, g) => pagesMissing(pool, g, chosen, counts));
  const tokens = counts.reduce((sum, count) => sum + count, 0);
  const padTo = random.chance(0.3) ? tokens + random.integer(0, 5) : undefined;
  const batch = pool.reserve(chosen, random.chance(0.5) ? Int32Array.from(counts) : counts, {
    padTo,
  });
  const group = missing.findIndex((count) => count > 0);
  expect(batch.ok).toBe(group < 0);
  if (!batch.ok) {
    expect([batch.group, batch.pagesMissing]).toEqual([group, missing[group]]);
    expect(batch.error).toBeInstanceOf(OutOfPagesError);
    cache.check();
    drop(cache, random.pick(cache.live));
    return;
  }
  checkBatch(pool, batch, chosen, counts, before, padTo ?? tokens);
  cache.append(batch, chosen);
}

function checkBatch(
  pool: SequencePool,
  batch: Batch,
  sequences: readonly Sequence[],
  counts: readonly number[],
  before: readonly number[],
  padded: number,
): void {
  expect(batch.requestCount).toBe(sequences.length);
  expect(batch.paddedTokens).toBe(padded);
  expect(batch.customPositions).toBe(false);
  expect(batch.owner).toBe(pool);
  const [level] = batch.layout.levels;
  expect(batch.layout.levels.length).toBe(1);
  expect([level.rowCount, level.requestRows, level.perHead]).toEqual([
    sequences.length,
    sequences.length,
    false,
  ]);
  let token = 0;
  sequences.forEach((sequence, r) => {
    expect(batch.queryIndptr[r]).toBe(token);
    expect(batch.kvLengths[r]).toBe(before[r] + counts[r]);
    expect([level.requests[r], level.slots[r]]).toEqual([r, pool.state.rows.starts[sequence.slot]]);
    expect([level.positionStarts[r], level.kvLengths[r]]).toEqual([0, sequence.length]);
    expect(level.queryIndptr[r]).toBe(token);
    for (let i = 0; i < counts[r]; i++, token++) {
      expect(batch.positions[token]).toBe(before[r] + i);
      expect(batch.tokenRequests[token]).toBe(r);
      pool.groups.forEach((_, g) => {
        const page = sequence.pages(g)[Math.floor((before[r] + i) / pool.pageSize)];
        const place = page * pool.pageSize + ((before[r] + i) % pool.pageSize);
        expect(batch.slotMappings[g][token]).toBe(place);
      });
    }
    pool.groups.forEach(({ windowLeft }, g) => {
      if (windowLeft < 0 || counts[r] === 0) return;
      sequence.pages(g).forEach((page, column) => {
        expect(page < 0).toBe((column + 1) * pool.pageSize <= before[r] - windowLeft);
      });
    });
  });
  expect(batch.tokenCount).toBe(token);
  expect(batch.queryIndptr[sequences.length]).toBe(token);
  for (; token < padded; token++) {
    expect([batch.positions[token], batch.tokenRequests[token]]).toEqual([0, -1]);
    for (const mapping of batch.slotMappings) expect(mapping[token]).toBe(-1);
  }
}

describe("SequencePool", () => {
  test("agrees with a naive cache over 10,000 operations and leaks no page", () => {
    let operations = 0;
    forSeeds(20, (random) => {
      const pool = randomPool(random);
      const cache = new NaiveCache(pool);
      for (let operation = 0; operation < 500; operation++, operations++) {
        const { live } = cache;
        const full = live.length === pool.maxSequences;
        const kind = live.length === 0 ? 0 : random.integer(0, 19);
        if (kind === 0 && !full) cache.values.set(pool.create(), []);
        else if (kind <= 2 && !full) {
          const sequence = random.pick(live);
          cache.values.set(sequence.fork(), [...cache.values.get(sequence)!]);
        } else if (kind === 3) drop(cache, random.pick(live));
        else if (kind <= 5) truncate(random, cache, random.pick(live));
        else if (kind <= 8) compact(random, cache, random.pick(live));
        else step(random, pool, cache);
        if (random.chance(0.5)) cache.copy();
        cache.check();
      }
      for (const sequence of cache.live) drop(cache, sequence);
      cache.check();
      for (const { allocator } of pool.groups) expect(allocator.usedCount).toBe(0);
    });
    expect(operations).toBe(process.env["SEED"] === undefined ? 10_000 : 500);
  });

  test("a fork copies the shared last page once, when one of the two writes", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 8 }], maxSequences: 2 });
    const first = pool.create();
    pool.reserve([first], [6]);
    const second = first.fork();
    const [group] = pool.groups;
    expect(group.allocator.usedCount).toBe(2);
    expect(second.pages()).toEqual(first.pages());
    const batch = pool.reserve([first, second], [1, 1]);
    expect(batch.ok).toBe(true);
    expect([...group.pendingMoves.subarray(0, 3)]).toEqual([4, 8, 2]);
    expect(group.moveCount).toBe(1);
    expect([[...first.pages()], [...second.pages()]]).toEqual([
      [0, 2],
      [0, 1],
    ]);
  });

  test("a fork at a page boundary copies nothing", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 8 }], maxSequences: 2 });
    const first = pool.create();
    pool.reserve([first], [8]);
    const second = first.fork();
    pool.reserve([first, second], [1, 1]);
    expect(pool.groups[0].moveCount).toBe(0);
    expect(pool.groups[0].allocator.usedCount).toBe(4);
  });

  test("each step has a batch of its own, with the next generation and the same arrays", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 8 }], maxSequences: 2 });
    const sequence = pool.create();
    const first = pool.reserve([sequence], [1]) as Batch;
    const { positions } = first;
    const second = pool.reserve([sequence], [1]) as Batch;
    expect(second.generation).toBe(first.generation + 1);
    expect(second.positions).toBe(positions);
  });

  test("own positions are kept and marked when they differ from the usual", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 8 }], maxSequences: 2 });
    const sequence = pool.create();
    const batch = pool.reserve([sequence], [3], { positions: [0, 1, 1], padTo: 4 }) as Batch;
    expect(batch.customPositions).toBe(true);
    expect([...batch.positions.subarray(0, 4)]).toEqual([0, 1, 1, 0]);
    const usual = pool.reserve([sequence], [2], { positions: [3, 4] }) as Batch;
    expect(usual.customPositions).toBe(false);
  });

  test("a window group frees what it passed and needs no more pages than the window", () => {
    const groups = [{ pages: 100 }, { pages: 4, windowLeft: 8 }];
    const pool = new SequencePool({ pageSize: 4, groups, maxSequences: 1 });
    using sequence = pool.create();
    for (let i = 0; i < 300; i++) {
      expect(pool.reserve([sequence], [1]).ok).toBe(true);
      for (const group of pool.groups) group.table.clearUpdates();
    }
    expect(pool.groups[0].allocator.usedCount).toBe(75);
    expect(pool.groups[1].allocator.usedCount).toBeLessThanOrEqual(4);
    expect(sequence.pages(1)[70]).toBe(-1);
  });

  test("compacting drafts moves only what must move", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 8 }], maxSequences: 1 });
    const sequence = pool.create();
    pool.reserve([sequence], [2]);
    pool.reserve([sequence], [8]);
    sequence.compact([0, 1, 4, 5]);
    const [group] = pool.groups;
    expect(sequence.length).toBe(6);
    expect([...group.pendingMoves.subarray(0, 3 * group.moveCount)]).toEqual([6, 4, 2]);
    expect(group.allocator.usedCount).toBe(2);
    sequence.compact([0]);
    expect([sequence.length, group.moveCount]).toEqual([3, 1]);
  });

  test("a fork's keys stand where those of its origin do, whoever had its slot before", () => {
    const pool = new SequencePool({
      pageSize: 4,
      groups: [{ pages: 8 }],
      maxSequences: 3,
      keyPositions: true,
    });
    const [first, other] = [pool.create(), pool.create()];
    pool.reserve([first, other], [3, 3], { positions: [0, 1, 7, 0, 5, 1] });
    other[Symbol.dispose]();
    const fork = first.fork();
    const right = pool.create();
    for (const sequence of [fork, first]) sequence.compact([0, 2]);
    const { plainLengths } = pool.state.places;
    expect([plainLengths[first.slot], plainLengths[fork.slot]]).toEqual([1, 1]);
    // Drafts at the place that they move to stand there, in a fork too.
    pool.reserve([right], [4], { positions: [0, 1, 1, 2] });
    first[Symbol.dispose]();
    const known = right.fork();
    for (const sequence of [known, right]) sequence.compact([0, 2, 3]);
    expect([plainLengths[right.slot], plainLengths[known.slot]]).toEqual([
      2 ** 31 - 1,
      2 ** 31 - 1,
    ]);
  });

  test("decode steps make no garbage to speak of", () => {
    const pool = new SequencePool({ pageSize: 16, groups: [{ pages: 9000 }], maxSequences: 64 });
    const sequences = Array.from({ length: 64 }, () => pool.create());
    const counts = new Int32Array(64).fill(1);
    const run = (steps: number): void => {
      for (let i = 0; i < steps; i++) {
        if (!pool.reserve(sequences, counts).ok) throw new Error("out of pages");
        pool.groups[0].table.clearUpdates();
      }
    };
    run(1100);
    Bun.gc(true);
    const before = process.memoryUsage().heapUsed;
    run(900);
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(200_000);
  });
});
