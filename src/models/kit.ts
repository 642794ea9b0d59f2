import { normRopeAppend } from "../cache/norm-rope-append.ts";
import type { Device } from "../device/device.ts";
import { ContextAttention } from "./context-ranks.ts";
import type { Batch } from "../kv/batch.ts";
import { geluAndMul, geluTanhAndMul, siluAndMul } from "../ops/activation.ts";
import { copyRows } from "../ops/copy-rows.ts";
import { add, capLogits } from "../ops/elementwise.ts";
import { mapRows } from "../ops/map.ts";
import { matmul } from "../ops/matmul.ts";
import type { MatmulOptions } from "../ops/matmul-options.ts";
import { moe } from "../ops/moe.ts";
import { rmsNorm } from "../ops/norm.ts";
import {
  type ExpertGroups,
  ExpertRouting,
  routeExperts,
  type RouteOptions,
} from "../ops/routing.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { Adapters } from "./adapters.ts";
import type { KitOptions } from "./kit-options.ts";
import { LatentAttention, type LatentHeads } from "./latent.ts";
import { type LogitParts, type RankFacts, SharedLogits } from "./logit-parts.ts";
import { StepBuffers } from "./step-buffers.ts";
import { StepInputs } from "./step-inputs.ts";
import type { StepAttention } from "./tree-masks.ts";

/** Row counts whose routing is kept: batches of decodes change slowly. */
const routingsMost = 16;

/** Activations of gates, by themselves. */
const gates = { silu: siluAndMul, gelu: geluAndMul, "gelu-tanh": geluTanhAndMul } as const;

/** Weights of the norms of query and key heads, f32 [headDim], where a model has them. */
export interface HeadNorms {
  readonly queryNorm: Tensor | undefined;
  readonly keyNorm: Tensor | undefined;
}

/** A layer's mixture of experts. */
export interface Experts {
  /** [experts, hidden]. */
  readonly router: Weight;
  /** Stacks of experts, as `moe` takes them. */
  readonly gateUp: Weight;
  readonly down: Weight;
  readonly topK: number;
  readonly renormalize: boolean;
  /** As {@link routeExperts} takes them. */
  readonly scoring?: RouteOptions["scoring"];
  readonly bias?: Tensor;
  readonly scale?: number;
  readonly groups?: ExpertGroups;
}

/**
 * The operators of a model's block, over a few buffers that stay in place: what a verb returns is
 * good until the next call of the same verb, and for `linear` of the same name.
 */
export class Kit implements Disposable {
  readonly inputs: StepInputs;
  /** What is added to the weights' products for rows that have an adapter. */
  adapters: Adapters | undefined;
  readonly #device: Device;
  readonly #options: KitOptions;
  readonly #buffers: StepBuffers;
  readonly #logits: StepBuffers;
  /** Rows of each token and expert. */
  #expertRows: StepBuffers | undefined;
  /** By row count, a few of them; all layers route alike. */
  readonly #routings = new Map<number, ExpertRouting>();
  #batch: Batch | undefined;
  #wanted = 0;
  #areAllWanted = false;
  #parts: LogitParts = "all";
  readonly #shared: SharedLogits | undefined;
  #latents: LatentAttention | undefined;
  readonly #context: ContextAttention | undefined;
  #by: StepAttention = { attention: [] };

  constructor(options: KitOptions) {
    const { cache, tokenBudget, rowsMost, dtype, ranks, shape } = options;
    const { device } = cache;
    const [from, to] = shape.headRows ?? [0, shape.vocabulary];
    const isShared = ranks !== undefined && to - from < shape.vocabulary;
    if (isShared) this.#shared = new SharedLogits(ranks, to - from, { dtype }, rowsMost);
    this.#context = ContextAttention.of(options);
    this.#device = device;
    this.#options = options;
    this.#buffers = new StepBuffers(device, dtype, tokenBudget);
    this.#logits = new StepBuffers(device, dtype, rowsMost);
    this.inputs = new StepInputs(device, { tokenBudget, rowsMost });
  }

  /**
   * Begins a step of a planned batch, `wanted` of whose rows want logits, or all with its padding.
   * `parts`: what of logits that ranks share is wanted, the same on all.
   */
  begin(batch: Batch, wanted: number | "all", parts: LogitParts, by: StepAttention): void {
    this.#batch = batch;
    this.#areAllWanted = wanted === "all";
    this.#wanted = wanted === "all" ? batch.paddedTokens : wanted;
    this.#parts = parts;
    this.#by = by;
  }

  /** The residual stream's first values, [tokens, hidden]: rows of the embedding times a factor. */
  embed(embedding: Tensor, factor = 1): Tensor {
    const { paddedTokens } = this.#batch!;
    const x = this.#buffers.rows("residual", paddedTokens, this.#options.shape.hidden);
    this.inputs.gather(paddedTokens);
    copyRows(this.#device.stream, embedding, this.inputs.tokens.address, x, paddedTokens);
    if (factor !== 1) mapRows({ operation: "scale", a: x, out: x, factor }, {});
    return x;
  }

  /** RMSNorm of each row. */
  norm(x: Tensor, weight: Tensor): Tensor {
    const out = this.#buffers.rows("normalised", x.shape[0], x.shape[1]);
    return rmsNorm(x, weight, { eps: this.#options.shape.normEps, out });
  }

  /** x times a weight plus a bias, [rows, outputs], in the buffer of that name. */
  linear(name: string, x: Tensor, weight: Weight, bias?: Tensor): Tensor {
    const out = this.#buffers.rows(name, x.shape[0], weight.outputs);
    return this.#product(x, weight, { out, ...(bias && { bias }) });
  }

  /** RMSNorm of each row, in its place. */
  normIn(x: Tensor, weight: Tensor): Tensor {
    return rmsNorm(x, weight, { eps: this.#options.shape.normEps, out: x });
  }

  /** The first columns of rows. */
  columns(x: Tensor, count: number): Tensor {
    return x.slice(1, 0, count);
  }

  /** x times a weight of gates and then as many ups: activation(gate) * up. */
  gated(activation: keyof typeof gates, x: Tensor, weight: Weight, name = "gated"): Tensor {
    const { adapters } = this;
    const [rows] = x.shape;
    const out = this.#buffers.rows(name, rows, weight.outputs / 2);
    if (!adapters?.adapts(weight))
      return this.#product(x, weight, { gated: true, activation, out });
    // In f32, so that rows without an adapter get the bits that they have in other steps.
    const both = this.#product(x, weight, { out: adapters.wide(rows, weight.outputs) });
    return gates[activation](both, { out });
  }

  /** Adds x times a weight to the residual stream. */
  addLinear(residual: Tensor, x: Tensor, weight: Weight): void {
    this.#product(x, weight, this.#onto(residual));
    this.#options.ranks?.allReduce(residual);
  }

  /** Adds the RMSNorm of y, of which ranks have parts, to the residual stream; writes over y. */
  addNorm(residual: Tensor, y: Tensor, weight: Tensor): Tensor {
    this.#options.ranks?.allReduce(y);
    rmsNorm(y, weight, { eps: this.#options.shape.normEps, out: y });
    return add(residual, y, { out: residual });
  }

  /** Adds what the experts of each row make of it to the residual stream. */
  addExperts(residual: Tensor, x: Tensor, experts: Experts): void {
    const { router, gateUp, down, ...options } = experts;
    const { topK } = options;
    const { tokenBudget, invariant } = this.#options;
    const [rows, dim] = x.shape;
    const out = this.#routing(rows, router.outputs, topK);
    const routing = routeExperts(this.linear("router", x, router), { ...options, out });
    this.#expertRows ??= new StepBuffers(this.#device, x.dtype, tokenBudget * topK);
    const hidden = this.#expertRows.rows("experts' insides", rows * topK, gateUp.outputs / 2);
    const results = this.#expertRows.rows("experts' results", rows * topK, dim);
    moe(x, routing, { gateUp, down, invariant, hidden, results, ...this.#onto(residual) });
    this.#options.ranks?.allReduce(residual);
  }

  /** A product, and what the rows' adapters of the weight make of x. */
  #product(x: Tensor, weight: Weight, options: MatmulOptions & { out: Tensor }): Tensor {
    const { exact, invariant } = this.#options;
    const out = matmul(x, weight, { ...options, invariant, settled: true, roundRows: !exact });
    this.adapters?.add(weight, x, out);
    return out;
  }

  /** Of several ranks the first brings the residual stream, the others their part alone. */
  #onto(residual: Tensor): { out: Tensor; residual?: Tensor } {
    const { ranks } = this.#options;
    return ranks === undefined || ranks.rank === 0
      ? { residual, out: residual }
      : { out: residual };
  }

  /**
   * Attends with rows `q | k | v`: query and key heads are normalised where there are weights for
   * it, and turned, keys and values appended. Returns [tokens, heads * headDim].
   */
  attend(layer: number, qkv: Tensor, norms: HeadNorms): Tensor {
    const { cache, ropes, shape } = this.#options;
    const { queryHeads, kvHeads, headDim, normEps: eps } = shape;
    const { queryNorm: qWeight, keyNorm: kWeight } = norms;
    const kind = shape.attentionOf(layer);
    const [q, k, v] = this.#buffers.heads("qkv", [queryHeads, kvHeads, kvHeads], headDim);
    const attended = this.#buffers.rows("attended", qkv.shape[0], queryHeads * headDim);
    const [out] = this.#buffers.heads("attended", [queryHeads], headDim);
    normRopeAppend(cache, {
      layer,
      batch: this.#batch!,
      q,
      k,
      v,
      rope: ropes[kind],
      positions: this.inputs.positions,
      eps,
      ...(qWeight && { qWeight }),
      ...(kWeight && { kWeight }),
    });
    const attention = this.#by.attention[kind];
    if (this.#context) this.#context.run({ layer, cache, attention, q, out: attended });
    else attention.run({ layer, q, cache, out, ...this.#by.masks });
    return attended;
  }

  /**
   * Attends with queries [tokens, heads * (plain + turned)] over latents [tokens, rank + turned],
   * whose last part turns, and appends these. Returns [tokens, heads * value].
   */
  attendLatents(layer: number, queries: Tensor, latents: Tensor, heads: LatentHeads): Tensor {
    const { cache, ropes, shape, tokenBudget, rowsMost, dtype, invariant } = this.#options;
    const sizes = { heads: shape.queryHeads, tokenBudget, maxBatch: rowsMost, invariant };
    this.#latents ??= new LatentAttention(this.#device, dtype, shape.latent!, sizes);
    const { masks } = this.#by;
    const [attention] = this.#by.attention;
    const [rope] = ropes;
    const { positions } = this.inputs;
    const batch = this.#batch!;
    const context = this.#context;
    const parts = { attention, masks, context, rope, positions, queries, latents, heads };
    const step = { layer, batch, cache, ...parts };
    return this.#latents.run(step);
  }

  /** The rows that want logits, [wanted, hidden]. */
  wanted(x: Tensor): Tensor {
    if (this.#areAllWanted) return x;
    const rows = this.#logits.rows("wanted", this.#wanted, x.shape[1]);
    copyRows(this.#device.stream, x, this.inputs.wantedRows.address, rows, this.#wanted);
    return rows;
  }

  /**
   * Computes the logits of the wanted rows, between -cap and cap where one is given. Of several
   * ranks each computes its columns, and rank 0 gets what is wanted of them.
   */
  logits(x: Tensor, head: Weight, cap?: number): void {
    if (this.#options.statesOnly === true) return;
    const rows = this.#wanted;
    const shared = this.#shared;
    const out = this.logitsOf(rows);
    const own = shared === undefined ? out : this.#logits.rows("own logits", rows, head.outputs);
    this.#product(x, head, { out: own });
    if (cap !== undefined) capLogits(own, cap, { out: own });
    shared?.bring(own, out, this.#parts);
  }

  /** What ranks told of their parts of the last step's logits; undefined where all are here. */
  facts(): RankFacts | undefined {
    return this.#parts === "all" ? undefined : this.#shared?.facts(this.#wanted);
  }

  /** What the last norm made of the first `rows` wanted rows of the last step, [rows, hidden]. */
  statesOf(rows: number): Tensor {
    return this.#buffers.rows("normalised", rows, this.#options.shape.hidden);
  }

  /**
   * The logits of the first `rows` wanted rows of the last step, [rows, vocabulary]: on rank 0, and
   * -inf where they were not wanted.
   */
  logitsOf(rows: number): Tensor {
    return this.#logits.rows("logits", rows, this.#options.shape.vocabulary);
  }

  #routing(rows: number, experts: number, topK: number): ExpertRouting {
    let routing = this.#routings.get(rows);
    if (routing !== undefined) return routing;
    // Graphs hold those of their batch sizes, which are few.
    const isKept = (count: number) => count <= this.#options.rowsMost;
    const others = [...this.#routings.keys()].filter((count) => !isKept(count));
    if (!isKept(rows) && others.length === routingsMost) {
      this.#routings.get(others[0])![Symbol.dispose]();
      this.#routings.delete(others[0]);
    }
    routing = ExpertRouting.create(this.#device, rows, topK, experts);
    this.#routings.set(rows, routing);
    return routing;
  }

  [Symbol.dispose](): void {
    this.#buffers[Symbol.dispose]();
    this.#logits[Symbol.dispose]();
    this.#expertRows?.[Symbol.dispose]();
    this.#latents?.[Symbol.dispose]();
    this.#shared?.[Symbol.dispose]();
    this.#context?.[Symbol.dispose]();
    for (const routing of this.#routings.values()) routing[Symbol.dispose]();
    this.inputs[Symbol.dispose]();
  }
}
