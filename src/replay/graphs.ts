import type { Attention } from "../attention/attention.ts";
import type { RunTensors } from "../attention/tensors.ts";
import type { AppendTensors } from "../cache/step-appends.ts";
import type { PagedCache } from "../cache/paged-cache.ts";
import type { Graph } from "../device/graph.ts";
import type { Stream } from "../device/stream.ts";
import { PlanError } from "../errors.ts";
import type { Batch } from "../kv/batch.ts";
import { bucketsOf, graphLevels } from "../plan/workspace.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Inputs } from "./noise-model.ts";

/** One bucket of batch sizes: what each layer appends and runs, and their graph once captured. */
interface Bucket {
  readonly appends: AppendTensors[];
  readonly runs: RunTensors[];
  graph: Graph | undefined;
}

/**
 * Steps of one token per request as captured graphs, one per bucket of batch sizes: append and
 * attention of all layers. Each layer has inputs and outputs of its own, so that inputs can be made
 * before the graph runs and outputs looked at after it.
 */
export class DecodeGraphs implements Disposable {
  readonly #buckets = new Map<number, Bucket>();
  readonly #sizes: number[];
  readonly #maxBatch: number;
  readonly #layers: number;
  readonly #inputs: Inputs;
  readonly #out: Tensor;

  /** `attention` has graph sizes; it is disposed with this. Errors: OutOfMemoryError. */
  constructor(
    readonly attention: Attention,
    readonly cache: PagedCache,
  ) {
    const { device, options } = attention;
    const { queryHeads, kvHeads, headDim, dtype, graph } = options;
    this.#sizes = bucketsOf(graph!);
    this.#maxBatch = graph!.maxBatch;
    this.#layers = cache.options.layers;
    const tensor = (heads: number, label: string) =>
      Tensor.empty(device, [this.#layers * this.#maxBatch, heads, headDim], dtype, label);
    this.#inputs = {
      q: tensor(queryHeads, "graph queries"),
      k: tensor(kvHeads, "graph keys"),
      v: tensor(kvHeads, "graph values"),
    };
    this.#out = tensor(queryHeads, "graph outputs");
  }

  /** Inputs of all layers, for `layers x paddedTokens` rows of the step that runs next. */
  get inputs(): Inputs {
    return this.#inputs;
  }

  /** Tokens that a step is padded to: its bucket where a graph can take it. */
  paddedTokens(requests: number, tokens: number): number {
    if (tokens !== requests || requests > this.#maxBatch) return tokens;
    return this.#sizes.find((size) => size >= requests)!;
  }

  /** Whether a graph can run the step. */
  takes({ requestCount, tokenCount, paddedTokens, layout }: Batch): boolean {
    if (tokenCount !== requestCount || layout.levels.length > graphLevels) return false;
    return this.#sizes.includes(paddedTokens);
  }

  /** Queues a planned step: its bucket's graph, or kernels one by one where none was captured. */
  run(stream: Stream, batch: Batch): void {
    const bucket = this.#bucketOf(batch.paddedTokens);
    if (bucket.graph !== undefined && isReplayed(bucket.graph, stream)) return;
    bucket.graph?.[Symbol.dispose]();
    bucket.graph = undefined;
    this.#queue(bucket, batch);
    bucket.graph = this.attention.device.capture(
      stream,
      () => this.#queue(bucket, batch),
      `decode graph of ${batch.paddedTokens}`,
    );
  }

  /** Outputs of a layer as the step of that batch left them, [maxBatch, queryHeads, headDim]. */
  outputs(layer: number, batch: Batch): Tensor {
    return this.#bucketOf(batch.paddedTokens).runs[layer].out;
  }

  [Symbol.dispose](): void {
    for (const { graph } of this.#buckets.values()) graph?.[Symbol.dispose]();
    for (const tensor of Object.values(this.#inputs)) tensor[Symbol.dispose]();
    this.#out[Symbol.dispose]();
    this.attention[Symbol.dispose]();
  }

  #bucketOf(size: number): Bucket {
    let bucket = this.#buckets.get(size);
    if (bucket === undefined) this.#buckets.set(size, (bucket = this.#createBucket(size)));
    return bucket;
  }

  #createBucket(size: number): Bucket {
    const bucket: Bucket = { appends: [], runs: [], graph: undefined };
    const { cache } = this;
    for (let layer = 0; layer < this.#layers; layer++) {
      // Captured runs want room for the largest bucket, of which a smaller one uses its own rows.
      const first = layer * size;
      const rows = (tensor: Tensor) => tensor.slice(0, first, first + this.#maxBatch);
      const [q, k, v] = [this.#inputs.q, this.#inputs.k, this.#inputs.v].map(rows);
      bucket.appends.push({ layer, batch: undefined as unknown as Batch, k, v });
      bucket.runs.push({ layer, q, cache, out: rows(this.#out) });
    }
    return bucket;
  }

  #queue({ appends, runs }: Bucket, batch: Batch): void {
    for (let layer = 0; layer < this.#layers; layer++) {
      appends[layer].batch = batch;
      this.cache.append(appends[layer]);
      this.attention.run(runs[layer]);
    }
  }
}

/** False for a graph to capture again, as a buffer of it grew; then nothing was launched. */
function isReplayed(graph: Graph, stream: Stream): boolean {
  try {
    graph.replay(stream);
    return true;
  } catch (error) {
    if (error instanceof PlanError) return false;
    throw error;
  }
}
