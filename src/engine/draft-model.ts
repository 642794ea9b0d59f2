import type { Sequence } from "../kv/sequence.ts";
import type { Batch } from "../kv/batch.ts";
import type { PrefixIndex } from "../kv/prefix-index.ts";
import type { Model } from "../models/model.ts";
import type { Drafter, DraftRequest, Drafts } from "./drafter.ts";
import type { Generation } from "./request.ts";
import { type Chosen, Sampler } from "./sampler.ts";

/** The form of a request's tree of drafts. */
export interface DraftTree {
  /** Drafts one behind the other, at most. */
  readonly draftTokensMost: number;
  /** By level, how many drafts follow each of the level before; beyond the list one. */
  readonly branches: readonly number[];
}

/** Drafts of a whole tree, and the last ones of its branches. */
export function treeSizes({ draftTokensMost, branches }: DraftTree) {
  let [nodes, leaves] = [0, 1];
  for (let level = 0; level < draftTokensMost; level++) nodes += leaves *= branches[level] ?? 1;
  return { nodes, leaves };
}

interface Tree {
  readonly tokens: number[];
  readonly parents: number[];
}

/** The end of a branch. */
interface Leaf {
  readonly request: DraftRequest;
  readonly tree: Tree;
  readonly node: number;
  /** Holds what is before it. */
  readonly sequence: Sequence;
}

/**
 * Drafts by a smaller model of the same vocabulary, which draws by the seed and the position that
 * the large one will draw by: with equal logits it draws equal tokens. Of each request a sequence
 * holds the tokens that stand; drafts go into forks of it, so that there is nothing to take back.
 */
export class DraftModel implements Drafter {
  readonly #sampler: Sampler;
  readonly #index: PrefixIndex;
  readonly #tree: DraftTree;
  readonly #maxBatch: number;
  /** Requests that may have a tree at a time, and tokens that they may have to make up for. */
  readonly #requestsMost: number;
  readonly #tokenBudget: number;
  readonly #ids: Int32Array;
  /** By request, the sequence of its tokens; whoever came first is first. */
  readonly #trunks = new Map<Generation, Sequence>();

  /**
   * @param model with sequences for each request and each branch of its tree; this object's then
   * @param limits of the engine
   */
  constructor(
    /** @internal */
    readonly model: Model,
    tree: DraftTree,
    { maxBatch, tokenBudget }: { readonly maxBatch: number; readonly tokenBudget: number },
  ) {
    this.#tree = tree;
    this.#maxBatch = maxBatch;
    this.#tokenBudget = tokenBudget;
    this.#requestsMost = Math.floor(tokenBudget / treeSizes(tree).leaves);
    this.#ids = new Int32Array(tokenBudget);
    this.#sampler = new Sampler(model, maxBatch);
    this.#index = model.cache.prefixIndex();
  }

  get draftsMost(): number {
    return treeSizes(this.#tree).nodes;
  }

  /** @internal Pages that are kept for prompts to come. */
  get keptPages(): number {
    return this.#index.stats.pages;
  }

  get hasBranches(): boolean {
    return treeSizes(this.#tree).leaves > 1;
  }

  async draft(requests: readonly DraftRequest[]): Promise<readonly Drafts[]> {
    const trees = new Map(requests.map((each): [DraftRequest, Tree] => [each, emptyTree()]));
    const { draftTokensMost, branches } = this.#tree;
    const forks: Sequence[] = [];
    try {
      let leaves = this.#catchUp(requests, trees, forks);
      for (let level = 0; leaves.length > 0; level++) {
        const width = branches[level] ?? 1;
        const children = childrenOf(leaves, await this.#choose(leaves, level, width), width);
        leaves = level + 1 < draftTokensMost ? this.#extend(children, forks) : [];
      }
    } finally {
      for (const fork of forks) fork.free();
    }
    return [...trees.values()].map((tree) => (this.hasBranches ? tree : { tokens: tree.tokens }));
  }

  forget(generation: Generation): void {
    this.#trunks.get(generation)?.free();
    this.#trunks.delete(generation);
    this.#sampler.forget(generation);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#sampler[Symbol.dispose]();
    await this.model[Symbol.asyncDispose]();
  }

  /**
   * Puts what requests have said since the last time through the model, within the budget, the
   * shortest first. Returns a leaf for each of which all is known then.
   */
  #catchUp(
    requests: readonly DraftRequest[],
    trees: ReadonlyMap<DraftRequest, Tree>,
    forks: Sequence[],
  ): Leaf[] {
    const { contextTokens, vocabulary } = this.model.shape;
    const isKnown = (token: number) => token < vocabulary;
    const wanted = requests
      .filter(({ tokens }) => tokens.length + this.#tree.draftTokensMost <= contextTokens)
      .filter(({ tokens }) => tokens.every(isKnown))
      .map((request) => ({ request, trunk: this.#trunkOf(request, requests) }))
      .sort((a, b) => missing(a) - missing(b))
      .slice(0, this.#requestsMost);
    const counts: number[] = [];
    let left = this.#tokenBudget;
    for (const each of wanted) {
      counts.push(Math.min(left, missing(each)));
      left -= counts.at(-1)!;
    }
    const parts = wanted.filter((_, i) => counts[i] > 0);
    const ends = parts.map(({ trunk }, i) => trunk.length + counts[i]);
    const whole = parts.filter(({ request }, i) => ends[i] === request.tokens.length);
    const ids = parts.flatMap(({ request, trunk }, i) => [
      ...request.tokens.subarray(trunk.length, ends[i]),
    ]);
    const rows = whole.map((part) => counts.slice(0, parts.indexOf(part) + 1).reduce(sum) - 1);
    const sequences = parts.map(({ trunk }) => trunk);
    if (!this.#forward(sequences, counts.slice(0, parts.length), ids, rows, requests)) return [];
    parts.forEach(({ request, trunk }, i) => {
      if (counts[i] > 1) this.#index.insert(request.tokens, trunk, trunk.length);
    });
    return whole.map(({ request, trunk }) => {
      const sequence = trunk.fork();
      forks.push(sequence);
      return { request, tree: trees.get(request)!, node: 0, sequence };
    });
  }

  /** The sequence of a request's tokens but for the last ones, from cached pages if it is new. */
  #trunkOf({ generation, tokens }: DraftRequest, requests: readonly DraftRequest[]): Sequence {
    let trunk = this.#trunks.get(generation);
    // A step that was not run leaves the request's tokens as they were.
    if (trunk !== undefined && trunk.length >= tokens.length) this.forget(generation);
    else if (trunk !== undefined) return trunk;
    if (this.#trunks.size === this.#maxBatch) this.#dropIdle(requests);
    trunk = this.model.cache.sequence({ prefix: this.#index.match(tokens, tokens.length - 1) });
    this.#trunks.set(generation, trunk);
    return trunk;
  }

  /** Puts drafts through the model, each behind its branch; no leaves without pages for them. */
  #extend(children: readonly Child[], forks: Sequence[]): Leaf[] {
    const grown = new Set<Sequence>();
    const leaves = children.map(({ leaf: { request, tree, sequence }, node }) => {
      const own = grown.has(sequence) ? sequence.fork() : sequence;
      if (own !== sequence) forks.push(own);
      grown.add(sequence);
      return { request, tree, node, sequence: own };
    });
    const sequences = leaves.map(({ sequence }) => sequence);
    const ids = children.map(({ token }) => token);
    const ones = leaves.map(() => 1);
    const requests = leaves.map(({ request }) => request);
    return this.#forward(sequences, ones, ids, [...ones.keys()], requests) ? leaves : [];
  }

  /** Queues a step; false where there are no pages for it, or nothing to do. */
  #forward(
    sequences: readonly Sequence[],
    counts: readonly number[],
    ids: readonly number[],
    rows: readonly number[],
    requests: readonly DraftRequest[],
  ): boolean {
    if (sequences.length === 0) return false;
    const batch = this.#reserve(sequences, counts, requests);
    if (batch === undefined) return false;
    this.#ids.set(ids);
    try {
      const logitRows = Int32Array.from(rows);
      const step = { batch, sequences, ids: this.#ids, logitRows, wanted: rows.length };
      this.model.forward({ ...step, jobs: [], parts: "all" });
    } catch (error) {
      if (!batch.stale) this.model.cache.rollback(batch);
      throw error;
    }
    return true;
  }

  #reserve(
    sequences: readonly Sequence[],
    counts: readonly number[],
    requests: readonly DraftRequest[],
  ): Batch | undefined {
    while (true) {
      const batch = this.model.reserve(sequences, Int32Array.from(counts), counts.reduce(sum));
      if (batch.ok) return batch;
      if (this.#index.evict(batch.pagesMissing, batch.group) > 0) continue;
      if (this.#dropIdle(requests)) continue;
      // Of windows all or nothing is given up.
      if (this.#index.stats.pages === 0) return undefined;
      this.#index.clear();
    }
  }

  /** Frees the sequence of a request that wants nothing now; false where there is none. */
  #dropIdle(requests: readonly DraftRequest[]): boolean {
    const busy = new Set(requests.map(({ generation }) => generation));
    const idle = [...this.#trunks.keys()].find((generation) => !busy.has(generation));
    if (idle !== undefined) this.forget(idle);
    return idle !== undefined;
  }

  #choose(leaves: readonly Leaf[], level: number, width: number): Promise<Chosen[]> {
    const rows = leaves.map(({ request: { generation, tokens } }) => ({
      generation,
      position: tokens.length + level,
    }));
    return this.#sampler.queue(rows, false, () => (width > 1 ? width : -1)).read();
  }
}

interface Child {
  readonly leaf: Leaf;
  readonly node: number;
  readonly token: number;
}

/** Adds `width` drafts behind each leaf to its tree: what was drawn, then the likeliest others. */
function childrenOf(leaves: readonly Leaf[], chosen: readonly Chosen[], width: number): Child[] {
  return leaves.flatMap((leaf, i) => {
    const { token, logProb, failure } = chosen[i];
    if (failure !== undefined) return [];
    const others = (logProb?.top ?? []).map((each) => each.token).filter((each) => each !== token);
    const { tokens, parents } = leaf.tree;
    return [token, ...others].slice(0, width).map((each) => {
      parents.push(leaf.node);
      return { leaf, node: tokens.push(each), token: each };
    });
  });
}

function emptyTree(): Tree {
  return { tokens: [], parents: [] };
}

/** Tokens that a request's sequence lacks. */
function missing({ request, trunk }: { request: DraftRequest; trunk: Sequence }): number {
  return request.tokens.length - trunk.length;
}

const sum = (a: number, b: number) => a + b;
