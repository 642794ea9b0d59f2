import { requireStream, type Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { RmsNormParams } from "../ffi/params.gen.ts";
import { requireNumber, requireOptions } from "../require.ts";
import { type DType, dtypeCode } from "../tensor/dtype.ts";
import { requireApart } from "../tensor/overlap.ts";
import { requireTensor, Tensor } from "../tensor/tensor.ts";

/** How rows are normalised, and where to. */
export interface RmsNormOptions {
  /** Added to the mean of squares; default 1e-6. At least 1e-38. */
  eps?: number;
  /** Takes the result: of x's shape and dtype, x itself or memory apart from it. */
  out?: Tensor;
  /** Default: the device's own. */
  stream?: Stream;
}

const dtypes: readonly DType[] = ["f32", "f16", "bf16"];
/** Most elements of a row: a thread of the CPU holds the row and the weight as f32. */
const dimMost = 1 << 18;
/** Longest row that one warp of a GPU takes; longer ones have a block. */
const shortDim = 512;
const epsLeast = 1e-38;

const params = new RmsNormParams();

/**
 * Queues out = x / sqrt(mean(x^2) + eps) * weight, of each row of x [rows, dim] by itself (RMSNorm,
 * arXiv 1910.07467); returns out. `x` is f32, f16 or bf16 with any distance between rows, `weight`
 * [dim] of that dtype or f32. Computed in f32 and rounded once; a row's bits depend on no other
 * row. `out` may be x, and may overlap nothing else. Errors: OptionError.
 */
export function rmsNorm(x: Tensor, weight: Tensor, options: RmsNormOptions = {}): Tensor {
  requireOptions("options", options, ["eps", "out", "stream"]);
  const { eps = 1e-6 } = options;
  checkInputs(x, weight, eps);
  const { device, dtype } = x;
  const [rows, dim] = x.shape;
  const { stream = device.stream } = options;
  requireStream(stream, device);
  if (options.out !== undefined) checkOut(options.out, x, weight);
  const out = options.out ?? Tensor.empty(device, [rows, dim], dtype, "rmsNorm");
  if (rows === 0) return out;
  if (device.capturing) device.needOnReplay(x, weight, out);
  params.x = x.address;
  params.weight = weight.address;
  params.out = out.address;
  params.xStride = x.strides[0];
  params.outStride = out.strides[0];
  params.rowCount = rows;
  params.dim = dim;
  params.dtype = dtypeCode(dtype);
  params.weightDtype = dtypeCode(weight.dtype);
  params.eps = eps;
  const kernel = device.kernel(dim <= shortDim ? "rms_norm_short" : "rms_norm");
  device.launch(stream, kernel, params, Math.ceil(rows / kernel.itemRows));
  return out;
}

function checkInputs(x: Tensor, weight: Tensor, eps: number): void {
  requireTensor("x", x);
  requireTensor("weight", weight);
  x.guard();
  weight.requireOn(x.device, "weight");
  checkRows("x", x);
  const [, dim] = x.shape;
  if (!dtypes.includes(x.dtype))
    throw new OptionError("x", x.label, `of ${dtypes.join(", ")}`, "convert it by x.to(dtype).");
  const isRow = weight.shape.length === 1 && weight.shape[0] === dim && weight.contiguous;
  if (!isRow || (weight.dtype !== x.dtype && weight.dtype !== "f32")) {
    const allowed = `a dense ${x.dtype} or f32 tensor [${dim}]`;
    throw new OptionError("weight", weight.label, allowed, "pass one weight for each column.");
  }
  requireNumber("eps", eps, epsLeast, 1);
}

function checkOut(out: Tensor, x: Tensor, weight: Tensor): void {
  requireTensor("out", out);
  out.requireOn(x.device, "out");
  const [rows, dim] = x.shape;
  if (out.dtype !== x.dtype || out.shape.join() !== x.shape.join()) {
    const allowed = `a ${x.dtype} tensor [${rows}, ${dim}] like x`;
    throw new OptionError("out", out.label, allowed, "leave it out to get a new one.");
  }
  checkRows("out", out);
  if (rows > 1 && out.strides[0] < dim) {
    const allowed = `of rows that lie ${dim} elements apart or more`;
    throw new OptionError("out", `a row stride of ${out.strides[0]}`, allowed, "make it dense.");
  }
  const isX = out.address === x.address && (rows === 1 || out.strides[0] === x.strides[0]);
  if (!isX) requireApart("out", out, "x, or x itself", x);
  requireApart("out", out, "weight", weight);
}

function checkRows(option: string, { label, shape, strides }: Tensor): void {
  const [rows, dim] = shape;
  const isMatrix = shape.length === 2 && dim >= 1 && dim <= dimMost && rows < 2 ** 31;
  if (isMatrix && (dim === 1 || strides[1] === 1) && strides[0] >= 0) return;
  const allowed = `a tensor [rows, 1 to ${dimMost}] with innermost stride 1`;
  throw new OptionError(option, label, allowed, "reshape or copy it.");
}
