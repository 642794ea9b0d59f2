import type { Device } from "../device/device.ts";
import { Tensor } from "../tensor/tensor.ts";
import type { Generation } from "./request.ts";

/** What grammars allow in each row of a step: a bit for each token, on the device. */
export class TokenMasks implements Disposable {
  readonly #device: Device;
  readonly #words: number;
  readonly #bits: Int32Array;
  readonly #whole: Tensor;

  /** @param rows most rows of a step */
  constructor(device: Device, rows: number, vocabulary: number) {
    this.#device = device;
    this.#words = Math.ceil(vocabulary / 32);
    this.#bits = new Int32Array(rows * this.#words);
    this.#whole = Tensor.empty(device, [rows, this.#words], "i32", "allowed tokens");
  }

  /** Queues the masks of the rows, [rows, words]; a row without a grammar may have any token. */
  upload(rows: readonly Generation[]): Tensor {
    rows.forEach(({ grammar }, row) => {
      const bits = this.#bits.subarray(row * this.#words, (row + 1) * this.#words);
      if (grammar === undefined) bits.fill(-1);
      else grammar.allowed(bits);
    });
    const bytes = new Uint8Array(this.#bits.buffer, 0, 4 * rows.length * this.#words);
    this.#device.upload(this.#whole.address, bytes);
    return this.#whole.slice(0, 0, rows.length);
  }

  [Symbol.dispose](): void {
    this.#whole[Symbol.dispose]();
  }
}
