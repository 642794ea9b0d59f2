import { DisposedError, OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import { counted, showAsText } from "../shown.ts";
import { PrefixTree, type PrefixNode } from "./prefix-tree.ts";
import { SequenceState } from "./sequence-state.ts";
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
    if (!(pool?.state instanceof SequenceState) || typeof pool.create !== "function")
      throw new OptionError("pool", pool, "a SequencePool", "pass a cache's pool, or its own.");
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
   * The longest indexed prefix of the first `length` tokens in whole pages, for
   * pool.create({ prefix }); it goes stale with the next eviction. To have a query to run, match
   * all but the prompt's last token. Only what was inserted under the same `key` matches: whatever
   * beside the tokens says what their K/V are, such as an adapter.
   */
  match(tokens: Int32Array, length?: number, key = 0): PrefixMatch {
    const end = tokensEnd(tokens, length);
    requireInteger("key", key, 0);
    const { pageSize, groups, state } = this.#pool;
    const pages: number[] = [];
    let matched = 0;
    let last: PrefixNode | null = null;
    let whole = this.#tree.rootOf(key);
    let node = this.#tree.find(whole, tokens, 0, end);
    while (node !== null) {
      const common = this.#tree.common(node, tokens, matched, end);
      for (let i = 0; i < common * groups.length; i++) pages.push(node.pages[i]);
      matched += common * pageSize;
      last = node;
      if (common * pageSize < node.tokens.length) break;
      whole = node;
      node = this.#tree.find(node, tokens, matched, end);
    }
    if (last !== null) this.#tree.touch(last);
    const columns = usableColumns(state, pages);
    this.#lookups++;
    this.#lookupTokens += end;
    if (columns > 0) this.#hits++;
    this.#hitTokens += columns * pageSize;
    pages.length = columns * groups.length;
    while (whole.depth > columns) whole = whole.parent!;
    return new Match(this, this.#version, columns * pageSize, pages, state, key, whole);
  }

  /**
   * Indexes the full pages of the first `length` tokens, which are the first of a sequence whose
   * K/V were computed, and returns how many pages it holds more. Pages of tokens already indexed
   * stay as they are. Keys must stand at their places, as those of the sequences that match will.
   */
  insert(tokens: Int32Array, sequence: Sequence, length?: number, key = 0): number {
    const given = tokensEnd(tokens, length);
    requireInteger("key", key, 0);
    this.#checkSequence(given, sequence);
    const { pageSize, groups } = this.#pool;
    const columns = Math.floor(given / pageSize);
    const end = columns * pageSize;
    const before = this.#pages;
    const version = this.#pool.state.versions[sequence.slot];
    const known = sequence.place.find(this.#tree, key, columns, version);
    let node = known ?? this.#tree.rootOf(key);
    let column = node.depth;
    while (column < columns) {
      const at = column * pageSize;
      let child = this.#tree.find(node, tokens, at, end);
      let common = columns - column;
      if (child === null) {
        const pages = new Int32Array(common * groups.length).fill(-1);
        child = this.#tree.add(node, tokens.slice(at, end), pages);
      } else {
        common = this.#tree.common(child, tokens, at, end);
        if (common * pageSize < child.tokens.length && column + common < columns)
          child = this.#tree.split(child, common);
      }
      this.#hold(child, common, sequence, column);
      column += common;
      node = child;
    }
    if (node.parent !== null) this.#tree.touch(node);
    const whole = node.depth > columns ? node.parent! : node;
    sequence.place.note(this.#tree, key, whole, version);
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

  /** @internal */
  toString(): string {
    const lookups = counted(this.#lookups, "lookup");
    return `PrefixIndex: ${counted(this.#pages, "page")} held, ${this.#hits} hits in ${lookups}`;
  }

  /** @internal Whether a match of that version may still be used: for its own matches. */
  isStale(version: number): boolean {
    return version !== this.#version;
  }

  /** @internal Notes where the tokens lie that a new sequence begins with. */
  begin(sequence: Sequence, key: number, node: PrefixNode): void {
    sequence.place.note(this.#tree, key, node, this.#pool.state.versions[sequence.slot]);
  }

  #checkSequence(length: number, sequence: Sequence): void {
    if (sequence?.pool !== this.#pool)
      throw new OptionError("sequence", sequence, "a sequence of the index's pool", "use its own.");
    if (sequence.slot < 0) throw new DisposedError(`sequence ${sequence.id}`);
    const unwritten = this.#pool.state.unwritten(sequence.slot);
    if (length > sequence.length - unwritten)
      throw new OptionError(
        "tokens.length",
        length,
        `at most the sequence's length (${sequence.length})` +
          (unwritten > 0 ? ` without the ${unwritten} that not every layer has written` : ""),
        "insert only tokens whose K/V were computed.",
      );
    const { places, pageSize } = this.#pool.state;
    const plain = places.plainLengths[sequence.slot];
    if (length - (length % pageSize) > plain)
      throw new OptionError(
        "tokens.length",
        length,
        `at most ${plain}: keys from there on stand at positions of their own`,
        "insert the tokens before them.",
      );
  }

  /** Holds the sequence's pages from `column` on where the first `count` of the node have none. */
  #hold(node: PrefixNode, count: number, sequence: Sequence, column: number): void {
    const { groups } = this.#pool;
    for (let g = 0; g < groups.length; g++) {
      const { table, allocator } = groups[g];
      const row = table.rows.starts[sequence.slot] + column;
      for (let i = 0; i < count; i++) {
        const page = table.at(row + i);
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
    readonly pages: readonly number[],
    readonly state: SequenceState,
    private readonly key: number,
    /** The last node whose edge it holds as a whole. */
    private readonly node: PrefixNode,
  ) {
    this.#index = index;
    this.#version = version;
  }

  get stale(): boolean {
    return this.#index.isStale(this.#version);
  }

  begin(sequence: Sequence): void {
    this.#index.begin(sequence, this.key, this.node);
  }

  toString(): string {
    return `PrefixMatch: ${counted(this.tokens, "token")}${this.stale ? " (stale)" : ""}`;
  }
}

for (const { prototype } of [PrefixIndex, Match]) showAsText(prototype);

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

/** Where the tokens end that a caller means: all of them, or the first `length`. */
function tokensEnd(tokens: unknown, length: number | undefined): number {
  if (!(tokens instanceof Int32Array))
    throw new OptionError("tokens", tokens, "an Int32Array of token ids", "use Int32Array.from.");
  if (length === undefined) return tokens.length;
  requireInteger("length", length, 0, tokens.length);
  return length;
}
