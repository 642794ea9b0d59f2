import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { MatmulParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { isInPlace, requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import { requireWeight, type Weight } from "../tensor/weight.ts";
import { matmulKernel } from "./matmul-kernels.ts";
import { needRows, numbers, requireDense } from "./rows.ts";

/** An activation function: x times the logistic or the normal distribution of x, or tanh's. */
export type Activation = "none" | "silu" | "gelu" | "gelu-tanh";

/** What a product is followed by, and where to it goes. */
export interface MatmulOptions {
  /** [weight.outputs], added to each row; f32 or x's dtype. */
  bias?: Tensor;
  /** Follows the bias; default "none". */
  activation?: Activation;
  /**
   * True: the first half of the weight's outputs is a gate, the second half goes through it: out =
   * activation(gate) * up, of half the columns. Default false.
   */
  gated?: boolean;
  /** Added last: of out's shape, f32 or x's dtype. It may be `out`. */
  residual?: Tensor;
  /**
   * True: a row of the result has the same bits however many other rows there are, for x and a
   * weight that lie alike. Default false, which promises it for no later version.
   */
  invariant?: boolean;
  /** Takes the result: of x's dtype or f32; apart from all inputs but the residual. */
  out?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** In the order of kernels/params/matmul.h. */
const activations: readonly Activation[] = ["none", "silu", "gelu", "gelu-tanh"];
const known = [
  "bias",
  "activation",
  "gated",
  "residual",
  "invariant",
  "out",
  "stream",
] as const satisfies (keyof MatmulOptions)[];

const params = new MatmulParams();

/**
 * Queues out = activation(x weight^T + bias) + residual for `x` [rows, inputs] of f32, f16 or bf16
 * with any distance between rows; returns out, [rows, outputs] of x's dtype. Sums are f32 and
 * rounded once. The same inputs give the same bits each time on a device. Errors: OptionError.
 */
export function matmul(x: Tensor, weight: Weight, options: MatmulOptions = {}): Tensor {
  requireOptions("options", options, known);
  const { activation = "none", gated = false, invariant = false } = options;
  const { bias, residual } = options;
  checkInputs(x, weight, gated);
  checkActivation(activation);
  requireFlag("gated", gated);
  requireFlag("invariant", invariant);
  const { device } = x;
  const rows = x.shape[0];
  const columns = gated ? weight.outputs / 2 : weight.outputs;
  const { stream = device.stream } = options;
  requireStream(stream, device);
  if (bias !== undefined) requireDense("bias", bias, device, [weight.outputs], [x.dtype, "f32"]);
  if (residual !== undefined) checkRows("residual", residual, x, rows, columns);
  if (options.out !== undefined) checkOut(options.out, x, weight, options, columns);
  const out = options.out ?? Tensor.empty(device, [rows, columns], x.dtype, "matmul");
  if (rows === 0) return out;
  if (device.capturing) device.needOnReplay(weight);
  needRows(device, x, out, bias, residual);
  place(x, weight, out);
  params.bias = bias?.address ?? 0;
  params.biasDtype = dtypeCode(bias?.dtype ?? x.dtype);
  params.residual = residual?.address ?? 0;
  params.residualStride = residual?.strides[0] ?? 0;
  params.residualDtype = dtypeCode(residual?.dtype ?? x.dtype);
  params.activation = activations.indexOf(activation);
  params.gated = gated ? 1 : 0;
  const { name, itemRows } = matmulKernel(x, weight);
  const kernel = device.kernel(name);
  const blocks = Math.ceil(rows / itemRows) * Math.ceil(weight.outputs / kernel.itemRows);
  device.launch(stream, kernel, params, blocks);
  return out;
}

function place(x: Tensor, weight: Weight, out: Tensor): void {
  const { values } = weight.scheme;
  params.x = x.address;
  params.xStride = x.strides[0];
  params.xDtype = dtypeCode(x.dtype);
  params.weight = values.address;
  params.weightStride = values.strides[0];
  params.weightDtype = dtypeCode(values.dtype);
  params.out = out.address;
  params.outStride = out.strides[0];
  params.outDtype = dtypeCode(out.dtype);
  [params.rowCount, params.outputs] = out.shape;
  params.inputs = weight.inputs;
}

function checkInputs(x: Tensor, weight: Weight, gated: boolean): void {
  requireTensor("x", x);
  requireWeight("weight", weight);
  x.guard();
  weight.guard();
  if (weight.device !== x.device) {
    const where = `${weight.label} on ${weight.device.label}`;
    throw new OptionError("weight", where, `on ${x.device.label}`, "copy it there over the host.");
  }
  if (!numbers.includes(x.dtype))
    throw new OptionError("x", x.label, `of ${numbers.join(", ")}`, "convert it by x.to(dtype).");
  const isMatrix = x.shape.length === 2 && x.shape[0] < 2 ** 31 && x.strides[0] >= 0;
  if (!isMatrix || x.shape[1] !== weight.inputs || (weight.inputs > 1 && x.strides[1] !== 1)) {
    const allowed = `a tensor [rows, ${weight.inputs}] with innermost stride 1`;
    throw new OptionError("x", x.label, allowed, "its columns are the weight's inputs.");
  }
  if (gated === true && weight.outputs % 2 !== 0) {
    const fix = "stack the gate's rows and those that go through it.";
    throw new OptionError("weight", weight.label, "an even number of outputs, as gated", fix);
  }
}

function checkActivation(activation: Activation): void {
  if (activations.includes(activation)) return;
  const allowed = `one of ${activations.join(", ")}`;
  throw new OptionError("activation", activation, allowed, "name one, or leave it out.");
}

function requireFlag(option: string, value: unknown): void {
  if (typeof value === "boolean") return;
  throw new OptionError(option, value, "true or false", "leave it out for false.");
}

/** Of a residual or out: [rows, columns] of x's dtype or f32. */
function checkRows(option: string, it: Tensor, x: Tensor, rows: number, columns: number): void {
  requireTensor(option, it);
  it.requireOn(x.device, option);
  const { shape, strides, dtype } = it;
  const isShape = shape.length === 2 && shape[0] === rows && shape[1] === columns;
  const isNear = (columns === 1 || strides[1] === 1) && strides[0] >= 0;
  if (isShape && isNear && (dtype === x.dtype || dtype === "f32")) return;
  const allowed = `a ${x.dtype} or f32 tensor [${rows}, ${columns}] with innermost stride 1`;
  throw new OptionError(option, it.label, allowed, "leave it out, or give it that shape.");
}

function checkOut(
  out: Tensor,
  x: Tensor,
  weight: Weight,
  { bias, residual }: MatmulOptions,
  columns: number,
): void {
  const rows = x.shape[0];
  checkRows("out", out, x, rows, columns);
  if (rows > 1 && out.strides[0] < columns) {
    const allowed = `of rows that lie ${columns} elements apart or more`;
    throw new OptionError("out", `a row stride of ${out.strides[0]}`, allowed, "make it dense.");
  }
  requireApart("out", out, "x", x);
  requireApart("out", out, "weight", weight.scheme.values);
  if (bias !== undefined) requireApart("out", out, "bias", bias);
  if (residual !== undefined && !isInPlace(out, residual))
    requireApart("out", out, "residual, or the residual itself", residual);
}
