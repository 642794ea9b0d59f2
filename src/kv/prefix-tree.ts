/** An edge of the radix tree: a run of whole pages of tokens, and what follows it. */
export class PrefixNode {
  /** Nodes that follow, by the hash of their first page; equal hashes hang on `sibling`. */
  children: Map<number, PrefixNode> | null = null;
  sibling: PrefixNode | null = null;
  /** Neighbours in the order of last use. A parent is always newer than its children. */
  newer: PrefixNode | null = null;
  older: PrefixNode | null = null;

  /**
   * @param tokens the edge's token ids, whole pages
   * @param pages page ids by [column, group], -1 where a window group holds none
   * @param hash of the first page's tokens
   * @param depth pages from the root to the edge's end: it only ever falls, below 0 once the node
   *   has left the tree
   */
  constructor(
    public parent: PrefixNode | null,
    public tokens: Int32Array,
    public pages: Int32Array,
    public hash: number,
    public depth: number,
  ) {}
}

/** The trees' shapes and order of use; which pages are held is their owner's business. */
export class PrefixTree {
  readonly #roots = new Map<number, PrefixNode>();
  oldest: PrefixNode | null = null;
  #newest: PrefixNode | null = null;
  readonly #pageSize: number;
  readonly #groups: number;
  readonly #hash: typeof hashTokens;

  /** @param pageSize tokens per page @param groups page ids per column */
  constructor(pageSize: number, groups: number, hash = hashTokens) {
    this.#hash = hash;
    this.#pageSize = pageSize;
    this.#groups = groups;
  }

  /** What prompts of a key begin at: those of different keys have nothing in common. */
  rootOf(key: number): PrefixNode {
    let root = this.#roots.get(key);
    if (root === undefined) {
      root = new PrefixNode(null, new Int32Array(0), new Int32Array(0), 0, 0);
      this.#roots.set(key, root);
    }
    return root;
  }

  /** The child whose first page is tokens[at, at + pageSize), or null; the tokens go to `end`. */
  find(node: PrefixNode, tokens: Int32Array, at: number, end = tokens.length): PrefixNode | null {
    if (node.children === null || at + this.#pageSize > end) return null;
    let child = node.children.get(this.#hash(tokens, at, this.#pageSize)) ?? null;
    while (child !== null && !this.#startsWith(child, tokens, at)) child = child.sibling;
    return child;
  }

  /** Pages of the node's edge that tokens[at, end) begins with. */
  common(node: PrefixNode, tokens: Int32Array, at: number, end = tokens.length): number {
    const edge = node.tokens;
    const most = Math.min(edge.length, end - at);
    let same = 0;
    while (same < most && edge[same] === tokens[at + same]) same++;
    return Math.floor(same / this.#pageSize);
  }

  /**
   * Adds a leaf below `parent`; its first page must not be there yet. Use it (or touch it) next.
   */
  add(parent: PrefixNode, tokens: Int32Array, pages: Int32Array): PrefixNode {
    const hash = this.#hash(tokens, 0, this.#pageSize);
    const depth = parent.depth + pages.length / this.#groups;
    const node = new PrefixNode(parent, tokens, pages, hash, depth);
    this.#hang(parent, node);
    this.#linkAfter(node, this.#newest);
    return node;
  }

  /** Splits a node after its first `count` pages and returns the new upper part. */
  split(node: PrefixNode, count: number): PrefixNode {
    const tokens = count * this.#pageSize;
    const pages = count * this.#groups;
    const parent = node.parent!;
    this.#unhang(parent, node);
    const upper = new PrefixNode(
      parent,
      node.tokens.slice(0, tokens),
      node.pages.slice(0, pages),
      node.hash,
      parent.depth + count,
    );
    node.tokens = node.tokens.slice(tokens);
    node.pages = node.pages.slice(pages);
    node.hash = this.#hash(node.tokens, 0, this.#pageSize);
    node.parent = upper;
    this.#hang(parent, upper);
    this.#hang(upper, node);
    this.#linkAfter(upper, node);
    return upper;
  }

  /** Keeps the first `count` pages of a leaf; with none it leaves the tree. */
  trim(leaf: PrefixNode, count: number): void {
    leaf.depth = count === 0 ? -1 : leaf.parent!.depth + count;
    if (count === 0) {
      this.#unhang(leaf.parent!, leaf);
      this.#unlink(leaf);
      return;
    }
    // Views, not copies: a long leaf is often given up page by page.
    leaf.tokens = leaf.tokens.subarray(0, count * this.#pageSize);
    leaf.pages = leaf.pages.subarray(0, count * this.#groups);
  }

  /** Makes a node and all above it the newest, parents last. */
  touch(node: PrefixNode): void {
    for (let at: PrefixNode = node; at.parent !== null; at = at.parent) {
      this.#unlink(at);
      this.#linkAfter(at, this.#newest);
    }
  }

  /** Drops all nodes. */
  clear(): void {
    for (let node = this.oldest; node !== null; node = node.newer) node.depth = -1;
    this.#roots.clear();
    this.oldest = this.#newest = null;
  }

  /** Whether the node's first page is that of the tokens from `at` on. */
  #startsWith({ tokens: edge }: PrefixNode, tokens: Int32Array, at: number): boolean {
    for (let i = 0; i < this.#pageSize; i++) if (edge[i] !== tokens[at + i]) return false;
    return true;
  }

  #hang(parent: PrefixNode, node: PrefixNode): void {
    parent.children ??= new Map();
    node.sibling = parent.children.get(node.hash) ?? null;
    parent.children.set(node.hash, node);
  }

  #unhang(parent: PrefixNode, node: PrefixNode): void {
    const children = parent.children!;
    const first = children.get(node.hash)!;
    if (first === node) {
      if (node.sibling === null) children.delete(node.hash);
      else children.set(node.hash, node.sibling);
    } else {
      let before = first;
      while (before.sibling !== node) before = before.sibling!;
      before.sibling = node.sibling;
    }
    node.sibling = null;
    if (children.size === 0) parent.children = null;
  }

  /** Puts a node just newer than `older`, or oldest of all after null. */
  #linkAfter(node: PrefixNode, older: PrefixNode | null): void {
    node.older = older;
    node.newer = older === null ? this.oldest : older.newer;
    if (node.older === null) this.oldest = node;
    else node.older.newer = node;
    if (node.newer === null) this.#newest = node;
    else node.newer.older = node;
  }

  #unlink(node: PrefixNode): void {
    if (node.older === null) this.oldest = node.newer;
    else node.older.newer = node.newer;
    if (node.newer === null) this.#newest = node.older;
    else node.newer.older = node.older;
  }
}

/** A 32-bit hash (FNV with a mixing shift) of tokens[at, at + count). */
function hashTokens(tokens: Int32Array, at: number, count: number): number {
  let hash = 0x811c9dc5;
  for (let i = at; i < at + count; i++) {
    hash = Math.imul(hash ^ tokens[i], 0x01000193);
    hash ^= hash >>> 15;
  }
  return hash;
}
