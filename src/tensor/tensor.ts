import type { Device } from "../device/device.ts";
import { type Context, requireDevice } from "../device/context.ts";
import type { Memory } from "../device/memory.ts";
import { Owner } from "../device/owner.ts";
import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { requireInteger, requireOptions } from "../require.ts";
import { convertParams } from "./convert.ts";
import {
  decode,
  type DType,
  dtypeBytes,
  isFloat,
  requireDType,
  type TypedArray,
  typedArrayOf,
} from "./dtype.ts";
import { bytesOfBits, bytesOfNumbers, hostViewOf } from "./host.ts";
import { isInPlace, requireApart, requireDistinct } from "./overlap.ts";
import { firstValues } from "./preview.ts";
import { fillNormal, type NormalOptions, requireNormal } from "./random.ts";
import { checkShape, checkStrides, denseStrides, elementsOf, requireAsMany } from "./shape.ts";

/** Where a tensor's bytes lie: memory it owns, or an address that another owner keeps alive. */
interface Storage {
  readonly memory: Memory | undefined;
  /** Kept alive as long as any view: the foreign owner of the bytes. */
  readonly keep: unknown;
}

/** Throws an OptionError unless `value` is a tensor. */
export function requireTensor(option: string, value: Tensor | undefined): asserts value is Tensor {
  // By what it can do: after a hot reload tensors of the class before still serve.
  if (typeof value?.requireOn !== "function")
    throw new OptionError(option, value, "a tensor", "make one, by Tensor.from for example.");
}

/**
 * A strided view of device memory. `shape` and `strides` count elements. Views share their storage;
 * disposing the tensor that was allocated disposes the storage, disposing a view only the view.
 */
export class Tensor extends Owner {
  readonly elements: number;

  private constructor(
    readonly device: Device,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
    readonly dtype: DType,
    /** Address of element [0, 0, ...]. */
    readonly address: number,
    /** @internal */
    readonly storage: Storage,
    /** @internal */
    readonly ownsStorage: boolean,
  ) {
    super(`${dtype} tensor [${shape.join(", ")}]`);
    this.elements = elementsOf(shape);
  }

  /** A tensor of whatever the memory holds. Errors: OptionError, OutOfMemoryError. */
  static empty(device: Device, shape: readonly number[], dtype: DType, label = "tensor"): Tensor {
    requireDevice(device);
    requireDType("dtype", dtype);
    const strides = denseStrides(checkShape(shape));
    const bytes = shape.reduce((product, size) => product * size, dtypeBytes(dtype));
    const memory = device.alloc(bytes, label);
    const storage = { memory, keep: undefined };
    return new Tensor(device, [...shape], strides, dtype, memory.address, storage, true);
  }

  /** A tensor of zeros. */
  static zeros(device: Device, shape: readonly number[], dtype: DType, label?: string): Tensor {
    const tensor = Tensor.empty(device, shape, dtype, label);
    device.stream.fill(tensor.address, 0, tensor.elements * dtypeBytes(dtype));
    return tensor;
  }

  /**
   * A tensor of the given numbers, rounded to nearest even. `data` holds as many as the shape says,
   * in row-major order. Errors: OptionError.
   */
  static from(
    device: Device,
    data: ArrayLike<number> | ArrayLike<bigint>,
    shape: readonly number[],
    dtype: DType,
    label?: string,
  ): Tensor {
    const bytes = bytesOfNumbers(dtype, data, shape);
    const tensor = Tensor.empty(device, shape, dtype, label);
    device.upload(tensor.address, bytes);
    return tensor;
  }

  /** A tensor of raw element bits, such as a Uint16Array of bf16. Errors: OptionError. */
  static fromBits(
    device: Device,
    bits: ArrayBufferView,
    shape: readonly number[],
    dtype: DType,
    label?: string,
  ): Tensor {
    const bytes = bytesOfBits(dtype, bits, shape);
    const tensor = Tensor.empty(device, shape, dtype, label);
    device.upload(tensor.address, bytes);
    return tensor;
  }

  /** A tensor of N(mean, deviation) noise: element i depends on the seed and i only. */
  static randomNormal(
    device: Device,
    shape: readonly number[],
    dtype: DType,
    options: NormalOptions,
  ): Tensor {
    requireNormal(options);
    if (!isFloat(dtype)) {
      throw new OptionError("dtype", dtype, "a float dtype", "make floats, then convert them.");
    }
    const tensor = Tensor.empty(device, shape, dtype);
    fillNormal(tensor, options);
    return tensor;
  }

  /**
   * A view of memory that has another owner: `keep` (anything that owns it) stays referenced as
   * long as the view. Strides count elements; dense by default. Errors: OptionError.
   */
  static fromPointer(
    device: Device,
    address: number,
    shape: readonly number[],
    dtype: DType,
    options: { strides?: readonly number[]; keep?: unknown } = {},
  ): Tensor {
    requireDevice(device);
    requireDType("dtype", dtype);
    requireInteger("address", address, 1);
    checkShape(shape);
    requireOptions("options", options, ["strides", "keep"]);
    const strides = options.strides ?? denseStrides(shape);
    checkStrides(strides, shape);
    const storage = { memory: undefined, keep: options.keep };
    return new Tensor(device, [...shape], [...strides], dtype, address, storage, true);
  }

  /** True when the elements lie in row-major order without gaps. */
  get contiguous(): boolean {
    let expected = 1;
    for (let axis = this.shape.length - 1; axis >= 0; axis--) {
      if (this.shape[axis] !== 1 && this.strides[axis] !== expected) return false;
      expected *= this.shape[axis];
    }
    return true;
  }

  /** Elements [start, end) of an axis, as a view. Errors: OptionError. */
  slice(axis: number, start: number, end: number): Tensor {
    requireInteger("axis", axis, 0, this.shape.length - 1);
    requireInteger("start", start, 0, this.shape[axis]);
    requireInteger("end", end, start, this.shape[axis]);
    const shape = this.shape.with(axis, end - start);
    return this.#view(shape, this.strides, start * this.strides[axis]);
  }

  /** One index of an axis, which goes away; a view. Errors: OptionError. */
  select(axis: number, index: number): Tensor {
    requireInteger("axis", axis, 0, this.shape.length - 1);
    requireInteger("index", index, 0, this.shape[axis] - 1);
    const shape = this.shape.toSpliced(axis, 1);
    return this.#view(shape, this.strides.toSpliced(axis, 1), index * this.strides[axis]);
  }

  /** The axes in another order; a view. Errors: OptionError unless `axes` names each once. */
  permute(...axes: number[]): Tensor {
    if (axes.length !== this.shape.length || new Set(axes).size !== axes.length) {
      throw new OptionError("axes", axes, "each axis once", `name all ${this.shape.length} axes.`);
    }
    for (const axis of axes) requireInteger("axes", axis, 0, this.shape.length - 1);
    const pick = (from: readonly number[]) => axes.map((axis) => from[axis]);
    return this.#view(pick(this.shape), pick(this.strides), 0);
  }

  /** The same elements in another shape; only of a contiguous tensor. Errors: OptionError. */
  reshape(...shape: number[]): Tensor {
    requireAsMany(checkShape(shape), this.shape);
    if (!this.contiguous) {
      throw new OptionError("tensor", this.label, "contiguous", "copy it by to(dtype) first.");
    }
    return this.#view(shape, denseStrides(shape), 0);
  }

  /** A dense copy in the given dtype, rounded to nearest even. */
  to(dtype: DType): Tensor {
    const copy = Tensor.empty(this.device, this.shape, dtype);
    copy.copyFrom(this);
    return copy;
  }

  /**
   * Copies another tensor of the same shape into this one, converting dtypes. Errors: OptionError.
   */
  copyFrom(source: Tensor, stream = this.device.stream): void {
    this.guard();
    requireTensor("source", source);
    source.guard();
    requireStream(stream, this.device);
    if (source.device !== this.device) {
      throw new OptionError("source", source.label, "of the same device", "copy it over the host.");
    }
    if (source.shape.join() !== this.shape.join()) {
      const allowed = `of shape [${this.shape}]`;
      throw new OptionError("source", source.label, allowed, "match the shapes.");
    }
    if (this.elements === 0) return;
    requireDistinct("target", this);
    if (!isInPlace(this, source)) requireApart("target", this, "source", source);
    if (this.device.capturing) this.device.needOnReplay(source, this);
    const kernel = this.device.kernel("convert");
    const params = convertParams(source, this);
    this.device.launch(stream, kernel, params, Math.ceil(this.elements / kernel.itemRows));
  }

  /**
   * Writes numbers over all elements, in row-major order and rounded to nearest even; `data` is
   * free at once, and what was queued before sees the elements before. Errors: OptionError.
   */
  set(data: ArrayLike<number> | ArrayLike<bigint>): void {
    this.guard();
    this.#write(bytesOfNumbers(this.dtype, data, this.shape));
  }

  /** As {@link set}, of raw element bits, such as a Uint16Array of bf16. Errors: OptionError. */
  setBits(bits: ArrayBufferView): void {
    this.guard();
    this.#write(bytesOfBits(this.dtype, bits, this.shape));
  }

  /**
   * The elements themselves, without a copy, as the typed array of the dtype (bf16 and fp8 as their
   * bits): of a contiguous tensor on the CPU. It borrows: wait for the stream before reading, queue
   * nothing that uses the elements while writing, and do not use it after disposal. Errors:
   * OptionError.
   */
  hostView(): TypedArray {
    this.guard();
    return hostViewOf(this, this.storage.memory);
  }

  /** All elements in row-major order as f64; blocks until the default stream is done. */
  toFloat64Array(): Float64Array {
    return decode(this.dtype, this.toBytes());
  }

  /** The elements' bits in row-major order; blocks until the default stream is done. */
  toBytes(): Uint8Array<ArrayBuffer> {
    this.guard();
    const bytes = this.elements * dtypeBytes(this.dtype);
    if (bytes === 0) return new Uint8Array(0);
    if (!this.contiguous) {
      using dense = this.to(this.dtype);
      return dense.toBytes();
    }
    return this.device.download(this.address, bytes);
  }

  /** As the typed array of the dtype; bf16 and fp8 as their bits. Blocks as toBytes does. */
  toTypedArray(): TypedArray {
    return typedArrayOf(this.dtype, this.toBytes().buffer);
  }

  /**
   * @internal Throws unless the tensor is live and on `device`; `option` names it. Errors:
   * OptionError.
   */
  requireOn(device: Context, option: string): void {
    this.guard();
    if (this.device === device) return;
    const where = `${this.label} on ${this.device.label}`;
    throw new OptionError(option, where, `on ${device.label}`, "copy it there over the host.");
  }

  /** @internal Throws DisposedError when this view or the storage under it was disposed. */
  override guard(): void {
    super.guard();
    this.storage.memory?.guard();
    this.device.guard();
  }

  protected override release(): void {
    if (!this.ownsStorage) return;
    this.storage.memory?.[Symbol.dispose]();
    const keep = this.storage.keep as Partial<Disposable> | undefined;
    keep?.[Symbol.dispose]?.();
  }

  /** @internal Such as "Tensor f32 [2, 2] on cpu device: 1, 2, 3, 4"; waits as toBytes does. */
  override toString(): string {
    const what = `Tensor ${this.dtype} [${this.shape.join(", ")}] on ${this.device.label}`;
    if (this.gone) return `${what} (disposed)`;
    if (this.elements === 0 || this.device.capturing) return what;
    return `${what}: ${this.device.failure() === undefined ? firstValues(this) : "(failed)"}`;
  }

  #write(bytes: Uint8Array): void {
    if (this.elements === 0) return;
    if (this.contiguous) return this.device.upload(this.address, bytes);
    requireDistinct("tensor", this);
    using dense = Tensor.fromBits(this.device, bytes, this.shape, this.dtype);
    this.copyFrom(dense);
  }

  #view(shape: readonly number[], strides: readonly number[], offset: number): Tensor {
    this.guard();
    const address = this.address + offset * dtypeBytes(this.dtype);
    return new Tensor(this.device, shape, strides, this.dtype, address, this.storage, false);
  }
}
