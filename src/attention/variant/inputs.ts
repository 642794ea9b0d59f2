import type { Device } from "../../device/device.ts";
import { OptionError } from "../../errors.ts";
import type { AttentionParams } from "../../ffi/params.gen.ts";
import type { Batch } from "../../kv/batch.ts";
import { requireApart } from "../../tensor/overlap.ts";
import { Tensor } from "../../tensor/tensor.ts";
import {
  type Extent,
  type ScalarSpec,
  tensorAxesMax,
  type TensorSpec,
} from "../../variant/expression.ts";
import type { Variant } from "../../variant/variant.ts";
import type { ResolvedOptions } from "../options.ts";

/** Values of a variant's tensors and scalars, by their names. */
export type VariantInputs = Readonly<Record<string, Tensor | number>>;

/** Strides and sizes are int32: elements lie within so many of the first. */
const reachMost = 2 ** 31;

/** Sizes by which a batch's extents are named. */
interface Sizes {
  requests: number;
  tokens: number;
  slots: number;
}

const noInputs: VariantInputs = {};
const sizes: Sizes = { requests: 0, tokens: 0, slots: 0 };
const f32 = new Float32Array(1);
const bits = new Int32Array(f32.buffer);

/**
 * Checks the inputs of a run and writes them into the parameters; makes no garbage, since every
 * layer may bring others. `k` is where keys lie; rows of `out` are written while others read.
 * Errors: OptionError.
 */
export function bindVariant(
  device: Device,
  params: AttentionParams,
  options: ResolvedOptions,
  batch: Batch,
  k: Tensor,
  { out, variantInputs: inputs = noInputs }: { out: Tensor; variantInputs?: VariantInputs },
): void {
  const { tensors, scalars } = options.variant!;
  // A captured run is replayed with up to the graph's sizes.
  const graph = device.capturing ? options.graph : undefined;
  sizes.requests = graph?.maxBatch ?? batch.requestCount;
  sizes.tokens = graph?.maxQueryTokens ?? batch.tokenCount;
  sizes.slots = batch.layout.contiguous ? k.shape[0] : k.shape[0] * k.shape[1];
  for (let i = 0; i < tensors.length; i++) {
    const tensor = inputs[tensors[i].name];
    checkTensor(device, options, tensors[i], tensor);
    requireApart("out", out, tensors[i].name, tensor);
    params.setVariantData(i, tensor.address);
    for (let axis = 0; axis < tensorAxesMax; axis++) {
      const at = i * tensorAxesMax + axis;
      params.setVariantSizes(at, axis < tensor.shape.length ? tensor.shape[axis] : 1);
      params.setVariantStrides(at, axis < tensor.shape.length ? tensor.strides[axis] : 0);
    }
  }
  for (let i = 0; i < scalars.length; i++) {
    params.setVariantScalars(i, scalarBits(scalars[i], inputs[scalars[i].name]));
  }
  for (const name in inputs) refuseUnknown(options.variant!, name, inputs[name]);
}

function checkTensor(
  device: Device,
  options: ResolvedOptions,
  spec: TensorSpec,
  tensor: Tensor | number | undefined,
): asserts tensor is Tensor {
  if (typeof (tensor as Tensor | undefined)?.requireOn !== "function") {
    throw missing(options.variant!, spec.name, tensor, `a ${wanted(spec)}`);
  }
  const { shape, strides, elements, dtype, label } = tensor as Tensor;
  let fits = dtype === spec.dtype && shape.length === spec.shape.length && elements > 0;
  let reach = 0;
  for (let axis = 0; axis < shape.length && fits; axis++) {
    fits = fitsExtent(options, spec.shape[axis], shape[axis]);
    reach += (shape[axis] - 1) * Math.abs(strides[axis]);
  }
  if (!fits) {
    const allowed = `a ${wanted(spec)} that is not empty${now(options, spec)}`;
    const fix = `match what variant ${options.variant!.name} declares.`;
    throw new OptionError(`variantInputs.${spec.name}`, label, allowed, fix);
  }
  if (reach >= reachMost) {
    const allowed = `within ${reachMost} elements of its first`;
    throw new OptionError(`variantInputs.${spec.name}`, label, allowed, "split it by layers.");
  }
  (tensor as Tensor).requireOn(device, spec.name);
}

function fitsExtent(options: ResolvedOptions, extent: Extent, size: number): boolean {
  if (extent === "any") return true;
  if (typeof extent === "number") return size === extent;
  const fixed = extent in sizes ? undefined : options[extent as keyof typeof options];
  return fixed === undefined ? size >= sizes[extent as keyof Sizes] : size === fixed;
}

/** A tensor as its declaration has it: "f32 tensor [queryHeads, any]". */
function wanted({ dtype, shape }: TensorSpec): string {
  return `${dtype} tensor [${shape.join(", ")}]`;
}

/** What the names in a declaration mean in this run. */
function now(options: ResolvedOptions, { shape }: TensorSpec): string {
  const named = shape.filter((extent) => typeof extent === "string" && extent !== "any");
  if (named.length === 0) return "";
  const values = named.map((name) =>
    String(name) in sizes
      ? `${sizes[name as keyof Sizes]} ${name} or more`
      : `${options[name as keyof ResolvedOptions]} ${name}`,
  );
  return ` (${values.join(", ")})`;
}

function scalarBits(spec: ScalarSpec, given: Tensor | number | undefined): number {
  const value = given ?? spec.fallback;
  const whole = spec.type === "i32";
  const fits = typeof value === "number" && (whole ? (value | 0) === value : !Number.isNaN(value));
  if (!fits) {
    const allowed = whole ? "an integer of 32 bits" : "a number";
    const fix = `give the scalar with each run: variantInputs: { ${spec.name}: 1 }.`;
    throw new OptionError(`variantInputs.${spec.name}`, given, allowed, fix);
  }
  if (whole) return value;
  f32[0] = value;
  return bits[0];
}

function missing(variant: Variant, name: string, value: unknown, allowed: string): OptionError {
  const fix = `variant ${variant.name} reads it: pass variantInputs: { ${name} }.`;
  return new OptionError(`variantInputs.${name}`, value, allowed, fix);
}

function refuseUnknown({ name: variant, tensors, scalars }: Variant, name: string, value: unknown) {
  for (let i = 0; i < tensors.length; i++) if (tensors[i].name === name) return;
  for (let i = 0; i < scalars.length; i++) if (scalars[i].name === name) return;
  const names = [...tensors, ...scalars].map((spec) => spec.name).join(", ");
  const allowed = names === "" ? `left out: variant ${variant} has no inputs` : `one of ${names}`;
  const given = value instanceof Tensor ? value.label : value;
  throw new OptionError(`variantInputs.${name}`, given, allowed, "remove or rename it.");
}
