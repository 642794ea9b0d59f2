import type { Device } from "../device/device.ts";
import { GrowingBuffer, PinnedRing } from "../device/ring.ts";
import type { Stream } from "../device/stream.ts";
import type { Batch } from "../kv/batch.ts";
import { gatherRows } from "../ops/gather.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Job } from "./job.ts";
import { keyRow, keyRows, noiseRows, queryRow } from "./rows.ts";
import type { ModelShape } from "./types.ts";

/** Logit of a needle against its key: e^12 outweighs thousands of other keys. */
const needleLogit = 12;

/** What stands in for a model: queries, keys and values of every token, from banks of noise. */
export class Model implements Disposable {
  /** [tokens, queryHeads, headDim], the current layer's, overwritten by the next gather. */
  readonly q: Tensor;
  /** [tokens, kvHeads, headDim] */
  readonly k: Tensor;
  readonly v: Tensor;
  /** [keyRows, kvHeads, headDim] */
  readonly keyBank: Tensor;
  readonly valueBank: Tensor;
  /** [keyRows + noiseRows, queryHeads, headDim]: row r is key row r for every head of its group. */
  readonly queryBank: Tensor;
  /** Positions that a query sees, itself included. */
  readonly window: number;
  readonly #layers: number;
  readonly #ring: PinnedRing;
  readonly #indices: GrowingBuffer;

  /** Queues the filling of the banks; room for `tokens` tokens a step. */
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

  /** Uploads which rows the step's tokens take, for all layers. */
  prepare(stream: Stream, batch: Batch, jobs: readonly Job[]): void {
    const { tokenCount, queryIndptr, positions } = batch;
    const ints = 2 * this.#layers * tokenCount;
    const { i32 } = this.#ring.take(ints);
    let at = 0;
    for (let layer = 0; layer < this.#layers; layer++, at += 2 * tokenCount) {
      for (let r = 0; r < jobs.length; r++) {
        const { tokens } = jobs[r];
        for (let i = queryIndptr[r]; i < queryIndptr[r + 1]; i++) {
          const position = positions[i];
          i32[at + i] = keyRow(tokens[position], position, layer);
          i32[at + tokenCount + i] = queryRow(tokens, position, layer, this.window);
        }
      }
    }
    this.#indices.ensure(4 * ints);
    this.#ring.upload(stream, this.#indices.address, ints);
  }

  /** Queues the making of a layer's q, k and v for the prepared step. */
  gather(stream: Stream, layer: number, tokenCount: number): void {
    const indices = this.#indices.address + 8 * layer * tokenCount;
    gatherRows(stream, this.keyBank, indices, this.k, tokenCount);
    gatherRows(stream, this.valueBank, indices, this.v, tokenCount);
    gatherRows(stream, this.queryBank, indices + 4 * tokenCount, this.q, tokenCount);
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
