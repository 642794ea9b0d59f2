import type { Attention } from "../attention/attention.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import type { Communicator } from "../comm/communicator.ts";
import { mergeStates } from "../ops/states.ts";
import type { DType } from "../tensor/dtype.ts";
import { elementsOf } from "../tensor/shape.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { DecoderShape } from "./shape.ts";

/** Sizes of attention over keys that lie on several ranks. */
export interface ContextSizes {
  /** Query heads that a rank projects, and goes on with. */
  readonly ownHeads: number;
  readonly headDim: number;
  /** Elements of what a head has seen. */
  readonly valueDim: number;
  /** Most tokens of a step. */
  readonly tokenBudget: number;
}

/** A model's sizes, and the processes that share it. */
interface ContextParts {
  readonly shape: DecoderShape;
  readonly ranks?: Communicator | undefined;
  readonly dtype: DType;
  readonly tokenBudget: number;
}

/** A layer of a step. */
export interface ContextStep {
  readonly layer: number;
  readonly cache: PagedCache;
  readonly attention: Attention;
  /** [tokens or more, ownHeads, headDim]: turned queries of this rank's heads. */
  readonly q: Tensor;
  /** [tokens, ownHeads * valueDim]: takes what this rank's heads have seen. */
  readonly out: Tensor;
}

/** Views of a step of so many tokens. */
interface Views {
  readonly own: Tensor;
  /** [ranks, tokens, ownHeads, headDim], and the same as the attention's queries. */
  readonly gathered: Tensor;
  readonly byToken: Tensor;
  readonly queries: Tensor;
  readonly out: Tensor;
  readonly lse: Tensor;
  readonly outs: Tensor;
  readonly lses: Tensor;
  /** The states of this rank's heads, [tokens, ranks, ...]. */
  readonly ownOuts: Tensor;
  readonly ownLses: Tensor;
  readonly mergedLse: Tensor;
}

/**
 * Attention over keys of which each rank has every so manieth: queries of all heads are brought
 * together, each rank attends with them to its keys, and what its own heads have seen anywhere is
 * merged by log-sum-exp, in the order of ranks (FlashInfer, MLSys 2025, section 2.2). The memory is
 * of a fixed place, so that graphs may hold it.
 */
export class ContextAttention implements Disposable {
  readonly #comm: Communicator;
  readonly #sizes: ContextSizes;
  readonly #own: Tensor;
  readonly #gathered: Tensor;
  readonly #queries: Tensor;
  readonly #out: Tensor;
  readonly #lse: Tensor;
  readonly #outs: Tensor;
  readonly #lses: Tensor;
  readonly #mergedLse: Tensor;
  readonly #views: Views[] = [];

  constructor(comm: Communicator, dtype: DType, sizes: ContextSizes) {
    const { ownHeads, headDim, valueDim, tokenBudget: most } = sizes;
    const { device, ranks } = comm;
    const heads = ranks * ownHeads;
    // Rows of padding may be read before they were written: let them be numbers.
    const room = (shape: number[], of: DType, label: string) =>
      Tensor.zeros(device, shape, of, label);
    this.#comm = comm;
    this.#sizes = sizes;
    this.#own = room([most, ownHeads, headDim], dtype, "own queries");
    this.#gathered = room([ranks * most * ownHeads * headDim], dtype, "queries of ranks");
    this.#queries = room([most, heads, headDim], dtype, "queries of all heads");
    this.#out = room([most, heads, valueDim], dtype, "seen in own keys");
    this.#lse = room([most, heads], "f32", "LSE of own keys");
    this.#outs = room([ranks * most * heads * valueDim], dtype, "seen by ranks");
    this.#lses = room([ranks * most * heads], "f32", "LSE of ranks");
    this.#mergedLse = room([most, ownHeads], "f32", "merged LSE");
  }

  /** Where ranks have parts of the keys; else undefined. */
  static of({ shape, ranks, dtype, tokenBudget }: ContextParts): ContextAttention | undefined {
    if (ranks === undefined || shape.contextHeads === undefined) return undefined;
    const { queryHeads: ownHeads, headDim, latent } = shape;
    const valueDim = latent?.rank ?? headDim;
    return new ContextAttention(ranks, dtype, { ownHeads, headDim, valueDim, tokenBudget });
  }

  /** Queues a planned step's layer, whose keys were appended. */
  run({ layer, cache, attention, q, out }: ContextStep): void {
    const [tokens] = out.shape;
    const { ownHeads, valueDim } = this.#sizes;
    const views = (this.#views[tokens] ??= this.#makeViews(tokens));
    views.own.copyFrom(q.slice(0, 0, tokens));
    this.#comm.allGather(views.own, views.gathered);
    views.queries.copyFrom(views.byToken);
    attention.run({ layer, q: this.#queries, cache, out: this.#out, lse: this.#lse });
    this.#comm.allGather(views.out, views.outs);
    this.#comm.allGather(views.lse, views.lses);
    mergeStates(
      { out: views.ownOuts, lse: views.ownLses, lseBase: "e" },
      { out: out.reshape(tokens, ownHeads, valueDim), lse: views.mergedLse },
    );
  }

  [Symbol.dispose](): void {
    const inputs = [this.#own, this.#gathered, this.#queries, this.#out, this.#lse];
    for (const made of [...inputs, this.#outs, this.#lses, this.#mergedLse]) made[Symbol.dispose]();
  }

  #makeViews(tokens: number): Views {
    const { rank, ranks } = this.#comm;
    const { ownHeads, headDim, valueDim } = this.#sizes;
    const heads = ranks * ownHeads;
    const first = (whole: Tensor, ...shape: number[]) =>
      whole.slice(0, 0, elementsOf(shape)).reshape(...shape);
    const gathered = first(this.#gathered, ranks, tokens, ownHeads, headDim);
    const outs = first(this.#outs, ranks, tokens, heads, valueDim);
    const lses = first(this.#lses, ranks, tokens, heads);
    const [from, to] = [rank * ownHeads, (rank + 1) * ownHeads];
    return {
      own: this.#own.slice(0, 0, tokens),
      gathered,
      byToken: gathered.permute(1, 0, 2, 3),
      queries: this.#queries.slice(0, 0, tokens).reshape(tokens, ranks, ownHeads, headDim),
      out: this.#out.slice(0, 0, tokens),
      lse: this.#lse.slice(0, 0, tokens),
      outs,
      lses,
      ownOuts: outs.slice(2, from, to).permute(1, 0, 2, 3),
      ownLses: lses.slice(2, from, to).permute(1, 0, 2),
      mergedLse: this.#mergedLse.slice(0, 0, tokens),
    };
  }
}
