import type { PrefixNode, PrefixTree } from "./prefix-tree.ts";

/**
 * Where the first tokens of a sequence lie in a tree: at the end of a node, so that who adds more
 * of them begins there. Good while neither the node's end nor the sequence's row of pages changes.
 */
export class PrefixPlace {
  #tree: PrefixTree | null = null;
  #key = 0;
  #node: PrefixNode | null = null;
  #depth = 0;
  #rowVersion = 0;

  /** Notes a node; that of a root says nothing. */
  note(tree: PrefixTree, key: number, node: PrefixNode, rowVersion: number): void {
    this.#tree = tree;
    this.#key = key;
    this.#node = node.parent === null ? null : node;
    this.#depth = node.depth;
    this.#rowVersion = rowVersion;
  }

  /** The node, if it is one of that tree and key within so many pages and still good, or null. */
  find(tree: PrefixTree, key: number, pages: number, rowVersion: number): PrefixNode | null {
    if (tree !== this.#tree || key !== this.#key || rowVersion !== this.#rowVersion) return null;
    const node = this.#node;
    return node !== null && node.depth === this.#depth && node.depth <= pages ? node : null;
  }
}
