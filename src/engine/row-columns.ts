import type { Device } from "../device/device.ts";
import { Tensor } from "../tensor/tensor.ts";

/** Numbers of rows, written on the host and read by the device. */
type Values = Int32Array | Float32Array | BigInt64Array;

const dtypes = { Int32Array: "i32", Float32Array: "f32", BigInt64Array: "i64" } as const;

/** A number for each row of a step, [rows] on the device; kept in place. */
export class RowColumn<V extends Values> implements Disposable {
  readonly #whole: Tensor;
  /** By row count, the first so many: made once for each. */
  readonly #views: Tensor[] = [];
  readonly #bytes: Uint8Array;

  constructor(
    device: Device,
    label: string,
    readonly values: V,
  ) {
    const dtype = dtypes[values.constructor.name as keyof typeof dtypes];
    this.#whole = Tensor.empty(device, [values.length], dtype, label);
    this.#bytes = new Uint8Array(values.buffer);
  }

  /** The first `rows` as a tensor. */
  rows(rows: number): Tensor {
    return (this.#views[rows] ??= this.#whole.slice(0, 0, rows));
  }

  /** Queues the first `rows` values to the device; returns them there. */
  upload(rows: number): Tensor {
    const { device, address } = this.#whole;
    device.upload(address, this.#bytes.subarray(0, rows * this.values.BYTES_PER_ELEMENT));
    return this.rows(rows);
  }

  [Symbol.dispose](): void {
    this.#whole[Symbol.dispose]();
  }
}
