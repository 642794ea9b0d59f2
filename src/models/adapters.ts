import type { Device } from "../device/device.ts";
import { matmul } from "../ops/matmul.ts";
import { dtypeBytes, type DType } from "../tensor/dtype.ts";
import { Tensor } from "../tensor/tensor.ts";
import { Weight } from "../tensor/weight.ts";
import type { AdapterFile } from "../weights/adapter.ts";
import { CheckpointError } from "../weights/errors.ts";
import type { StoredTensor } from "../weights/stored.ts";
import { unpack } from "../weights/unpack.ts";
import { StepBuffers } from "./step-buffers.ts";
import type { LinearLayer } from "./weight-source.ts";

/** An adapter under the number that requests have it by, above 0. */
export interface NumberedAdapter {
  readonly id: number;
  readonly file: AdapterFile;
}

/** New tokens of a request of a step, and the adapter that they go through; 0: none. */
export interface AdaptedTokens {
  readonly adapter: number;
  readonly scheduled: number;
}

/** Of what activations are, and how many tokens a step has at most. */
interface Sizes {
  readonly dtype: DType;
  readonly tokenBudget: number;
  readonly deterministic?: boolean;
}

/** The adapters of one linear layer. */
interface AdaptedLayer {
  /** [adapters, ranks, inputs]: those of the layer's parts one below the other. */
  readonly down: Weight;
  /** [adapters, outputs, ranks], scaled: a part's outputs take the ranks of that part alone. */
  readonly up: Weight;
  /** Of the buffer between them. */
  readonly name: string;
}

/** Ranks of a layer fill rows of 16 bytes, which kernels of tensor cores want. */
const rankMultiple = 8;
/**
 * Where each part's begin in a deterministic engine: kernels add so many at a time, so that what is
 * beside them, zeros here, moves no bits.
 */
const partMultiple = 32;

/**
 * Low-rank adapters of a model's linear layers (LoRA, arXiv 2106.09685), several of them in one
 * step: rows of an adapter lie side by side, so that two grouped products add to a layer's result
 * what each row's adapter makes of its input, as SGMV does (Punica, arXiv 2310.18547). Which rows
 * are whose is a tensor on the device, which captured graphs read anew.
 */
export class Adapters implements Disposable {
  readonly #device: Device;
  /** Rising, as rows of a step come. */
  readonly #ids: readonly number[];
  readonly #layers = new Map<Weight, AdaptedLayer>();
  readonly #owned: Tensor[] = [];
  /** int32 [adapters + 1]: rows [starts[i], starts[i + 1]) of a step take adapter i. */
  readonly #starts: Tensor;
  readonly #hostStarts: Int32Array;
  readonly #insides: StepBuffers;
  readonly #wide: StepBuffers;
  readonly #invariant: boolean;
  #applies = false;

  /** Errors: CheckpointError for one that does not fit the layers, OutOfMemoryError. */
  constructor(
    device: Device,
    linears: readonly LinearLayer[],
    adapters: readonly NumberedAdapter[],
    { dtype, tokenBudget, deterministic = false }: Sizes,
  ) {
    this.#invariant = deterministic;
    const adaptable = linears.filter(({ parts }) => parts[0][0] !== "lm_head");
    for (const { file } of adapters) checkAdapter(file, adaptable);
    using made = new DisposableStack();
    made.defer(() => this.#dispose());
    this.#device = device;
    this.#ids = adapters.map(({ id }) => id);
    this.#hostStarts = new Int32Array(adapters.length + 1);
    this.#insides = new StepBuffers(device, dtype, tokenBudget);
    this.#wide = new StepBuffers(device, "f32", tokenBudget);
    this.#starts = this.#own(Tensor.zeros(device, [adapters.length + 1], "i32", "adapters' rows"));
    const files = adapters.map(({ file }) => file);
    for (const layer of adaptable) {
      const ranks = layer.parts.map(([module]) => Math.max(...files.map((f) => rankIn(f, module))));
      if (ranks.some((rank) => rank > 0)) this.#put(layer, ranks, files, dtype);
    }
    made.move();
  }

  /** Bytes of their matrices on the device. */
  get bytes(): number {
    return this.#owned.reduce((sum, { elements, dtype }) => sum + elements * dtypeBytes(dtype), 0);
  }

  /** Begins a step of requests whose adapters rise. Returns whether one of them has an adapter. */
  begin(requests: readonly AdaptedTokens[]): boolean {
    const starts = this.#hostStarts;
    starts.fill(0);
    let plain = 0;
    for (const { adapter, scheduled } of requests) {
      if (adapter === 0) plain += scheduled;
      else starts[1 + this.#ids.indexOf(adapter)] += scheduled;
    }
    starts[0] = plain;
    for (let i = 1; i < starts.length; i++) starts[i] += starts[i - 1];
    this.#applies = starts.at(-1)! > plain;
    if (this.#applies) this.#device.upload(this.#starts.address, new Uint8Array(starts.buffer));
    return this.#applies;
  }

  /** Whether the step adds something to what a weight makes of its rows. */
  adapts(weight: Weight): boolean {
    return this.#applies && this.#layers.has(weight);
  }

  /** Adds to `out` what rows' adapters of a weight make of x, where there are some. */
  add(weight: Weight, x: Tensor, out: Tensor): void {
    const layer = this.#applies ? this.#layers.get(weight) : undefined;
    if (layer === undefined) return;
    const { down, up, name } = layer;
    const how = { groups: { starts: this.#starts }, invariant: this.#invariant };
    const inside = this.#insides.rows(name, x.shape[0], down.outputs);
    matmul(x, down, { ...how, out: inside });
    matmul(inside, up, { ...how, residual: out, out });
  }

  /** Room for a product that is added to before it is rounded: f32 [rows, width]. */
  wide(rows: number, width: number): Tensor {
    return this.#wide.rows(`${width} columns`, rows, width);
  }

  /** Frees all of them, behind the steps that are queued. */
  [Symbol.dispose](): void {
    this.#dispose();
  }

  #dispose(): void {
    for (const tensor of this.#owned.splice(0)) tensor[Symbol.dispose]();
    this.#insides[Symbol.dispose]();
    this.#wide[Symbol.dispose]();
  }

  #own(tensor: Tensor): Tensor {
    this.#owned.push(tensor);
    return tensor;
  }

  #put(
    { weight, parts }: LinearLayer,
    ranks: readonly number[],
    files: readonly AdapterFile[],
    dtype: DType,
  ): void {
    const { inputs, outputs } = weight;
    const multiple = this.#invariant ? partMultiple : 1;
    const rooms = ranks.map((rank) => multiple * Math.ceil(rank / multiple));
    const sum = rooms.reduce((total, room) => total + room, 0);
    const width = Math.ceil(sum / rankMultiple) * rankMultiple;
    const down = new Float32Array(files.length * width * inputs);
    const up = new Float32Array(files.length * outputs * width);
    files.forEach((file, i) => {
      let [rank, output] = [i * width, i * outputs];
      for (const [part, [module, count]] of parts.entries()) {
        const a = file.tensors.get(`${module}.lora_A.weight`);
        if (a !== undefined) {
          down.set(unpack(a), rank * inputs);
          const b = unpack(file.tensors.get(`${module}.lora_B.weight`)!);
          const scale = file.config.scaleOf(module);
          const columns = rankIn(file, module);
          for (let row = 0; row < count; row++)
            for (let r = 0; r < columns; r++)
              up[(output + row) * width + (rank - i * width) + r] = scale * b[row * columns + r];
        }
        rank += rooms[part];
        output += count;
      }
    });
    const stack = (values: Float32Array, shape: number[], label: string) =>
      Weight.dense(this.#own(Tensor.from(this.#device, values, shape, dtype, label)));
    this.#layers.set(weight, {
      down: stack(down, [files.length, width, inputs], "adapters' downs"),
      up: stack(up, [files.length, outputs, width], "adapters' ups"),
      name: `${width} ranks`,
    });
  }
}

/** The rank of an adapter's part; 0 where it has none. */
function rankIn({ tensors, config }: AdapterFile, module: string): number {
  return tensors.has(`${module}.lora_A.weight`) ? config.rankOf(module) : 0;
}

/** Throws a CheckpointError unless an adapter has what its configuration says, for these layers. */
function checkAdapter({ path, tensors, config }: AdapterFile, linears: readonly LinearLayer[]) {
  const fix = "use an adapter of this very model.";
  const modules = linears.flatMap(({ parts }) => parts.map(([module]) => module));
  const isOf = (target: string) => (module: string) =>
    module === target || module.endsWith(`.${target}`);
  const foreign = config.targets.find((target) => !modules.some(isOf(target)));
  if (foreign !== undefined)
    throw new CheckpointError(path, `the model has no linear layer ${foreign} to adapt`, fix);
  const left = new Set(tensors.keys());
  for (const { weight, parts } of linears)
    for (const [module, outputs] of parts) {
      const names = { A: `${module}.lora_A.weight`, B: `${module}.lora_B.weight` };
      if (!config.adapts(module)) continue;
      const rank = config.rankOf(module);
      checkTensor(path, names.A, tensors, [rank, weight.inputs]);
      checkTensor(path, names.B, tensors, [outputs, rank]);
      left.delete(names.A);
      left.delete(names.B);
    }
  for (const name of left) {
    const isKnown = modules.some((module) => name.startsWith(`${module}.lora_`));
    const who = isKnown ? "its configuration names" : "the model has";
    throw new CheckpointError(path, `${who} no linear layer to adapt by tensor ${name}`, fix);
  }
}

function checkTensor(
  path: string,
  name: string,
  tensors: ReadonlyMap<string, StoredTensor>,
  wanted: readonly number[],
): void {
  const is = tensors.get(name)?.shape.join(", ");
  if (is === wanted.join(", ")) return;
  const what = is === undefined ? `it has no tensor ${name}` : `tensor ${name} is [${is}]`;
  const fix = "use an adapter of this very model, whole.";
  throw new CheckpointError(path, `${what}, and [${wanted.join(", ")}] is wanted`, fix);
}
