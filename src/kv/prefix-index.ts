import { DisposedError, OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import { PrefixTree, type PrefixNode } from "./prefix-tree.ts";
import type { SequenceState } from "./sequence-state.ts";
import type { PrefixMatch, Sequence, SequencePool } from "./sequence.ts";
import { orderByPrefix } from "./share-prefixes.ts";

/** What an index holds and how often it helped. */
export interface PrefixStats {
  /** Pages held, over all groups. */
  readonly pages: number;
  readonly lookups: number;
  /** Lookups that matched a page or more. */
  readonly hits: number;
  readonly lookupTokens: number;
  readonly hitTokens: number;
}

/**
 * Computed prompts kept for reuse: a radix tree over token ids, whole pages at a time. It holds the
 * pages it indexes until they are evicted, least recently used first, never those a sequence uses.
 */
export class PrefixIndex {
  readonly #pool: SequencePool;
  readonly #tree: PrefixTree;
  #version = 0;
  #pages = 0;
  #lookups = 0;
  #hits = 0;
  #lookupTokens = 0;
  #hitTokens = 0;

  constructor(pool: SequencePool) {
    this.#pool = pool;
    this.#tree = new PrefixTree(pool.pageSize, pool.groups.length);
  }

  get stats(): PrefixStats {
    return {
      pages: this.#pages,
      lookups: this.#lookups,
      hits: this.#hits,
      lookupTokens: this.#lookupTokens,
      hitTokens: this.#hitTokens,
    };
  }

  /**
   * The longest indexed prefix of `tokens` in whole pages, for pool.create({ prefix }); it goes
   * stale with the next eviction. To have a query to run, match all but the prompt's last token.
   */
  match(tokens: Int32Array): PrefixMatch {
    requireTokens(tokens);
    const { pageSize, groups, state } = this.#pool;
    const found: number[] = [];
    let last: PrefixNode | null = null;
    let node = this.#tree.find(this.#tree.root, tokens, 0);
    while (node !== null) {
      const common = this.#tree.common(node, tokens, (found.length / groups.length) * pageSize);
      for (let i = 0; i < common * groups.length; i++) found.push(node.pages[i]);
      last = node;
      if (common * pageSize < node.tokens.length) break;
      node = this.#tree.find(node, tokens, (found.length / groups.length) * pageSize);
    }
    if (last !== null) this.#tree.touch(last);
    const columns = usableColumns(state, found);
    this.#lookups++;
    this.#lookupTokens += tokens.length;
    if (columns > 0) this.#hits++;
    this.#hitTokens += columns * pageSize;
    const pages = Int32Array.from(found.slice(0, columns * groups.length));
    return new Match(this, this.#version, columns * pageSize, pages, state);
  }

  /**
   * Indexes the full pages of `tokens`, the first tokens of a sequence whose K/V were computed, and
   * returns how many pages it holds more. Pages of tokens already indexed stay as they are.
   */
  insert(tokens: Int32Array, sequence: Sequence): number {
    requireTokens(tokens);
    this.#checkSequence(tokens, sequence);
    const { pageSize, groups } = this.#pool;
    const columns = Math.floor(tokens.length / pageSize);
    const before = this.#pages;
    let column = 0;
    let node = this.#tree.root;
    while (column < columns) {
      let child = this.#tree.find(node, tokens, column * pageSize);
      if (child === null) {
        const part = tokens.slice(column * pageSize, columns * pageSize);
        child = this.#tree.add(
          node,
          part,
          new Int32Array((columns - column) * groups.length).fill(-1),
        );
      }
      const common = this.#tree.common(child, tokens, column * pageSize);
      if (common * pageSize < child.tokens.length && column + common < columns)
        child = this.#tree.split(child, common);
      this.#hold(child, common, sequence, column);
      column += common;
      node = child;
    }
    if (node.parent !== null) this.#tree.touch(node);
    return this.#pages - before;
  }

  /**
   * Frees up to `pages` pages of a group, least recently used first, and returns how many it freed:
   * fewer when sequences use the rest. All groups give up the same columns.
   */
  evict(pages: number, group = 0): number {
    requireInteger("pages", pages, 0);
    requireInteger("group", group, 0, this.#pool.groups.length - 1);
    let freed = 0;
    let node = this.#tree.oldest;
    while (node !== null && freed < pages) {
      const newer: PrefixNode | null = node.newer;
      if (node.children === null) freed += this.#evictLeaf(node, pages - freed, group);
      node = newer;
    }
    return freed;
  }

  /** Writes the indices of `sequences` in prefix order, which lets neighbours share levels. */
  order(sequences: readonly Sequence[], into: Int32Array): void {
    orderByPrefix(sequences, into);
  }

  /** Lets go of all pages. */
  clear(): void {
    for (let node = this.#tree.oldest; node !== null; node = node.newer)
      this.#release(node, 0, node.pages.length / this.#pool.groups.length);
    this.#tree.clear();
    this.#version++;
  }

  [Symbol.dispose](): void {
    this.clear();
  }

  /** Whether a match of that version may still be used: for its own matches. */
  isStale(version: number): boolean {
    return version !== this.#version;
  }

  #checkSequence(tokens: Int32Array, sequence: Sequence): void {
    if (sequence.pool !== this.#pool)
      throw new OptionError("sequence", sequence, "a sequence of the index's pool", "use its own.");
    if (sequence.slot < 0) throw new DisposedError(`sequence ${sequence.id}`);
    if (tokens.length > sequence.length)
      throw new OptionError(
        "tokens.length",
        tokens.length,
        `at most the sequence's length (${sequence.length})`,
        "insert only tokens whose K/V were computed.",
      );
  }

  /** Holds the sequence's pages from `column` on where the first `count` of the node have none. */
  #hold(node: PrefixNode, count: number, sequence: Sequence, column: number): void {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length; g++) {
      const { table, allocator } = groups[g];
      const row = sequence.slot * table.stride + column;
      for (let i = 0; i < count; i++) {
        const page = table.data[row + i];
        if (page < 0 || node.pages[i * groups.length + g] >= 0) continue;
        allocator.retain(page);
        node.pages[i * groups.length + g] = page;
        this.#pages++;
      }
    }
  }

  /** Gives up a leaf's last columns that no sequence uses, until `pages` of the group are free. */
  #evictLeaf(leaf: PrefixNode, pages: number, group: number): number {
    const { groups } = this.#pool;
    const columns = leaf.pages.length / groups.length;
    let kept = columns;
    let freed = 0;
    while (kept > 0 && freed < pages && !this.#inUse(leaf, kept - 1)) {
      kept--;
      if (leaf.pages[kept * groups.length + group] >= 0) freed++;
    }
    if (kept === columns) return 0;
    this.#release(leaf, kept, columns);
    this.#tree.trim(leaf, kept);
    this.#version++;
    return freed;
  }

  #inUse(node: PrefixNode, column: number): boolean {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length; g++) {
      const page = node.pages[column * groups.length + g];
      if (page >= 0 && groups[g].allocator.referenceCount(page) > 1) return true;
    }
    return false;
  }

  #release(node: PrefixNode, from: number, to: number): void {
    const { groups } = this.#pool;
    for (let i = from * groups.length; i < to * groups.length; i++) {
      if (node.pages[i] < 0) continue;
      groups[i % groups.length].allocator.release(node.pages[i]);
      this.#pages--;
    }
  }
}

class Match implements PrefixMatch {
  readonly #index: PrefixIndex;
  readonly #version: number;

  constructor(
    index: PrefixIndex,
    version: number,
    readonly tokens: number,
    readonly pages: Int32Array,
    readonly state: SequenceState,
  ) {
    this.#index = index;
    this.#version = version;
  }

  get stale(): boolean {
    return this.#index.isStale(this.#version);
  }
}

/** The most leading columns after which every group holds what its next query sees. */
function usableColumns(state: SequenceState, pages: readonly number[]): number {
  const { groups, pageSize } = state;
  let columns = pages.length / groups.length;
  for (let g = 0; g < groups.length;) {
    const first = groups[g].windowColumn(columns * pageSize, pageSize);
    let column = columns - 1;
    while (column >= first && pages[column * groups.length + g] >= 0) column--;
    if (column < first) {
      g++;
    } else {
      // Any longer prefix that is shorter than this one sees the missing column too.
      columns = column;
      g = 0;
    }
  }
  return columns;
}

function requireTokens(tokens: unknown): asserts tokens is Int32Array {
  if (!(tokens instanceof Int32Array))
    throw new OptionError("tokens", tokens, "an Int32Array of token ids", "use Int32Array.from.");
}
