import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { MatmulParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { type DType, dtypeCode, isFp8 } from "../tensor/dtype.ts";
import { isInPlace, requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import { requireWeight, type Weight, type WeightScheme } from "../tensor/weight.ts";
import { matmulKernel } from "./matmul-kernels.ts";
import { mapParams, placeMaps } from "./matmul-maps.ts";
import { needRows, numbers, requireAllApart, requireDense } from "./rows.ts";

/** An activation function: x times the logistic or the normal distribution of x, or tanh's. */
export type Activation = "none" | "silu" | "gelu" | "gelu-tanh";

/** Which rows take which weight of a stack (a mixture of experts, LoRA's adapters). */
export interface RowGroups {
  /** i32 [experts + 1]: rows [starts[e], starts[e + 1]) of out take weight e. The rest is kept. */
  starts: Tensor;
  /** i32: of each row of out the row of x; -1 stands for zeros. Default: its own. */
  rows?: Tensor;
}

/** What a product is followed by, and where to it goes. */
export interface MatmulOptions {
  /** For a weight of experts, which must then have it. */
  groups?: RowGroups;
  /** [weight.outputs], of experts [experts, outputs], added to each row; f32 or x's dtype. */
  bias?: Tensor;
  /** Follows the bias; default "none". */
  activation?: Activation;
  /**
   * True: the first half of the weight's outputs is a gate, the second half goes through it: out =
   * activation(gate) * up, of half the columns. Default false.
   */
  gated?: boolean;
  /**
   * f32, of x in f8e4m3 or f8e5m2: [1], [rows] or, for each 128 inputs, [rows, inputs / 128]
   * rounded up. The result is then bf16 where `out` does not say f32 or f16.
   */
  scales?: Tensor;
  /** Added last: of out's shape, f32 or x's dtype. It may be `out`. */
  residual?: Tensor;
  /**
   * True: a row of the result has the same bits however many other rows there are, for x and a
   * weight that lie alike. Default false, which promises it for no later version.
   */
  invariant?: boolean;
  /**
   * True: rows of x may be rounded to whole numbers of 16 bits of the largest of each 32 inputs (an
   * error of 1.6e-5 of it at most) where a product with codes is faster so: with groups of 32 or
   * 128, on CPUs with AVX512_VNNI. What is not finite then makes its row NaN. Default false.
   */
  roundRows?: boolean;
  /**
   * True: the weight is written, and nothing that is queued writes it any more. Reading it may then
   * begin while the kernels before still run: on compute capability 9.0, for few rows (not 33 to 64
   * of 16 bits) of a dense or fp8 weight's own type, without groups or `invariant`. Default false.
   */
  settled?: boolean;
  /** Takes the result: of x's dtype or f32; apart from all inputs but the residual. */
  out?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

/** In the order of kernels/params/matmul.h. */
const activations: readonly Activation[] = ["none", "silu", "gelu", "gelu-tanh"];
const known = [
  "groups",
  "bias",
  "activation",
  "gated",
  "scales",
  "residual",
  "invariant",
  "roundRows",
  "settled",
  "out",
  "stream",
] as const satisfies (keyof MatmulOptions)[];

const plainParams = new MatmulParams();

/**
 * Queues out = activation(x weight^T + bias) + residual for `x` [rows, inputs] of f32, f16 or bf16
 * with any distance between rows; returns out, [rows, outputs] of x's dtype. Sums are f32 and
 * rounded once. The same inputs give the same bits each time on a device. Errors: OptionError.
 */
export function matmul(x: Tensor, weight: Weight, options: MatmulOptions = {}): Tensor {
  requireOptions("options", options, known);
  const { activation = "none", gated = false, invariant = false } = options;
  const { roundRows = false, settled = false } = options;
  const { bias, residual } = options;
  checkInputs(x, weight, gated);
  checkActivation(activation);
  requireFlag("gated", gated);
  requireFlag("invariant", invariant);
  requireFlag("roundRows", roundRows);
  requireFlag("settled", settled);
  const { device } = x;
  const { groups } = options;
  checkGroups(groups, weight, x);
  const rows = (groups?.rows ?? x).shape[0];
  const columns = gated ? weight.outputs / 2 : weight.outputs;
  const { stream = device.stream } = options;
  requireStream(stream, device);
  const { scales } = options;
  checkScales(scales, x);
  const dtype = isFp8(x.dtype) ? "bf16" : x.dtype;
  if (bias !== undefined) requireDense("bias", bias, device, biasShape(weight), typesOf(x));
  if (residual !== undefined) checkRows("residual", residual, x, rows, columns);
  if (options.out !== undefined) checkOut(options.out, x, weight, options, [rows, columns]);
  const out = options.out ?? Tensor.empty(device, [rows, columns], dtype, "matmul");
  if (rows === 0) return out;
  if (device.capturing) device.needOnReplay(weight);
  needRows(device, x, out, bias, residual, scales, groups?.starts, groups?.rows);
  const chosen = matmulKernel(x, weight, {
    rows,
    columns,
    invariant,
    roundRows,
    gated,
    gathers: !!groups?.rows,
  });
  const params = chosen.boxes === undefined ? plainParams : mapParams.product;
  place(params, x, weight, out);
  placeInputScales(params, scales);
  params.starts = groups?.starts.address ?? 0;
  params.rows = groups?.rows?.address ?? 0;
  params.experts = weight.experts ?? 1;
  params.bias = bias?.address ?? 0;
  params.biasDtype = dtypeCode(bias?.dtype ?? x.dtype);
  params.residual = residual?.address ?? 0;
  params.residualStride = residual?.strides[0] ?? 0;
  params.residualDtype = dtypeCode(residual?.dtype ?? x.dtype);
  params.activation = activations.indexOf(activation);
  params.gated = gated ? 1 : 0;
  mapParams.settled = settled ? 1 : 0;
  if (chosen.boxes !== undefined) placeMaps(x, weight, chosen.boxes);
  const kernel = device.kernel(chosen.name);
  // Each expert's last rows may not fill a block.
  const rowBlocks = Math.ceil(rows / chosen.itemRows) + (weight.experts ?? 1) - 1;
  const grid = rowBlocks * Math.ceil(weight.outputs / kernel.itemRows);
  device.launch(stream, kernel, chosen.boxes === undefined ? params : mapParams, grid);
  return out;
}

/** Inputs, and outputs, that share a scale of blocks. */
const block = 128;
/** More than there are, and few enough for i32. */
const all = 2 ** 30;

function place(params: MatmulParams, x: Tensor, weight: Weight, out: Tensor): void {
  const { values } = weight.scheme;
  placeScales(params, weight.scheme);
  params.x = x.address;
  params.xStride = x.strides[0];
  params.xDtype = dtypeCode(x.dtype);
  params.weight = values.address;
  params.weightStride = values.strides.at(-2)!;
  params.weightDtype = dtypeCode(values.dtype);
  params.out = out.address;
  params.outStride = out.strides[0];
  params.outDtype = dtypeCode(out.dtype);
  [params.rowCount, params.outputs] = out.shape;
  params.xRowCount = x.shape[0];
  params.inputs = weight.inputs;
}

function placeScales(params: MatmulParams, scheme: WeightScheme): void {
  params.scales = params.minimums = params.scaleStride = 0;
  params.scaleRows = params.scaleInputs = all;
  if (scheme.kind === "dense") return;
  const { scales } = scheme;
  params.scales = scales.address;
  if (scheme.kind === "grouped") {
    params.minimums = scheme.minimums?.address ?? 0;
    params.scaleRows = 1;
    params.scaleStride = scales.shape.at(-1)!;
    params.scaleInputs = scheme.group;
  } else if (scales.shape.length === scheme.values.shape.length) {
    params.scaleRows = params.scaleInputs = block;
    params.scaleStride = scales.shape.at(-1)!;
  } else if (scales.elements > 1) {
    params.scaleRows = params.scaleStride = 1;
  }
}

/** The scales of x: one for all, for each row, or for each block of a row. */
function placeInputScales(params: MatmulParams, scales: Tensor | undefined): void {
  params.xScales = scales?.address ?? 0;
  const [rows, blocks] = scales?.shape ?? [1];
  params.xScaleStride = blocks ?? (rows > 1 ? 1 : 0);
  params.xScaleInputs = blocks === undefined ? all : block;
}

function checkScales(scales: Tensor | undefined, x: Tensor): void {
  if (scales === undefined && !isFp8(x.dtype)) return;
  const [rows, inputs] = x.shape;
  const shapes = [[1], [rows], [rows, Math.ceil(inputs / block)]];
  const names = shapes.map((shape) => `[${shape.join(", ")}]`);
  const allowed = `a dense f32 tensor ${names.join(" or ")}`;
  if (scales === undefined)
    throw new OptionError("scales", undefined, allowed, "say what x's codes are worth.");
  if (!isFp8(x.dtype))
    throw new OptionError("scales", scales.label, "left out", "only fp8 x has scales.");
  requireTensor("scales", scales);
  scales.requireOn(x.device, "scales");
  const isShape = shapes.some((shape) => String(shape) === String(scales.shape));
  if (isShape && scales.dtype === "f32" && scales.contiguous) return;
  throw new OptionError("scales", scales.label, allowed, "give one for all, row or block.");
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
  const dtypes: readonly DType[] = [...numbers, "f8e4m3", "f8e5m2"];
  if (!dtypes.includes(x.dtype))
    throw new OptionError("x", x.label, `of ${dtypes.join(", ")}`, "convert it by x.to(dtype).");
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

function biasShape({ experts, outputs }: Weight): number[] {
  return experts === undefined ? [outputs] : [experts, outputs];
}

function checkGroups(groups: RowGroups | undefined, { experts, label }: Weight, x: Tensor): void {
  if (groups === undefined && experts === undefined) return;
  if (groups === undefined) {
    const fix = "say by { starts } which rows are whose.";
    throw new OptionError("groups", groups, `there, for ${label}`, fix);
  }
  requireOptions("groups", groups, ["starts", "rows"]);
  if (experts === undefined)
    throw new OptionError("groups", groups, `left out for ${label}`, "give it a stack of weights.");
  requireDense("groups.starts", groups.starts, x.device, [experts + 1], ["i32"]);
  const { rows } = groups;
  if (rows !== undefined)
    requireDense("groups.rows", rows, x.device, [rows.shape?.[0] ?? 0], ["i32"]);
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

/** Types of what goes with x: its own or f32, and any that are wider than fp8. */
function typesOf({ dtype }: Tensor): readonly DType[] {
  return isFp8(dtype) ? numbers : dtype === "f32" ? ["f32"] : [dtype, "f32"];
}

/** Of a residual or out: [rows, columns] of x's dtype or f32. */
function checkRows(option: string, it: Tensor, x: Tensor, rows: number, columns: number): void {
  requireTensor(option, it);
  it.requireOn(x.device, option);
  const { shape, strides, dtype } = it;
  const isShape = shape.length === 2 && shape[0] === rows && shape[1] === columns;
  const isNear = (columns === 1 || strides[1] === 1) && strides[0] >= 0;
  const dtypes = typesOf(x);
  if (isShape && isNear && dtypes.includes(dtype)) return;
  const allowed = `a ${dtypes.join(" or ")} tensor [${rows}, ${columns}] with innermost stride 1`;
  throw new OptionError(option, it.label, allowed, "leave it out, or give it that shape.");
}

function checkOut(
  out: Tensor,
  x: Tensor,
  weight: Weight,
  { bias, residual, scales, groups }: MatmulOptions,
  [rows, columns]: readonly number[],
): void {
  checkRows("out", out, x, rows, columns);
  if (rows > 1 && out.strides[0] < columns) {
    const allowed = `of rows that lie ${columns} elements apart or more`;
    throw new OptionError("out", `a row stride of ${out.strides[0]}`, allowed, "make it dense.");
  }
  for (const tensor of weight.tensors) requireApart("out", out, "weight", tensor);
  requireAllApart("out", out, { x, bias, scales, starts: groups?.starts, rows: groups?.rows });
  if (residual !== undefined && !isInPlace(out, residual))
    requireApart("out", out, "residual, or the residual itself", residual);
}
