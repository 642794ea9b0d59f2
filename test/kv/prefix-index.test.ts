import { describe, expect, test } from "bun:test";
import { OptionError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { PrefixIndex } from "../../src/kv/prefix-index.ts";
import { PrefixTree } from "../../src/kv/prefix-tree.ts";
import { Sequence, SequencePool } from "../../src/kv/sequence.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { NaiveCache } from "./model.ts";
import { truncate } from "./operations.ts";

/**
 * What an index should hold: for each indexed token prefix of whole pages, its last page by group.
 */
class NaiveIndex {
  readonly pages = new Map<string, Int32Array>();

  constructor(
    readonly pool: SequencePool,
    readonly index: PrefixIndex,
  ) {}

  key(tokens: readonly number[], column: number): string {
    return tokens.slice(0, (column + 1) * this.pool.pageSize).join(" ");
  }

  /** Longest usable prefix, in columns: present, with all that windows would look back on. */
  match(tokens: readonly number[]): number {
    const { pool } = this;
    let columns = 0;
    while (
      (columns + 1) * pool.pageSize <= tokens.length &&
      this.pages.has(this.key(tokens, columns))
    )
      columns++;
    const usable = (count: number): boolean =>
      pool.groups.every(({ windowLeft }, g) => {
        for (let column = 0; column < count; column++) {
          const seen =
            windowLeft < 0 || (column + 1) * pool.pageSize > count * pool.pageSize - windowLeft;
          if (seen && this.pages.get(this.key(tokens, column))![g] < 0) return false;
        }
        return true;
      });
    while (!usable(columns)) columns--;
    return columns;
  }

  insert(tokens: readonly number[], sequence: Sequence): number {
    let added = 0;
    for (let column = 0; (column + 1) * this.pool.pageSize <= tokens.length; column++) {
      const key = this.key(tokens, column);
      const held = this.pages.get(key) ?? new Int32Array(this.pool.groups.length).fill(-1);
      for (let g = 0; g < held.length; g++) {
        const page = sequence.pages(g)[column];
        if (held[g] >= 0 || page < 0) continue;
        held[g] = page;
        added++;
      }
      this.pages.set(key, held);
    }
    return added;
  }

  /** Holds the index to its word after an eviction, and forgets what it let go. */
  evict(pages: number, group: number): void {
    const users = (g: number, page: number): number =>
      this.pool.groups[g].allocator.referenceCount(page);
    const inUse = new Set<string>();
    const before = new Map<string, number[]>();
    for (const [key, held] of this.pages) {
      before.set(
        key,
        [...held].map((page, g) => (page < 0 ? -1 : users(g, page))),
      );
      if (before.get(key)!.some((count) => count > 1)) inUse.add(key);
    }
    const freeBefore = this.pool.groups.map(({ allocator }) => allocator.freeCount);
    const freed = this.index.evict(pages, group);
    expect(this.pool.groups[group].allocator.freeCount - freeBefore[group]).toBe(freed);
    expect(freed).toBeLessThanOrEqual(pages);
    for (const [key, held] of this.pages) {
      const gone = [...held].some((page, g) => page >= 0 && users(g, page) < before.get(key)![g]);
      // Columns without any page (windows passed them all) are seen to go only with their parents.
      if (!gone) continue;
      expect(inUse.has(key)).toBe(false);
      this.pages.delete(key);
    }
    for (const key of this.pages.keys()) {
      const column = key.split(" ").length / this.pool.pageSize - 1;
      if (column > 0)
        expect(this.pages.has(this.key(key.split(" ").map(Number), column - 1))).toBe(true);
    }
    if (freed === pages) return;
    const keys = [...this.pages.keys()];
    for (const key of keys) {
      if (this.pages.get(key)![group] < 0) continue;
      expect(keys.some((other) => inUse.has(other) && `${other} `.startsWith(`${key} `))).toBe(
        true,
      );
    }
  }

  held(group: number, page: number): number {
    let count = 0;
    for (const pages of this.pages.values()) if (pages[group] === page) count++;
    return count;
  }
}

function randomTokens(random: Random, known: readonly number[][]): number[] {
  const tokens = known.length > 0 && random.chance(0.8) ? [...random.pick(known)] : [];
  tokens.length = random.integer(0, tokens.length);
  const more = random.integer(0, 12);
  for (let i = 0; i < more; i++) tokens.push(random.integer(0, 2));
  return tokens;
}

describe("PrefixIndex", () => {
  test("agrees with a naive index over 10,000 operations and leaks no page", () => {
    let hits = 0;
    forSeeds(20, (random) => {
      const pool = new SequencePool({
        pageSize: random.pick([1, 2, 4]),
        groups: random.pick([[{ pages: 80 }], [{ pages: 80 }, { pages: 60, windowLeft: 3 }]]),
        maxSequences: 8,
      });
      const cache = new NaiveCache(pool);
      using index = new PrefixIndex(pool);
      const naive = new NaiveIndex(pool, index);
      const tokensOf = new Map<Sequence, number[]>();
      // By indexed prefix, what its last page holds.
      const values = new Map<string, number[]>();
      for (let operation = 0; operation < 500; operation++) {
        const kind = random.integer(0, 9);
        const live = cache.live;
        if (kind <= 3 && live.length < 8) {
          const tokens = randomTokens(random, [...tokensOf.values()]);
          // Half of the time more tokens follow, which do not count.
          const more = random.chance(0.5) ? randomTokens(random, [...tokensOf.values()]) : [];
          const match = index.match(Int32Array.from([...tokens, ...more]), tokens.length);
          expect(match.tokens).toBe(naive.match(tokens) * pool.pageSize);
          if (match.tokens > 0) hits++;
          const sequence = pool.create({ prefix: match });
          const adopted = tokens.slice(0, match.tokens);
          cache.values.set(sequence, []);
          for (let at = 0; at < match.tokens; at += pool.pageSize)
            cache.values.get(sequence)!.push(...values.get(naive.key(tokens, at / pool.pageSize))!);
          tokensOf.set(sequence, adopted);
          grow(random, pool, cache, sequence, tokens, tokensOf);
        } else if (kind <= 5 && live.length > 0) {
          const sequence = random.pick(live);
          const all = tokensOf.get(sequence)!;
          const tokens = all.slice(0, random.integer(0, sequence.length));
          const { pages } = index.stats;
          const known = new Set(naive.pages.keys());
          const added = naive.insert(tokens, sequence);
          const given = Int32Array.from(random.chance(0.5) ? all : tokens);
          expect(index.insert(given, sequence, tokens.length)).toBe(added);
          expect(index.stats.pages).toBe(pages + added);
          for (let at = 0; at + pool.pageSize <= tokens.length; at += pool.pageSize) {
            const key = naive.key(tokens, at / pool.pageSize);
            const page = cache.values.get(sequence)!.slice(at, at + pool.pageSize);
            if (!known.has(key)) values.set(key, page);
          }
        } else if (kind <= 7 && live.length > 0) {
          const sequence = random.pick(live);
          sequence.free();
          cache.values.delete(sequence);
          tokensOf.delete(sequence);
        } else if (kind === 8 && random.chance(0.1)) {
          index.clear();
          naive.pages.clear();
        } else if (kind === 8) {
          naive.evict(random.integer(0, 6), random.integer(0, pool.groups.length - 1));
        } else if (live.length > 0) {
          // It grows, or goes on in another way from somewhere before.
          const sequence = random.pick(live);
          if (random.chance(0.5)) truncate(random, cache, sequence);
          const kept = tokensOf.get(sequence)!.slice(0, sequence.length);
          tokensOf.set(sequence, kept);
          grow(random, pool, cache, sequence, [...kept, ...randomTokens(random, [])], tokensOf);
        }
        // A window group's pages may come from a second sequence of the same tokens: in life the
        // same K/V, here other values.
        cache.check((g, page) => naive.held(g, page), pool.groups.length === 1);
      }
      for (const sequence of cache.live) sequence.free();
      index.clear();
      expect(index.stats.pages).toBe(0);
      for (const { allocator } of pool.groups) expect(allocator.usedCount).toBe(0);
    });
    if (process.env["SEED"] === undefined) expect(hits).toBeGreaterThan(200);
  });

  test("prompts of another key share nothing", () => {
    const { pool, index, add } = indexed(2);
    add([1, 2, 3, 4]);
    const tokens = Int32Array.of(1, 2, 3, 4);
    expect(index.match(tokens, 4, 5).tokens).toBe(0);
    using sequence = pool.create();
    pool.reserve([sequence], [4]);
    expect(index.insert(tokens, sequence, 4, 5)).toBe(2);
    expect(index.match(tokens, 2, 5).pages).toEqual([sequence.pages(0)[0]]);
    expect(index.match(tokens, 2).pages).not.toEqual([sequence.pages(0)[0]]);
    expect(() => index.match(tokens, 4, -1)).toThrow(OptionError);
    expect(() => index.insert(tokens, sequence, 4, 0.5)).toThrow(OptionError);
    index.clear();
    expect(index.match(tokens, 4, 5).tokens).toBe(0);
  });

  test("a sequence goes on where it was, by key and by index", () => {
    const { pool, index } = indexed(2);
    using other = new PrefixIndex(pool);
    using sequence = pool.create();
    const tokens = Int32Array.of(1, 2, 3, 4, 5, 6, 7, 8);
    for (const [length, added] of [
      [4, 2],
      [8, 2],
      [6, 0],
    ]) {
      pool.reserve([sequence], [Math.max(0, length - sequence.length)]);
      for (const key of [0, 1]) expect(index.insert(tokens, sequence, length, key)).toBe(added);
      expect(other.insert(tokens, sequence, length)).toBe(added);
      for (const key of [0, 1]) expect(index.match(tokens, length, key).tokens).toBe(length);
      expect(other.match(tokens, length).tokens).toBe(length);
    }
  });

  test("edges split where prompts part, and count lookups, hits and tokens", () => {
    const { pool, index, add } = indexed(2);
    add([1, 2, 3, 4, 5, 6]);
    add([1, 2, 3, 4, 7, 8, 9]);
    add([1, 2, 9, 9]);
    expect(index.stats.pages).toBe(5);
    const match = (...tokens: number[]): number => index.match(Int32Array.from(tokens)).tokens;
    expect(match(1, 2, 3, 4, 5, 6, 7)).toBe(6);
    expect(match(1, 2, 3, 4, 7, 8)).toBe(6);
    expect(match(1, 2, 3, 4, 6, 6)).toBe(4);
    expect(match(1, 2, 9, 9)).toBe(4);
    expect(match(1, 2, 9)).toBe(2);
    expect(match(1)).toBe(0);
    expect(match()).toBe(0);
    expect(match(2, 1, 3, 4)).toBe(0);
    expect(index.stats).toEqual({
      pages: 5,
      lookups: 8,
      hits: 5,
      lookupTokens: 31,
      hitTokens: 22,
    });
    expect(pool.groups[0].allocator.usedCount).toBe(5);
  });

  test("evicts the least recently used leaf first, from its end, then what it hung on", () => {
    const { index, add } = indexed(1);
    add([1, 2]);
    add([1, 3]);
    add([4, 5, 6]);
    const held = (...tokens: number[]): number => index.match(Int32Array.from(tokens)).tokens;
    held(1, 2);
    expect(index.evict(1)).toBe(1);
    expect(held(1, 3)).toBe(1);
    expect(index.evict(2)).toBe(2);
    expect(held(4, 5, 6)).toBe(1);
    expect(held(1, 2)).toBe(2);
    expect(index.evict(9)).toBe(3);
    expect(index.stats.pages).toBe(0);
    expect(index.evict(1)).toBe(0);
  });

  test("never evicts what a sequence uses, and gives it up after", () => {
    const { pool, index, add } = indexed(2);
    add([1, 2, 3, 4, 5, 6]);
    const sequence = pool.create({ prefix: index.match(Int32Array.of(1, 2, 3, 4)) });
    expect(sequence.length).toBe(4);
    expect(index.evict(9)).toBe(1);
    expect(index.match(Int32Array.of(1, 2, 3, 4, 5, 6)).tokens).toBe(4);
    sequence.free();
    expect(index.evict(9)).toBe(2);
    expect(pool.groups[0].allocator.usedCount).toBe(0);
  });

  test("a sequence cut back into indexed pages copies before it writes", () => {
    const { pool, index, add } = indexed(4);
    add([1, 2, 3, 4]);
    const prefix = index.match(Int32Array.of(1, 2, 3, 4));
    const sequence = pool.create({ prefix });
    sequence.truncate(3);
    const batch = pool.reserve([sequence], [1]) as Batch;
    const [group] = pool.groups;
    expect(group.moveCount).toBe(1);
    expect(sequence.pages()[0]).not.toBe(prefix.pages[0]);
    expect(batch.slotMappings[0][0]).toBe(sequence.pages()[0] * 4 + 3);
    expect(group.allocator.referenceCount(prefix.pages[0])).toBe(1);
  });

  test("a window group's match ends where its pages suffice", () => {
    const groups = [{ pages: 40 }, { pages: 40, windowLeft: 2 }];
    const pool = new SequencePool({ pageSize: 2, groups, maxSequences: 4 });
    const index = new PrefixIndex(pool);
    const tokens = Int32Array.from({ length: 12 }, (_, i) => i);
    const sequence = pool.create();
    pool.reserve([sequence], [8]);
    pool.reserve([sequence], [4]);
    expect([...sequence.pages(1)].map((page) => page < 0)).toEqual([
      true,
      true,
      true,
      false,
      false,
      false,
    ]);
    index.insert(tokens, sequence);
    expect(index.stats.pages).toBe(9);
    expect(index.match(tokens).tokens).toBe(12);
    expect(index.match(tokens.subarray(0, 11)).tokens).toBe(10);
    expect(index.match(tokens.subarray(0, 7)).tokens).toBe(0);
    const next = pool.create({ prefix: index.match(tokens) });
    expect([...next.pages(1)].map((page) => page < 0)).toEqual([
      true,
      true,
      true,
      true,
      true,
      false,
    ]);
    expect([...next.pages(0)]).toEqual([...sequence.pages(0)]);
  });
});

describe("PrefixTree", () => {
  test("tells pages of equal hashes apart", () => {
    const tree = new PrefixTree(1, 1, () => 7);
    const find = (token: number): boolean =>
      tree.find(tree.rootOf(0), Int32Array.of(token), 0) !== null;
    for (let i = 0; i < 6; i++) tree.add(tree.rootOf(0), Int32Array.of(i, 9), Int32Array.of(i, i));
    for (const gone of [5, 0, 3]) {
      tree.trim(tree.find(tree.rootOf(0), Int32Array.of(gone), 0)!, 0);
      expect(find(gone)).toBe(false);
    }
    const upper = tree.split(tree.find(tree.rootOf(0), Int32Array.of(2), 0)!, 1);
    expect(tree.find(tree.rootOf(0), Int32Array.of(2), 0)).toBe(upper);
    expect([0, 1, 2, 3, 4, 5].map(find)).toEqual([false, true, true, false, true, false]);
  });
});

/** A pool of one group, an index, and a way to index tokens without keeping their sequence. */
function indexed(pageSize: number): {
  pool: SequencePool;
  index: PrefixIndex;
  add: (tokens: number[]) => void;
} {
  const pool = new SequencePool({ pageSize, groups: [{ pages: 40 }], maxSequences: 4 });
  const index = new PrefixIndex(pool);
  const add = (tokens: number[]): void => {
    using sequence = pool.create();
    pool.reserve([sequence], [tokens.length]);
    index.insert(Int32Array.from(tokens), sequence);
  };
  return { pool, index, add };
}

/** Reserves and appends the tokens a sequence lacks, in chunks; stops when pages run out. */
function grow(
  random: Random,
  pool: SequencePool,
  cache: NaiveCache,
  sequence: Sequence,
  tokens: readonly number[],
  tokensOf: Map<Sequence, number[]>,
): void {
  while (sequence.length < tokens.length) {
    const count = random.integer(1, tokens.length - sequence.length);
    const batch = pool.reserve([sequence], [count]);
    if (!batch.ok) return;
    cache.append(batch as Batch, [sequence]);
    tokensOf.set(sequence, tokens.slice(0, sequence.length));
  }
}
