import type { Device } from "../device/device.ts";
import type { Memory } from "../device/memory.ts";
import { PinnedRing } from "../device/ring.ts";
import { Tensor } from "../tensor/tensor.ts";

/** A number for each row of a step, written on the host. */
export class RowColumn<V extends Float32Array | Int32Array> {
  /** By row count, the first so many: made once for each. */
  readonly #views: Tensor[] = [];

  constructor(
    private readonly whole: Tensor,
    /** Of an i64 column low and high halves in turn. */
    readonly values: V,
  ) {}

  /** The first `rows` on the device, as the last upload left them. */
  rows(rows: number): Tensor {
    return (this.#views[rows] ??= this.whole.slice(0, 0, rows));
  }
}

/** Columns side by side in one block of a fixed place, which one copy fills. */
export class RowColumns implements Disposable {
  readonly #device: Device;
  readonly #memory: Memory;
  readonly #host: Int32Array<ArrayBuffer>;
  readonly #ring: PinnedRing;
  #taken = 0;

  /**
   * @param rowsMost rows of each column
   * @param words of a row: 1 for each column, 2 for one of i64
   */
  constructor(
    device: Device,
    label: string,
    private readonly rowsMost: number,
    words: number,
  ) {
    this.#device = device;
    this.#host = new Int32Array(words * rowsMost);
    this.#memory = device.alloc(this.#host.byteLength, label);
    this.#ring = new PinnedRing(device, label);
  }

  /** The next column, of i64; before any other, so that it is aligned. */
  i64(): RowColumn<Int32Array> {
    const [whole, at] = this.#next("i64", 2);
    return new RowColumn(whole, this.#host.subarray(at, at + 2 * this.rowsMost));
  }

  /** The next column, of i32. */
  i32(): RowColumn<Int32Array> {
    const [whole, at] = this.#next("i32", 1);
    return new RowColumn(whole, this.#host.subarray(at, at + this.rowsMost));
  }

  /** The next column, of f32. */
  f32(): RowColumn<Float32Array> {
    const [whole, at] = this.#next("f32", 1);
    return new RowColumn(whole, new Float32Array(this.#host.buffer, 4 * at, this.rowsMost));
  }

  /** Queues all columns to the device. */
  upload(): void {
    const { length } = this.#host;
    this.#ring.take(length).i32.set(this.#host);
    this.#ring.upload(this.#device.stream, this.#memory.address, length);
  }

  [Symbol.dispose](): void {
    this.#ring[Symbol.dispose]();
    this.#memory[Symbol.dispose]();
  }

  #next(dtype: "f32" | "i32" | "i64", words: number): [Tensor, number] {
    const at = this.#taken;
    this.#taken += words * this.rowsMost;
    const address = this.#memory.address + 4 * at;
    const keep = { keep: this.#memory };
    return [Tensor.fromPointer(this.#device, address, [this.rowsMost], dtype, keep), at];
  }
}
