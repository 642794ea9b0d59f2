import { Attention, type GraphOptions, PagedCache, Tensor } from "../../src/index.ts";
import type { Batch } from "../../src/kv/batch.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { copiesOf, type GpuBench, type GpuCase, type GpuRow, runsOf, timeOf } from "./bench.ts";

const [queryHeads, kvHeads, dim, pageSize] = [32, 8, 128, 16];

/** Decodes of requests that share a prefix. */
export interface CascadeShape {
  dtype: "bf16" | "f16";
  requests: number;
  /** Tokens that all share, and those of each request's own. */
  prefix: number;
  own: number;
}

/** Their keys in a cache full of noise, and a step of a token each. */
export class CascadeWorld implements Disposable {
  readonly layers: number;
  readonly step: Batch;
  readonly #cache: PagedCache;
  readonly #sequences: Sequence[];
  readonly #tensors: Tensor[] = [];

  constructor(
    readonly bench: GpuBench,
    readonly shape: CascadeShape,
  ) {
    const { device, quick } = bench;
    const { dtype } = shape;
    const { requests, prefix, own } = quick ? { requests: 2, prefix: 64, own: 16 } : shape;
    const bytes = 2 * 2 * (prefix + requests * own) * kvHeads * dim;
    const layers = (this.layers = copiesOf(bench, bytes));
    const pages = Math.ceil(prefix / pageSize) + requests * Math.ceil((own + 1) / pageSize);
    this.#cache = PagedCache.create(device, {
      kvHeads,
      headDim: dim,
      dtype,
      layers,
      pages,
      pageSize,
      maxSequences: requests + 1,
      storage: (layer, { name }) => {
        const seed = 2 * layer + (name === "key" ? 0 : 1);
        const plane = [pages, pageSize, kvHeads, dim];
        return this.#keep(Tensor.randomNormal(device, plane, dtype, { seed }));
      },
    });
    const parent = this.#cache.sequence();
    this.#grow([parent], prefix);
    this.#sequences = Array.from({ length: requests }, () => parent.fork());
    this.#grow(this.#sequences, own - 1);
    this.step = this.#grow(this.#sequences, 1);
  }

  /** Sizes for graphs of such steps. */
  get sizes(): GraphOptions {
    const maxBatch = this.step.requestCount;
    const { prefix, own } = this.shape;
    const maxColumns = Math.ceil((prefix + own) / pageSize) + 1;
    return { maxBatch, maxQueryTokens: maxBatch, maxQueryLength: 1, maxColumns };
  }

  /** Plans the step; `shared`: the prefix is a level of its own, whether or not it pays. */
  async attention(shared: boolean, graph?: GraphOptions): Promise<Attention> {
    const heads = { queryHeads, kvHeads, headDim: dim, dtype: this.shape.dtype, causal: true };
    const sizes = graph && { graph };
    const attention = await Attention.create(this.bench.device, { ...heads, ...sizes });
    if (shared) this.#cache.sharePrefixes(this.step, this.#sequences, () => true);
    attention.plan(this.step);
    return attention;
  }

  /** Microseconds of a layer; after those of a shared prefix, there are none without. */
  async microseconds(shared: boolean, graph?: GraphOptions): Promise<number> {
    const { bench, layers } = this;
    using attention = await this.attention(shared, graph);
    const rows = [this.step.tokenCount, queryHeads, dim];
    const { dtype } = this.shape;
    using q = Tensor.randomNormal(bench.device, rows, dtype, { seed: 1000 });
    using out = Tensor.empty(bench.device, rows, dtype);
    const cache = this.#cache;
    const run = (turn: number) => attention.run({ layer: turn % layers, q, cache, out });
    run(0);
    return (await timeOf(bench, runsOf(bench, layers), run)) * 1000;
  }

  [Symbol.dispose](): void {
    this.#cache[Symbol.dispose]();
    for (const tensor of this.#tensors) tensor[Symbol.dispose]();
  }

  #keep(tensor: Tensor): Tensor {
    this.#tensors.push(tensor);
    return tensor;
  }

  /** Gives each sequence so many tokens more, whose keys are the noise that lies there. */
  #grow(sequences: Sequence[], tokens: number): Batch {
    const step = this.#cache.reserve(
      sequences,
      sequences.map(() => tokens),
    );
    if (!step.ok) throw step.error;
    this.#cache.markWritten(step);
    return step;
  }
}

/** By requests, tokens of the prefix and own ones: microseconds that are the goal. */
const rows = [
  { requests: 64, prefix: 8192, own: 256, most: 45 },
  { requests: 64, prefix: 32_768, own: 128, most: 90 },
  { requests: 16, prefix: 8192, own: 128, most: 33.5 },
  { requests: 64, prefix: 8192, own: 128, most: 65 },
  { requests: 16, prefix: 32_768, own: 128, most: 59 },
];

/** Shared prefixes as levels of their own, and read by each request. */
export const cascadeCases: GpuCase[] = rows.map(({ most, ...shape }) => {
  const { requests, prefix, own } = shape;
  return {
    name: `cascade/bf16/b${requests}_prefix${prefix}_own${own}`,
    run: (bench) => measure(bench, { dtype: "bf16", ...shape }, most),
  };
});

async function measure(bench: GpuBench, shape: CascadeShape, most: number): Promise<GpuRow[]> {
  using world = new CascadeWorld(bench, shape);
  const flat = await world.microseconds(false);
  const value = await world.microseconds(true);
  const inGraph = await world.microseconds(true, { ...world.sizes, sharedPrefix: true });
  return [rowOf("", value, flat, most), rowOf("/graph", inGraph, flat, most)];
}

function rowOf(name: string, value: number, flat: number, most: number): GpuRow {
  return {
    name,
    value,
    unit: "us",
    ofRoofline: null,
    peers: [{ backend: "one level", value: flat, ratio: flat / value }],
    peer: flat,
    ofPeer: flat / value,
    target: `at most ${most}`,
    met: value <= most,
  };
}
