import type { Device } from "../device/device.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import type { Batch } from "../kv/batch.ts";
import { copyRows } from "../ops/copy-rows.ts";
import type { Job } from "../serve/job.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import { keyRow, keyRows, noiseRows, queryRow } from "./rows.ts";
import type { ModelShape } from "./types.ts";

/** Logit of a needle against its key: e^12 outweighs thousands of other keys. */
const needleLogit = 12;

/** Queries [tokens, queryHeads, headDim], keys and values [tokens, kvHeads, headDim]. */
export interface Inputs {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
}

/** Takes the place of a model: queries, keys and values of every token, from banks of noise. */
export class NoiseModel implements Inputs, Disposable {
  /** The current layer's inputs, overwritten by the next gather. */
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  /** [keyRows, kvHeads, headDim] */
  readonly keyBank: Tensor;
  readonly valueBank: Tensor;
  /** `[keyRows + noiseRows, queryHeads, headDim]`: key row r for each head of its group. */
  readonly queryBank: Tensor;
  /** Positions that a query sees, itself included. */
  readonly window: number;
  readonly #layers: number;
  readonly #ring: PinnedRing;
  readonly #indices: GrowingBuffer;

  /** Queues the filling of the banks; room for `tokens` tokens per step. */
  constructor(
    device: Device,
    shape: ModelShape,
    layers: number,
    dtype: DType,
    tokens: number,
    seed: number,
  ) {
    const { queryHeads, kvHeads, headDim, windowLeft } = shape;
    this.#layers = layers;
    this.#ring = new PinnedRing(device, "replay index ring");
    this.#indices = new GrowingBuffer(device, "replay indices");
    this.window = windowLeft === undefined ? Infinity : windowLeft + 1;
    this.q = Tensor.empty(device, [tokens, queryHeads, headDim], dtype, "replay queries");
    this.k = Tensor.empty(device, [tokens, kvHeads, headDim], dtype, "replay keys");
    this.v = Tensor.empty(device, [tokens, kvHeads, headDim], dtype, "replay values");
    const bank = [keyRows, kvHeads, headDim];
    const deviation = Math.sqrt(needleLogit / Math.sqrt(headDim));
    this.keyBank = Tensor.randomNormal(device, bank, dtype, { seed, deviation });
    this.valueBank = Tensor.randomNormal(device, bank, dtype, { seed: seed + 1 });
    this.queryBank = this.#fillQueries(queryHeads, seed + 2);
  }

  /** Uploads which rows the step's tokens take: of keys by layer, then of queries by layer. */
  prepare(stream: Stream, batch: Batch, jobs: readonly Job[]): void {
    const { tokenCount, paddedTokens, queryIndptr, positions } = batch;
    const half = this.#layers * paddedTokens;
    const { i32 } = this.#ring.take(2 * half);
    if (paddedTokens > tokenCount) i32.fill(-1, 0, 2 * half);
    for (let layer = 0, at = 0; layer < this.#layers; layer++, at += paddedTokens) {
      for (let r = 0; r < jobs.length; r++) {
        const { tokens } = jobs[r];
        for (let i = queryIndptr[r]; i < queryIndptr[r + 1]; i++) {
          const position = positions[i];
          i32[at + i] = keyRow(tokens[position], position, layer);
          i32[half + at + i] = queryRow(tokens, position, layer, this.window);
        }
      }
    }
    this.#indices.ensure(8 * half);
    this.#ring.upload(stream, this.#indices.address, 2 * half);
  }

  /**
   * Queues the making of the prepared step's q, k and v, of `count` layers one after the other;
   * rows of padding are zeros.
   */
  gather(
    stream: Stream,
    layer: number,
    { paddedTokens }: Batch,
    count = 1,
    into: Inputs = this,
  ): void {
    const keys = this.#indices.address + 4 * layer * paddedTokens;
    const queries = keys + 4 * this.#layers * paddedTokens;
    const rows = count * paddedTokens;
    copyRows(stream, this.keyBank, keys, into.k, rows);
    copyRows(stream, this.valueBank, keys, into.v, rows);
    copyRows(stream, this.queryBank, queries, into.q, rows);
  }

  [Symbol.dispose](): void {
    for (const tensor of [this.q, this.k, this.v]) tensor[Symbol.dispose]();
    for (const bank of [this.keyBank, this.valueBank, this.queryBank]) bank[Symbol.dispose]();
    this.#ring[Symbol.dispose]();
    this.#indices[Symbol.dispose]();
  }

  #fillQueries(queryHeads: number, seed: number): Tensor {
    const { keyBank } = this;
    const { device, dtype } = keyBank;
    const [, kvHeads, dim] = keyBank.shape;
    const group = queryHeads / kvHeads;
    const bank = Tensor.empty(device, [keyRows + noiseRows, queryHeads, dim], dtype, "query bank");
    // Stride 0 shows a key to each query head of its group.
    const strides = [kvHeads * dim, dim, 0, 1];
    const shape = [keyRows, kvHeads, group, dim];
    using keys = Tensor.fromPointer(device, keyBank.address, shape, dtype, { strides });
    using needles = bank.slice(0, 0, keyRows);
    using target = needles.reshape(...shape);
    target.copyFrom(keys);
    using noise = Tensor.randomNormal(device, [noiseRows, queryHeads, dim], dtype, { seed });
    using rest = bank.slice(0, keyRows, keyRows + noiseRows);
    rest.copyFrom(noise);
    return bank;
  }
}
