import type { Device } from "../device/device.ts";
import { PinnedRing } from "../device/ring.ts";
import { dtypeBytes, type DType, encode } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Weight } from "../tensor/weight.ts";
import { type Codes, codesOf, stackCodes } from "../weights/codes.ts";
import type { Checkpoint } from "../weights/checkpoint.ts";
import { CheckpointError } from "../weights/errors.ts";
import { type Range, rowsOf } from "../weights/slice.ts";
import { Config } from "./config.ts";
import type { LatentHeads } from "./latent.ts";
import { LoadCount, type LoadProgress } from "./load-count.ts";
import type { LatentShape } from "./shape.ts";
import { storedBytes, type StoredTensor } from "../weights/stored.ts";
import { dtypeOf, unpack } from "../weights/unpack.ts";

/** A linear layer on the device: full names of its parts, one below the other, with outputs. */
export interface LinearLayer {
  readonly weight: Weight;
  readonly parts: readonly (readonly [module: string, outputs: number])[];
}

/** What a source has done, also for names behind a prefix. */
interface Done {
  /** On the device. */
  readonly owned: Tensor[];
  /** Full names of what was asked for. */
  readonly taken: Set<string>;
  readonly linears: LinearLayer[];
  /** What parts of files are read into on their way to the device. */
  ring?: PinnedRing | undefined;
  readonly count: LoadCount;
}

/** Bytes of a file that are read at once, while those before go to the device. */
const partBytes = 1 << 24;

/** Takes a checkpoint's tensors by name and puts them on the device, where they stay its own. */
export class WeightSource implements Disposable {
  constructor(
    readonly device: Device,
    readonly checkpoint: Checkpoint,
    /** Of activations, and of weights that are not quantised. */
    readonly dtype: DType,
    readonly prefix = "",
    protected readonly done: Done = {
      owned: [],
      taken: new Set(),
      linears: [],
      count: new LoadCount(checkpoint),
    },
  ) {}

  /** The same for names behind `prefix.`. */
  below(prefix: string): WeightSource {
    const { device, checkpoint, dtype, done } = this;
    return new WeightSource(device, checkpoint, dtype, `${this.prefix}${prefix}.`, done);
  }

  /** What is called whenever a tensor, or a part of a large one, is read or made. */
  set onProgress(each: () => void) {
    this.done.count.onProgress = each;
  }

  get progress(): LoadProgress {
    return this.done.count.progress;
  }

  /** Whether there is a weight of that name. */
  has(name: string): boolean {
    return this.checkpoint.tensors.has(this.nameOf(name));
  }

  /** A norm's weight, f32 [length], with `offset` added to each. Errors: CheckpointError. */
  vector(name: string, length: number, offset = 0, kind = "weight"): Tensor {
    const stored = this.#stored(name, [length], kind);
    const values = this.#unpack(stored).map((value) => value + offset);
    return this.own(Tensor.from(this.device, values, [length], "f32", stored.name));
  }

  /** The same where there is one. */
  vectorIfThere(name: string, length: number, offset = 0): Tensor | undefined {
    return this.has(name) ? this.vector(name, length, offset) : undefined;
  }

  /** Biases of a linear layer's outputs, one after the other, where the first of them is there. */
  biasIfThere(outputs: Readonly<Record<string, number>>): Tensor | undefined {
    const parts = Object.entries(outputs);
    if (!this.checkpoint.tensors.has(this.nameOf(parts[0][0], "bias"))) return undefined;
    const values = parts.flatMap(([name, count]) => [
      ...this.#unpack(this.#stored(name, [count], "bias")),
    ]);
    return this.own(Tensor.from(this.device, values, [values.length], "f32", "biases"));
  }

  /** A table of which rows are looked up, [rows, columns]. Errors: CheckpointError. */
  table(name: string, rows: number, columns: number): Tensor {
    return this.#stack(columns, { [name]: rows });
  }

  /**
   * A linear layer of `inputs` columns whose outputs stand one below the other, by name and count.
   * Errors: CheckpointError.
   */
  linear(inputs: number, outputs: Readonly<Record<string, number>>): Weight {
    const stored = Object.entries(outputs).map(([name, count]) =>
      this.#stored(name, [count, inputs]),
    );
    const codes = stored.map(codesOf);
    if (codes.some((part) => part === undefined))
      return this.noted(Weight.dense(this.#stack(inputs, outputs)), outputs);
    const weight = this.#grouped(inputs, stackCodes(codes as Codes[]));
    for (const part of stored) this.done.count.add(storedBytes(part));
    return this.noted(weight, outputs);
  }

  /** The linear layers so far, but for experts' and a head that is a table. */
  get linears(): readonly LinearLayer[] {
    return this.done.linears;
  }

  /**
   * The linear layers of experts, one stack: each as in `linear`, of names behind the expert's own.
   * Errors: CheckpointError.
   */
  experts(
    count: number,
    nameOf: (expert: number) => string,
    inputs: number,
    outputs: Readonly<Record<string, number>>,
  ): Weight {
    const { device, dtype } = this;
    const parts = Object.entries(outputs);
    const rows = parts.reduce((sum, [, each]) => sum + each, 0);
    const label = `${this.prefix}${parts.map(([name]) => name).join(" ")} of experts`;
    const tensor = this.own(Tensor.empty(device, [count, rows, inputs], dtype, label));
    let { address } = tensor;
    for (let expert = 0; expert < count; expert++)
      address = this.below(nameOf(expert)).#put(address, inputs, parts);
    return Weight.dense(tensor);
  }

  /**
   * The parts of DeepSeek's `kv_b_proj` by head: keys [heads, rank, plain], turned around, and
   * values [heads, value, rank]. Errors: CheckpointError.
   */
  latentHeads(
    name: string,
    heads: number,
    { rank, plain, value }: Omit<LatentShape, "turned">,
  ): LatentHeads {
    const width = plain + value;
    const stored = this.#unpack(this.#stored(name, [heads * width, rank]));
    const keys = new Float32Array(heads * rank * plain);
    const values = new Float32Array(heads * value * rank);
    for (let head = 0; head < heads; head++) {
      const rows = stored.subarray(head * width * rank, (head + 1) * width * rank);
      for (let i = 0; i < plain; i++)
        for (let r = 0; r < rank; r++) keys[(head * rank + r) * plain + i] = rows[i * rank + r];
      values.set(rows.subarray(plain * rank), head * value * rank);
    }
    const put = (numbers: Float32Array, shape: number[], label: string) =>
      Weight.dense(this.own(Tensor.from(this.device, numbers, shape, this.dtype, label)));
    return {
      keys: put(keys, [heads, rank, plain], "heads' keys"),
      values: put(values, [heads, value, rank], "heads' values"),
    };
  }

  /** Tensors whose names begin so are not looked for. */
  leave(prefix: string): void {
    for (const name of this.checkpoint.tensors.keys())
      if (name.startsWith(`${this.prefix}${prefix}`)) this.done.taken.add(name);
  }

  /** The configuration beside the weights. */
  get config(): Config {
    return new Config(this.checkpoint.path, this.checkpoint.config);
  }

  /** The linear layer of a table's rows: in its memory, or if it is quantised in its codes. */
  tied(name: string, table: Tensor, [from, to]: Range): Weight {
    const [rows, columns] = table.shape;
    const codes = codesOf(rowsOf(this.#stored(name, [rows, columns]), [[from, to]]));
    return codes === undefined
      ? Weight.dense(table.slice(0, from, to))
      : this.#grouped(columns, codes);
  }

  /**
   * After all others: throws a CheckpointError where a tensor was not asked for, as the model would
   * not be what its file says. `ignored` are names that stand for nothing here.
   */
  requireAllTaken(ignored: RegExp): void {
    this.#freeRing();
    const { path, tensors } = this.checkpoint;
    const { taken } = this.done;
    const left = [...tensors.keys()].filter((name) => !taken.has(name) && !ignored.test(name));
    if (left.length === 0) return this.done.count.end();
    const more = left.length > 1 ? ` and ${left.length - 1} more` : "";
    const fix = "use a model of a supported family.";
    throw new CheckpointError(path, `nothing here knows its tensor ${left[0]}${more}`, fix);
  }

  /** Bytes of all that it put on the device. */
  get bytes(): number {
    const { owned } = this.done;
    return owned.reduce((sum, { elements, dtype }) => sum + elements * dtypeBytes(dtype), 0);
  }

  /** Frees all that it put on the device. */
  [Symbol.dispose](): void {
    this.#freeRing();
    for (const owner of this.done.owned.splice(0)) owner[Symbol.dispose]();
  }

  #freeRing(): void {
    this.done.ring?.[Symbol.dispose]();
    this.done.ring = undefined;
  }

  #grouped(inputs: number, { bits, group, values, scales, minimums }: Codes): Weight {
    const columns = (inputs * bits) / 8;
    const rows = values.length / columns;
    const { device } = this;
    const halves = (data: Float16Array, label: string) =>
      this.own(Tensor.fromBits(device, data, [rows, inputs / group], "f16", label));
    return Weight.grouped(
      this.own(Tensor.fromBits(device, values, [rows, columns], bits === 4 ? "u8" : "i8", "codes")),
      halves(scales, "scales"),
      minimums && halves(minimums, "minimums"),
    );
  }

  #stack(inputs: number, outputs: Readonly<Record<string, number>>): Tensor {
    const { device, dtype } = this;
    const parts = Object.entries(outputs);
    const rows = parts.reduce((sum, [, count]) => sum + count, 0);
    const label = `${this.prefix}${parts.map(([name]) => name).join(" ")}`;
    const tensor = this.own(Tensor.empty(device, [rows, inputs], dtype, label));
    this.#put(tensor.address, inputs, parts);
    return tensor;
  }

  /** Writes matrices one below the other; returns the address behind them. */
  #put(address: number, inputs: number, parts: readonly [name: string, rows: number][]): number {
    let to = address;
    for (const [name, rows] of parts) {
      const stored = this.#stored(name, [rows, inputs]);
      const isSame = dtypeOf[stored.format.name] === this.dtype;
      if (isSame && stored.read) this.#load(to, storedBytes(stored), stored.read);
      else {
        this.device.upload(to, bytesIn(this.dtype, stored));
        this.done.count.add(storedBytes(stored));
      }
      to += rows * inputs * dtypeBytes(this.dtype);
    }
    return to;
  }

  /** Reads bytes that lie in a file as the device wants them. */
  #load(to: number, bytes: number, read: NonNullable<StoredTensor["read"]>): void {
    const { stream } = this.device;
    const ring = (this.done.ring ??= new PinnedRing(this.device, "weights on their way"));
    for (let at = 0; at < bytes; at += partBytes) {
      const count = Math.min(partBytes, bytes - at);
      const { i32 } = ring.take(Math.ceil(count / 4));
      read(new Uint8Array(i32.buffer, i32.byteOffset, count), at);
      ring.upload(stream, to + at, count / 4);
      this.done.count.add(count);
    }
  }

  #stored(name: string, shape: readonly number[], kind = "weight"): StoredTensor {
    const { path, tensors } = this.checkpoint;
    const full = this.nameOf(name, kind);
    const stored = tensors.get(full);
    this.done.taken.add(full);
    const fix = "use a checkpoint whose config.json and weights belong together.";
    if (stored === undefined) throw new CheckpointError(path, `it has no tensor ${full}`, fix);
    if (stored.shape.join() === shape.join()) return stored;
    const [is, wanted] = [stored.shape.join(", "), shape.join(", ")];
    throw new CheckpointError(path, `tensor ${full} is [${is}], and [${wanted}] is wanted`, fix);
  }

  #unpack(stored: StoredTensor): Float32Array {
    const values = unpack(stored);
    this.done.count.add(storedBytes(stored));
    return values;
  }

  protected nameOf(name: string, kind = "weight"): string {
    return `${this.prefix}${name}.${kind}`;
  }

  protected own(tensor: Tensor): Tensor {
    this.done.owned.push(tensor);
    this.done.count.onProgress?.();
    return tensor;
  }

  /** Keeps a linear layer's names. */
  protected noted(weight: Weight, outputs: Readonly<Record<string, number>>): Weight {
    const parts = Object.entries(outputs);
    const named = parts.map(([name, count]) => [`${this.prefix}${name}`, count] as const);
    this.done.linears.push({ weight, parts: named });
    return weight;
  }
}

/** A stored tensor's elements, rounded to a dtype. */
function bytesIn(dtype: DType, stored: StoredTensor): Uint8Array {
  if (dtypeOf[stored.format.name] === dtype) return stored.bytes;
  const values = unpack(stored);
  if (dtype === "f32") return new Uint8Array(values.buffer);
  const bytes = new Uint8Array(values.length * dtypeBytes(dtype));
  encode(dtype, values, bytes);
  return bytes;
}
