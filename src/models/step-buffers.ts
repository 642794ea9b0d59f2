import type { Device } from "../device/device.ts";
import type { DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";

interface Buffer {
  readonly whole: Tensor;
  /** By row count, its first so many rows. */
  readonly views: Tensor[];
}

/**
 * Buffers of a step by name, made at their largest and kept in place, so that after the first steps
 * nothing is allocated and graphs may hold them.
 */
export class StepBuffers implements Disposable {
  readonly #byName = new Map<string, Buffer>();
  /** By tensor, its columns as heads. */
  readonly #heads = new Map<Tensor, Tensor[]>();

  constructor(
    readonly device: Device,
    readonly dtype: DType,
    /** Most rows of a buffer. */
    readonly rowsMost: number,
  ) {}

  /** The first `rows` of the buffer of that name, [rows, width]. */
  rows(name: string, rows: number, width: number): Tensor {
    let buffer = this.#byName.get(name);
    if (buffer === undefined) {
      const whole = Tensor.empty(this.device, [this.rowsMost, width], this.dtype, name);
      this.#byName.set(name, (buffer = { whole, views: [] }));
    }
    return (buffer.views[rows] ??= buffer.whole.slice(0, 0, rows));
  }

  /** Columns of such a buffer as heads: parts [rows, heads, headDim], side by side. */
  heads(x: Tensor, counts: readonly number[], headDim: number): readonly Tensor[] {
    let parts = this.#heads.get(x);
    if (parts === undefined) {
      const whole = x.reshape(x.shape[0], x.shape[1] / headDim, headDim);
      let from = 0;
      parts = counts.map((count) => whole.slice(1, from, (from += count)));
      this.#heads.set(x, parts);
    }
    return parts;
  }

  /** Frees all of them. */
  [Symbol.dispose](): void {
    for (const { whole } of this.#byName.values()) whole[Symbol.dispose]();
  }
}
