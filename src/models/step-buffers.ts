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
  /** By name, the columns of the whole buffer as heads. */
  readonly #heads = new Map<string, Tensor[]>();

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
      // Rows of padding may be read before they were written: let them be numbers.
      const whole = Tensor.zeros(this.device, [this.rowsMost, width], this.dtype, name);
      this.#byName.set(name, (buffer = { whole, views: [] }));
    }
    return (buffer.views[rows] ??= buffer.whole.slice(0, 0, rows));
  }

  /**
   * Columns of a buffer that there is as heads: parts [rowsMost, heads, headDim], side by side.
   * They are the same tensors whatever a step's rows are, so that what takes them binds them once.
   */
  heads(name: string, counts: readonly number[], headDim: number): readonly Tensor[] {
    let parts = this.#heads.get(name);
    if (parts === undefined) {
      const { whole } = this.#byName.get(name)!;
      const inHeads = whole.reshape(this.rowsMost, whole.shape[1] / headDim, headDim);
      let from = 0;
      parts = counts.map((count) => inHeads.slice(1, from, (from += count)));
      this.#heads.set(name, parts);
    }
    return parts;
  }

  /** Frees all of them. */
  [Symbol.dispose](): void {
    for (const { whole } of this.#byName.values()) whole[Symbol.dispose]();
  }
}
