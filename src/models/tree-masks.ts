import type { Attention } from "../attention/attention.ts";
import type { Device } from "../device/device.ts";
import type { Batch } from "../kv/batch.ts";
import { Tensor } from "../tensor/tensor.ts";

/** Masks as an attention with `mask: "tail"` takes them. */
export interface Masks {
  readonly maskBits: Tensor;
  readonly maskIndptr: Tensor;
}

/** What a step attends by: one of each kind of attention, and their masks if they take some. */
export interface StepAttention {
  readonly attention: readonly Attention[];
  readonly masks?: Masks | undefined;
}

/** Bytes of the first buffer. */
const bytesAtFirst = 1 << 12;

/**
 * Which of a step's tokens see which, where some requests have trees of drafts: a draft sees those
 * that it follows. It stands where it would in a chain, as deep as it lies in its tree.
 */
export class TreeMasks implements Disposable {
  readonly #device: Device;
  #bits: Tensor;
  #host = new Uint8Array(bytesAtFirst);
  readonly #indptr: Tensor;
  readonly #starts: Int32Array;
  /** [tokens]: where the step's tokens stand. */
  readonly positions: Int32Array;

  constructor(device: Device, sizes: { readonly tokenBudget: number; readonly maxBatch: number }) {
    this.#device = device;
    this.#bits = Tensor.empty(device, [bytesAtFirst], "u8", "tree masks");
    this.#indptr = Tensor.empty(device, [sizes.maxBatch], "i32", "tree masks' starts");
    this.#starts = new Int32Array(sizes.maxBatch);
    this.positions = new Int32Array(sizes.tokenBudget);
  }

  /**
   * Queues the masks of a batch to the device and writes its positions. `trees`: by request, the
   * node that each draft follows, 0 for the last token before them; undefined for a chain.
   */
  write(batch: Batch, trees: readonly (readonly number[] | undefined)[]): Masks {
    const { requestCount, tokenCount, queryIndptr, positions } = batch;
    this.positions.set(positions.subarray(0, tokenCount));
    let [bytes, pairs] = [0, 0];
    for (let r = 0; r < requestCount; r++) {
      const queries = queryIndptr[r + 1] - queryIndptr[r];
      this.#starts[r] = bytes;
      bytes += Math.ceil(queries ** 2 / 8);
      pairs += queries ** 2;
    }
    this.#ensure(bytes, pairs);
    this.#host.fill(0xff, 0, bytes);
    for (let r = 0; r < requestCount; r++) {
      const parents = trees[r];
      if (parents !== undefined) this.#writeTree(this.#starts[r], queryIndptr[r], parents);
    }
    this.#device.upload(this.#bits.address, this.#host.subarray(0, bytes));
    this.#device.upload(this.#indptr.address, new Uint8Array(this.#starts.buffer));
    return { maskBits: this.#bits, maskIndptr: this.#indptr };
  }

  [Symbol.dispose](): void {
    this.#bits[Symbol.dispose]();
    this.#indptr[Symbol.dispose]();
  }

  #writeTree(start: number, first: number, parents: readonly number[]): void {
    const nodes = parents.length + 1;
    const end = start + Math.ceil(nodes ** 2 / 8);
    this.#host.fill(0, start, end);
    for (let node = 0; node < nodes; node++) {
      let depth = 0;
      for (let at = node; ; at = parents[at - 1]) {
        const bit = node * nodes + at;
        this.#host[start + (bit >> 3)] |= 1 << (bit & 7);
        if (at === 0) break;
        depth++;
      }
      this.positions[first + node] = this.positions[first] + depth;
    }
  }

  /** Makes room for so many bytes, in a buffer that is never as long as there are pairs. */
  #ensure(bytes: number, pairs: number): void {
    let size = this.#host.length;
    while (size < bytes || size === pairs) size *= 2;
    if (size === this.#host.length) return;
    this.#bits[Symbol.dispose]();
    this.#host = new Uint8Array(size);
    this.#bits = Tensor.empty(this.#device, [size], "u8", "tree masks");
  }
}
