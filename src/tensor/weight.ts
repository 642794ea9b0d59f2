import type { Device } from "../device/device.ts";
import { Owner } from "../device/owner.ts";
import { OptionError } from "../errors.ts";
import type { DType } from "./dtype.ts";
import { requireTensor, type Tensor } from "./tensor.ts";

/** Numbers as they are: f32, f16 or bf16. */
export interface DenseScheme {
  readonly kind: "dense";
  /** [outputs, inputs], the inputs next to each other. */
  readonly values: Tensor;
}

/** Numbers of eight bits times scales. */
export interface Fp8Scheme {
  readonly kind: "fp8";
  /** [outputs, inputs] of f8e4m3 or f8e5m2. */
  readonly values: Tensor;
  /** f32: [1] for all, [outputs], or one for each block of 128 x 128. */
  readonly scales: Tensor;
}

/** Whole numbers of four or eight bits in groups of inputs, each with a scale. */
export interface GroupedScheme {
  readonly kind: "grouped";
  readonly bits: 4 | 8;
  /** Inputs of a group: 16, 32 or 128. */
  readonly group: number;
  /** i8 [outputs, inputs], or u8 [outputs, inputs / 2] of four bits. */
  readonly values: Tensor;
  /** f16 [outputs, inputs / group]. */
  readonly scales: Tensor;
  /** f16 like the scales: added to code times scale. */
  readonly minimums: Tensor | undefined;
}

/** How the numbers of a weight are held. */
export type WeightScheme = DenseScheme | Fp8Scheme | GroupedScheme;

/** Most inputs and outputs of a weight. */
const sizeMost = 2 ** 24;
/** Rows and columns of a block that has one scale. */
const block = 128;
const groups = [16, 32, 128];

/**
 * The weight of a linear layer, [outputs, inputs], however it is held. Loaders make weights and
 * `matmul` takes them; nothing else looks inside. Disposing it disposes its tensors.
 */
export class Weight extends Owner {
  readonly outputs: number;
  readonly inputs: number;
  /** Weights that lie one behind another, for one of which a row is; undefined: one for all. */
  readonly experts: number | undefined;

  private constructor(
    shape: readonly number[],
    readonly scheme: WeightScheme,
  ) {
    super(`${scheme.kind} ${scheme.values.dtype} weight [${shape.join(", ")}]`);
    [this.outputs, this.inputs] = shape.slice(-2);
    this.experts = shape.length === 3 ? shape[0] : undefined;
  }

  /**
   * A weight of plain numbers: `values` [outputs, inputs] of f32, f16 or bf16 with innermost stride
   * 1 and any distance between rows; or, dense, [experts, outputs, inputs]. Errors: OptionError.
   */
  static dense(values: Tensor): Weight {
    requireMatrix("values", values, ["f32", "f16", "bf16"]);
    return new Weight(values.shape, { kind: "dense", values });
  }

  /**
   * A weight of f8e4m3 or f8e5m2 `values` [outputs, inputs], each times its scale: `scales` is f32
   * [1] for all of them, [outputs], or [outputs / 128, inputs / 128], rounded up, of blocks. Of
   * experts both have an axis more, and blocks only where they fill the outputs. Errors:
   * OptionError.
   */
  static fp8(values: Tensor, scales: Tensor): Weight {
    requireMatrix("values", values, ["f8e4m3", "f8e5m2"]);
    const [outputs, inputs] = values.shape.slice(-2);
    const blocks = [Math.ceil(outputs / block), Math.ceil(inputs / block)];
    const stack = values.shape.slice(0, -2);
    requireTensor("scales", scales);
    scales.requireOn(values.device, "scales");
    const shapes = [[1], [...stack, outputs]];
    if (stack.length === 0 || outputs % block === 0) shapes.push([...stack, ...blocks]);
    if (scales.dtype !== "f32" || !scales.contiguous || !isOneOf(scales.shape, shapes)) {
      const allowed = `a dense f32 tensor [${shapes.join("] or [")}]`;
      throw new OptionError("scales", scales.label, allowed, "give one for all, output or block.");
    }
    return new Weight(values.shape, { kind: "fp8", values, scales });
  }

  /**
   * A weight of whole numbers: code times scale plus minimum. `values` is i8 [outputs, inputs], or
   * u8 [outputs, inputs / 2] of four bits, in which each 32 inputs are 16 bytes: byte j has input j
   * in its low and input 16 + j in its high half; without minimums 8 is subtracted from them.
   * `scales` and `minimums` are f16 [outputs, inputs / group] of groups of 16, 32 or 128. So GGUF's
   * Q4_0, Q4_1, Q4_K, Q8_0, Q6_K (as i8 by 16) and AWQ fit. Of experts all have an axis more, the
   * first. Errors: OptionError.
   */
  static grouped(values: Tensor, scales: Tensor, minimums?: Tensor): Weight {
    requireMatrix("values", values, ["i8", "u8"]);
    const bits = values.dtype === "u8" ? 4 : 8;
    const inputs = (values.shape.at(-1)! * 8) / bits;
    requireMatrix("scales", scales, ["f16"]);
    scales.requireOn(values.device, "scales");
    const rows = values.shape.slice(0, -1);
    const group = inputs / scales.shape.at(-1)!;
    const isWhole = inputs % Math.max(group, bits === 4 ? 32 : 16) === 0;
    const shape = [...rows, inputs / group];
    if (!groups.includes(group) || !isWhole || !isDense(scales, shape)) {
      const sizes = `[${rows.join(", ")}, ${inputs} / group]`;
      const allowed = `a dense f16 tensor ${sizes} of groups of ${groups.join(", ")}`;
      throw new OptionError("scales", scales.label, allowed, "give one for each group of inputs.");
    }
    if (minimums !== undefined) {
      requireMatrix("minimums", minimums, ["f16"]);
      minimums.requireOn(values.device, "minimums");
      const allowed = `a dense f16 tensor [${shape.join(", ")}] like scales`;
      if (!isDense(minimums, shape))
        throw new OptionError("minimums", minimums.label, allowed, "give one for each group.");
    }
    const scheme: GroupedScheme = { kind: "grouped", bits, group, values, scales, minimums };
    return new Weight([...rows, inputs], scheme);
  }

  /** The device of its tensors. */
  get device(): Device {
    return this.scheme.values.device;
  }

  /** @internal All tensors that hold it. */
  get tensors(): readonly Tensor[] {
    const { scheme } = this;
    if (scheme.kind === "dense") return [scheme.values];
    const held = [scheme.values, scheme.scales];
    return scheme.kind === "grouped" && scheme.minimums ? [...held, scheme.minimums] : held;
  }

  /** @internal Throws DisposedError when the weight or one of its tensors was disposed. */
  override guard(): void {
    super.guard();
    const { scheme } = this;
    scheme.values.guard();
    if (scheme.kind === "dense") return;
    scheme.scales.guard();
    if (scheme.kind === "grouped") scheme.minimums?.guard();
  }

  protected override release(): void {
    for (const tensor of this.tensors) tensor[Symbol.dispose]();
  }
}

/** Throws an OptionError unless `value` is a weight. */
export function requireWeight(option: string, value: Weight | undefined): asserts value is Weight {
  // By what it has: after a hot reload weights of the class before still serve.
  if (typeof value?.scheme?.kind === "string" && typeof value.guard === "function") return;
  const fix = "make one of a tensor by Weight.dense(tensor).";
  throw new OptionError(option, value, "a Weight", fix);
}

function requireMatrix(
  option: string,
  tensor: Tensor | undefined,
  dtypes: readonly DType[],
): asserts tensor is Tensor {
  requireTensor(option, tensor);
  tensor.guard();
  const { label, shape, strides, dtype } = tensor;
  if (!dtypes.includes(dtype))
    throw new OptionError(option, label, `of ${dtypes.join(", ")}`, "convert it by to(dtype).");
  const [rows, columns] = shape.slice(-2);
  const isStack = shape.length === 3 && tensor.contiguous && shape[0] >= 1;
  const fits = (shape.length === 2 || isStack) && columns >= 1 && columns <= sizeMost && rows >= 1;
  const [stride, step] = strides.slice(-2);
  const isNear = (columns === 1 || step === 1) && (rows === 1 || stride >= columns);
  if (fits && rows <= sizeMost && isNear) return;
  const allowed = `a tensor [1 to ${sizeMost}, 1 to ${sizeMost}] with innermost stride 1`;
  throw new OptionError(option, label, allowed, "reshape or copy it; one of experts is dense.");
}

function isOneOf(shape: readonly number[], shapes: readonly (readonly number[])[]): boolean {
  return shapes.some((each) => String(each) === String(shape));
}

function isDense({ shape, contiguous }: Tensor, wanted: readonly number[]): boolean {
  return contiguous && isOneOf(shape, [wanted]);
}
