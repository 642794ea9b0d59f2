import { requireStream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { MatmulParams } from "../ffi/params.gen.ts";
import { requireOptions } from "../require.ts";
import { type DType, dtypes, isFloat, isFp8 } from "../tensor/dtype.ts";
import { isInPlace, requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";
import { requireWeight, type Weight } from "../tensor/weight.ts";
import { multiplyByCublasLt, requireCublasLt } from "./matmul-cublaslt.ts";
import { matmulKernel } from "./matmul-kernels.ts";
import { mapParams, placeMaps } from "./matmul-maps.ts";
import type { Activation, MatmulOptions, RowGroups } from "./matmul-options.ts";
import { place } from "./matmul-params.ts";
import { needRows, numbers, requireAllApart, requireDense } from "./rows.ts";

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
  "backend",
  "out",
  "stream",
] as const satisfies (keyof MatmulOptions)[];

const plainParams = new MatmulParams();

/**
 * Queues out = activation(x weight^T + bias) + residual for `x` [rows, inputs] of f32, f16 or bf16
 * with any distance between rows; returns out, [rows, outputs] of x's dtype. Sums are f32 and
 * rounded once. The same inputs give the same bits each time on a device. Errors: OptionError;
 * where cuBLASLt fails, DeviceError and OutOfMemoryError.
 */
export function matmul(x: Tensor, weight: Weight, options: MatmulOptions = {}): Tensor {
  requireOptions("options", options, known);
  const { activation = "none", gated = false, invariant = false } = options;
  const { roundRows = false, settled = false, backend = "flashbun" } = options;
  const { bias, residual } = options;
  checkInputs(x, weight, gated);
  checkActivation(activation);
  requireFlag("gated", gated);
  requireFlag("invariant", invariant);
  requireFlag("roundRows", roundRows);
  requireFlag("settled", settled);
  requireBackend(backend);
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
  if (backend === "cublaslt") requireCublasLt(x, weight, options, options.out?.dtype ?? dtype);
  const out = options.out ?? Tensor.empty(device, [rows, columns], dtype, "matmul");
  if (rows === 0) return out;
  if (device.capturing) device.needOnReplay(weight);
  needRows(device, x, out, bias, residual, scales, groups?.starts, groups?.rows);
  if (backend === "cublaslt") {
    place(plainParams, x, weight, out, options);
    return multiplyByCublasLt(plainParams, out, stream, options.out === undefined);
  }
  const chosen = matmulKernel(x, weight, {
    rows,
    columns,
    invariant,
    roundRows,
    gated,
    // Which expert a block has is looked up first, behind the wait.
    settled: settled && groups === undefined,
    gathers: !!groups?.rows,
  });
  const params = chosen.boxes === undefined ? plainParams : mapParams.product;
  place(params, x, weight, out, options);
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

/** Inputs that share a scale of blocks. */
const block = 128;

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
  if (!isFloat(x.dtype)) {
    const allowed = `of ${dtypes.filter(isFloat).join(", ")}`;
    throw new OptionError("x", x.label, allowed, "convert it by x.to(dtype).");
  }
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

function requireBackend(backend: unknown): void {
  if (backend === "flashbun" || backend === "cublaslt") return;
  throw new OptionError("backend", backend, "flashbun or cublaslt", "name one, or leave it out.");
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
  const types = typesOf(x);
  if (isShape && isNear && types.includes(dtype)) return;
  const allowed = `a ${types.join(" or ")} tensor [${rows}, ${columns}] with innermost stride 1`;
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
