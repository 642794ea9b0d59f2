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

/** How the numbers of a weight are held. */
export type WeightScheme = DenseScheme;

const denseTypes: readonly DType[] = ["f32", "f16", "bf16"];
/** Most inputs and outputs of a weight. */
const sizeMost = 2 ** 24;

/**
 * The weight of a linear layer, [outputs, inputs], however it is held. Loaders make weights and
 * `matmul` takes them; nothing else looks inside. Disposing it disposes its tensors.
 */
export class Weight extends Owner {
  readonly outputs: number;
  readonly inputs: number;

  private constructor(
    shape: readonly number[],
    readonly scheme: WeightScheme,
  ) {
    const [outputs, inputs] = shape;
    super(`${scheme.values.dtype} weight [${outputs}, ${inputs}]`);
    this.outputs = outputs;
    this.inputs = inputs;
  }

  /**
   * A weight of plain numbers: `values` [outputs, inputs] of f32, f16 or bf16 with innermost stride
   * 1 and any distance between rows. Errors: OptionError.
   */
  static dense(values: Tensor): Weight {
    requireTensor("values", values);
    values.guard();
    if (!denseTypes.includes(values.dtype)) {
      const allowed = `of ${denseTypes.join(", ")}`;
      throw new OptionError("values", values.label, allowed, "convert it by values.to(dtype).");
    }
    requireRows("values", values);
    return new Weight(values.shape, { kind: "dense", values });
  }

  /** The device of its tensors. */
  get device(): Device {
    return this.scheme.values.device;
  }

  /** @internal Throws DisposedError when the weight or one of its tensors was disposed. */
  override guard(): void {
    super.guard();
    this.scheme.values.guard();
  }

  protected override release(): void {
    this.scheme.values[Symbol.dispose]();
  }
}

/** Throws an OptionError unless `value` is a weight. */
export function requireWeight(option: string, value: Weight | undefined): asserts value is Weight {
  // By what it has: after a hot reload weights of the class before still serve.
  if (typeof value?.scheme?.kind === "string" && typeof value.guard === "function") return;
  const fix = "make one of a tensor by Weight.dense(tensor).";
  throw new OptionError(option, value, "a Weight", fix);
}

function requireRows(option: string, { label, shape, strides }: Tensor): void {
  const [outputs, inputs] = shape;
  const fits = shape.length === 2 && inputs >= 1 && inputs <= sizeMost && outputs >= 1;
  const dense = (inputs === 1 || strides[1] === 1) && (outputs === 1 || strides[0] >= inputs);
  if (fits && outputs <= sizeMost && dense) return;
  const allowed = `a tensor [outputs, inputs] of 1 to ${sizeMost} each, with innermost stride 1`;
  throw new OptionError(option, label, allowed, "reshape or copy it.");
}
