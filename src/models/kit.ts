import type { Attention } from "../attention/attention.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import type { Device } from "../device/device.ts";
import type { Batch } from "../kv/batch.ts";
import { copyRows } from "../ops/copy-rows.ts";
import { type Activation, matmul } from "../ops/matmul.ts";
import { moe } from "../ops/moe.ts";
import { rmsNorm } from "../ops/norm.ts";
import { ExpertRouting, routeExperts } from "../ops/routing.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Weight } from "../tensor/weight.ts";
import type { DecoderShape } from "./shape.ts";
import { StepBuffers } from "./step-buffers.ts";

/** What a kit is made of, and the most that a step has. */
export interface KitOptions {
  readonly shape: DecoderShape;
  readonly dtype: DType;
  readonly cache: PagedCache;
  /** By kind. */
  readonly attention: readonly Attention[];
  /** Most tokens per step. */
  readonly tokenBudget: number;
  /** Most rows per step that want logits. */
  readonly maxBatch: number;
}

/** Row counts whose routing is kept: batches of decodes change slowly. */
const routingsMost = 16;

/** A layer's mixture of experts. */
export interface Experts {
  /** [experts, hidden]. */
  readonly router: Weight;
  /** Stacks of experts, as `moe` takes them. */
  readonly gateUp: Weight;
  readonly down: Weight;
  readonly topK: number;
  readonly renormalize: boolean;
}

/**
 * The operators of a model's block, over a few buffers that stay in place: what a verb returns is
 * good until the next call of the same verb, and for `linear` of the same name.
 */
export class Kit implements Disposable {
  /** int32 [tokenBudget]: ids of the step's tokens. */
  readonly tokens: Tensor;
  /** int32 [maxBatch]: the tokens of the step whose logits are wanted. */
  readonly wantedRows: Tensor;
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

  constructor(options: KitOptions) {
    const { cache, tokenBudget, maxBatch, dtype } = options;
    const { device } = cache;
    this.#device = device;
    this.#options = options;
    this.#buffers = new StepBuffers(device, dtype, tokenBudget);
    this.#logits = new StepBuffers(device, dtype, maxBatch);
    this.tokens = Tensor.empty(device, [tokenBudget], "i32", "token ids");
    this.wantedRows = Tensor.empty(device, [maxBatch], "i32", "rows of logits");
  }

  /** Begins a step of a planned batch, `wanted` of whose rows want logits. */
  begin(batch: Batch, wanted: number): void {
    this.#batch = batch;
    this.#wanted = wanted;
  }

  /** The residual stream's first values, [tokens, hidden]. */
  embed(embedding: Tensor): Tensor {
    const { tokenCount } = this.#batch!;
    const x = this.#buffers.rows("residual", tokenCount, this.#options.shape.hidden);
    copyRows(this.#device.stream, embedding, this.tokens.address, x, tokenCount);
    return x;
  }

  /** RMSNorm of each row. */
  norm(x: Tensor, weight: Tensor): Tensor {
    const [rows, dim] = x.shape;
    const out = this.#buffers.rows("normalised", rows, dim);
    return rmsNorm(x, weight, { eps: this.#options.shape.normEps, out });
  }

  /** x times a weight plus a bias, [rows, outputs], in the buffer of that name. */
  linear(name: string, x: Tensor, weight: Weight, bias?: Tensor): Tensor {
    const out = this.#buffers.rows(name, x.shape[0], weight.outputs);
    return matmul(x, weight, { out, ...(bias && { bias }) });
  }

  /** x times a weight of gates and then as many ups: activation(gate) * up. */
  gated(activation: Activation, x: Tensor, weight: Weight): Tensor {
    const out = this.#buffers.rows("gated", x.shape[0], weight.outputs / 2);
    return matmul(x, weight, { gated: true, activation, out });
  }

  /** Adds x times a weight to the residual stream. */
  addLinear(residual: Tensor, x: Tensor, weight: Weight): Tensor {
    return matmul(x, weight, { residual, out: residual });
  }

  /** Adds what the experts of each row make of it to the residual stream. */
  addExperts(residual: Tensor, x: Tensor, experts: Experts): void {
    const { router, gateUp, down, topK, renormalize } = experts;
    const { tokenBudget } = this.#options;
    const [rows, dim] = x.shape;
    const out = this.#routing(rows, router.outputs, topK);
    const routing = routeExperts(this.linear("router", x, router), { topK, renormalize, out });
    this.#expertRows ??= new StepBuffers(this.#device, x.dtype, tokenBudget * topK);
    const hidden = this.#expertRows.rows("experts' insides", rows * topK, gateUp.outputs / 2);
    const results = this.#expertRows.rows("experts' results", rows * topK, dim);
    moe(x, routing, { gateUp, down, hidden, results, residual, out: residual });
  }

  /** RMSNorm of each query and key head of rows `q | k | v`, in place. */
  normHeads(qkv: Tensor, queryNorm: Tensor, keyNorm: Tensor): void {
    const { normEps: eps } = this.#options.shape;
    const [q, k] = this.#headsOf(qkv);
    rmsNorm(q, queryNorm, { eps, out: q });
    rmsNorm(k, keyNorm, { eps, out: k });
  }

  /** Appends the keys and values of rows `q | k | v`, and attends: [tokens, heads * headDim]. */
  attend(layer: number, qkv: Tensor): Tensor {
    const { cache, attention, shape } = this.#options;
    const { queryHeads, headDim } = shape;
    const [q, k, v] = this.#headsOf(qkv);
    const attended = this.#buffers.rows("attended", qkv.shape[0], queryHeads * headDim);
    const [out] = this.#buffers.heads(attended, [queryHeads], headDim);
    cache.append({ layer, batch: this.#batch!, k, v });
    attention[shape.attentionOf(layer)].run({ layer, q, cache, out });
    return attended;
  }

  /** The rows that want logits, [wanted, hidden]. */
  wanted(x: Tensor): Tensor {
    const rows = this.#logits.rows("wanted", this.#wanted, x.shape[1]);
    copyRows(this.#device.stream, x, this.wantedRows.address, rows, this.#wanted);
    return rows;
  }

  /** Computes the logits of the wanted rows. */
  logits(x: Tensor, head: Weight): void {
    matmul(x, head, { out: this.logitsOf(this.#wanted) });
  }

  /** The logits of the first `rows` wanted rows of the last step, [rows, vocabulary]. */
  logitsOf(rows: number): Tensor {
    return this.#logits.rows("logits", rows, this.#options.shape.vocabulary);
  }

  #routing(rows: number, experts: number, topK: number): ExpertRouting {
    let routing = this.#routings.get(rows);
    if (routing !== undefined) return routing;
    const [oldest] = this.#routings.keys();
    if (this.#routings.size === routingsMost) {
      this.#routings.get(oldest)![Symbol.dispose]();
      this.#routings.delete(oldest);
    }
    routing = ExpertRouting.create(this.#device, rows, topK, experts);
    this.#routings.set(rows, routing);
    return routing;
  }

  #headsOf(qkv: Tensor): readonly Tensor[] {
    const { queryHeads, kvHeads, headDim } = this.#options.shape;
    return this.#buffers.heads(qkv, [queryHeads, kvHeads, kvHeads], headDim);
  }

  /** Frees the buffers. */
  [Symbol.dispose](): void {
    this.#buffers[Symbol.dispose]();
    this.#logits[Symbol.dispose]();
    this.#expertRows?.[Symbol.dispose]();
    for (const routing of this.#routings.values()) routing[Symbol.dispose]();
    this.tokens[Symbol.dispose]();
    this.wantedRows[Symbol.dispose]();
  }
}
