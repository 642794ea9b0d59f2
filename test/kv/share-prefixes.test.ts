import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { SequencePool } from "../../src/kv/sequence.ts";
import { orderByPrefix, sharePrefixes } from "../../src/kv/share-prefixes.ts";
import { forSeeds } from "../support/random.ts";

/** First entry of a sequence's page-table row. */
function rowOf({ state, slot }: Sequence): number {
  return state.rows.starts[slot];
}

/** Leading full pages two sequences share in all groups. */
function common(pool: SequencePool, a: Sequence, b: Sequence): number {
  let pages = Math.floor(Math.min(a.length, b.length) / pool.pageSize);
  for (let g = 0; g < pool.groups.length; g++) {
    const [left, right] = [a.pages(g), b.pages(g)];
    for (let column = 0; column < pages; column++)
      if (left[column] !== right[column]) pages = column;
  }
  return pages;
}

/** The most page reads that any choice of runs spares, by trying all last runs. */
function bestSaving(pool: SequencePool, sequences: readonly Sequence[]): number {
  const best = [0];
  const shares = sequences.slice(1).map((next, i) => common(pool, sequences[i], next));
  for (let end = 1; end <= sequences.length; end++) {
    best[end] = best[end - 1];
    let pages = Infinity;
    for (let start = end - 2; start >= 0; start--) {
      pages = Math.min(pages, shares[start]);
      best[end] = Math.max(best[end], best[start] + pages * (end - 1 - start));
    }
  }
  return best[sequences.length];
}

/** Checks both levels against the sequences' own pages and returns the page reads spared. */
function checkLevels(pool: SequencePool, batch: Batch, sequences: readonly Sequence[]): number {
  const [shared, rest] = batch.layout.levels;
  const sharedTokens = new Int32Array(sequences.length);
  let saving = 0;
  let token = 0;
  for (let row = 0; row < shared.rowCount; row++) {
    expect(shared.queryIndptr[row]).toBe(token);
    token = shared.queryIndptr[row + 1];
    const request = shared.requests[row];
    const next = row + 1 < shared.rowCount ? shared.requests[row + 1] : sequences.length;
    expect(batch.queryIndptr[request]).toBe(shared.queryIndptr[row]);
    expect(batch.queryIndptr[next]).toBe(token);
    expect(shared.positionStarts[row]).toBe(0);
    expect(shared.slots[row]).toBe(rowOf(sequences[request]));
    const pages = shared.kvLengths[row] / pool.pageSize;
    expect(Number.isInteger(pages)).toBe(true);
    if (pages > 0) saving += pages * (next - request - 1);
    for (let r = request; r < next; r++) {
      sharedTokens[r] = shared.kvLengths[row];
      for (let g = 0; g < pool.groups.length; g++) {
        const own = sequences[r].pages(g).subarray(0, pages);
        expect(own).toEqual(sequences[request].pages(g).subarray(0, pages));
      }
    }
  }
  expect(token).toBe(batch.tokenCount);
  expect([shared.requestRows, rest.rowCount]).toEqual([shared.rowCount, sequences.length]);
  for (let r = 0; r < sequences.length; r++) {
    expect(rest.requests[r]).toBe(r);
    expect(rest.slots[r]).toBe(rowOf(sequences[r]));
    expect(rest.positionStarts[r]).toBe(sharedTokens[r]);
    expect(rest.kvLengths[r]).toBe(sequences[r].length - sharedTokens[r]);
    expect(rest.queryIndptr[r + 1]).toBe(batch.queryIndptr[r + 1]);
  }
  return saving;
}

describe("sharePrefixes", () => {
  test("over random steps, both levels are right and spare the most reads", () => {
    let twoLevels = 0;
    forSeeds(30, (random) => {
      const pool = new SequencePool({
        pageSize: random.pick([1, 3, 8]),
        groups: random.pick([[{ pages: 4000 }], [{ pages: 4000 }, { pages: 4000, windowLeft: 9 }]]),
        maxSequences: 100,
      });
      let sequences = [pool.create()];
      for (let step = 0; step < 60; step++) {
        if (sequences.length < 70 && random.chance(0.6)) {
          const at = random.integer(0, sequences.length - 1);
          const made = random.chance(0.8) ? sequences[at].fork() : pool.create();
          sequences.splice(at + random.integer(0, 1), 0, made);
        }
        if (sequences.length > 3 && random.chance(0.2))
          sequences.splice(random.integer(0, sequences.length - 1), 1)[0].free();
        const cut = random.pick(sequences);
        if (random.chance(0.1)) cut.truncate(0);
        if (random.chance(0.2)) {
          const order = new Int32Array(sequences.length);
          orderByPrefix(sequences, order);
          sequences = [...order].map((index) => sequences[index]);
        }
        const counts = sequences.map(() => random.pick([0, 1, 1, 1, 9]));
        const batch = pool.reserve(sequences, counts) as Batch;
        expect(batch.layout.levels.length).toBe(1);
        const best = bestSaving(pool, sequences);
        const all = random.chance(0.8);
        const worth = (tokens: number): boolean => all || tokens >= 4 * pool.pageSize;
        const split = sharePrefixes(batch, sequences, worth);
        expect(batch.layout.levels.length).toBe(split ? 2 : 1);
        if (all) expect(split).toBe(best > 0);
        if (!split) continue;
        twoLevels++;
        const saving = checkLevels(pool, batch, sequences);
        if (all) expect(saving).toBe(best);
        else
          for (const kv of batch.layout.levels[0].kvLengths.subarray(
            0,
            batch.layout.levels[0].rowCount,
          ))
            expect(kv === 0 || kv >= 4 * pool.pageSize).toBe(true);
      }
    });
    if (process.env["SEED"] === undefined) expect(twoLevels).toBeGreaterThan(500);
  });

  test("asks what sharing is worth with tokens, requests and query tokens", () => {
    const pool = new SequencePool({ pageSize: 4, groups: [{ pages: 50 }], maxSequences: 9 });
    const root = pool.create();
    pool.reserve([root], [10]);
    const sequences = [pool.create(), root, root.fork(), root.fork()];
    const batch = pool.reserve(sequences, [2, 1, 3, 1]) as Batch;
    const asked: number[][] = [];
    expect(sharePrefixes(batch, sequences, (...values) => asked.push(values) > 9)).toBe(false);
    expect(asked).toEqual([[8, 3, 5]]);
    expect(sharePrefixes(batch, sequences, () => true)).toBe(true);
    const [shared] = batch.layout.levels;
    expect([...shared.kvLengths.subarray(0, shared.rowCount)]).toEqual([0, 8]);
    expect([...shared.queryIndptr.subarray(0, shared.rowCount + 1)]).toEqual([0, 2, 7]);
  });
});

test("sharePrefixes refuses sequences of another pool whose slots are the same", () => {
  const pools = [0, 1].map(
    () => new SequencePool({ pageSize: 4, groups: [{ pages: 50 }], maxSequences: 9 }),
  );
  const [own, others] = pools.map((pool) => {
    const root = pool.create();
    pool.reserve([root], [8]);
    return [root, root.fork()];
  });
  const batch = pools[0].reserve(own, [1, 1]) as Batch;
  const share = () => sharePrefixes(batch, others, () => true);
  expect(share).toThrow(OptionError);
  expect(share).toThrow("sequences[0] must be the one reserved at this place");
  expect(sharePrefixes(batch, own, () => true)).toBe(true);
});

describe("orderByPrefix", () => {
  test("is a permutation in which any shared prefix stands together", () => {
    forSeeds(40, (random) => {
      const pool = new SequencePool({ pageSize: 2, groups: [{ pages: 900 }], maxSequences: 60 });
      const sequences = [pool.create()];
      while (sequences.length < 40) {
        const from = random.pick(sequences);
        const made = random.chance(0.8) ? from.fork() : pool.create();
        pool.reserve([made], [random.integer(0, 5)]);
        sequences.splice(random.integer(0, sequences.length), 0, made);
      }
      const order = new Int32Array(sequences.length);
      orderByPrefix(sequences, order);
      expect([...order].sort((a, b) => a - b)).toEqual(sequences.map((_, i) => i));
      const ordered = [...order].map((index) => sequences[index]);
      for (let i = 0; i + 2 < ordered.length; i++)
        for (let j = i + 2; j < ordered.length; j++)
          expect(common(pool, ordered[i], ordered[j])).toBeLessThanOrEqual(
            common(pool, ordered[j - 1], ordered[j]),
          );
    });
  });
});
