import { OptionError } from "../errors.ts";
import { NormParams } from "../ffi/params.gen.ts";
import { requireNumber, requireOptions } from "../require.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import { requireApart, requireDistinct } from "../tensor/overlap.ts";
import type { Tensor } from "../tensor/tensor.ts";
import {
  blockHolds,
  dimOf,
  isEven,
  isEvenOut,
  launchRows,
  needRows,
  outOf,
  outOptions,
  type OutOptions,
  placeRows,
  placeScaling,
  requireAllApart,
  requireDense,
  requireRows,
  requireShape,
  type RowKernels,
  rowsOf,
} from "./rows.ts";

/** How rows are normalised, and where to. */
export interface RmsNormOptions extends OutOptions {
  /** Added to the mean of squares; default 1e-6. At least 1e-38. */
  eps?: number;
  /** Weights are kept less 1, as Gemma's are: rows are multiplied by 1 + weight. */
  zeroCentered?: boolean;
}

/** How rows are normalised, and where to. */
export interface LayerNormOptions extends OutOptions {
  /** Added to the variance; default 1e-5. At least 1e-38. */
  eps?: number;
  /** [dim], of the weight's dtype, added last. */
  bias?: Tensor;
}

const epsLeast = 1e-38;
const kernels = { short: "norm_short", long: "norm_long" };
const evenKernels = { short: "norm_even_short", long: "norm_even_long" };
/** Of rows beyond 4096 elements. */
const wideKernels = { short: "norm_even_short", long: "norm_even_wide" };
/** Of few rows: more threads share one. */
const fewKernels = { short: "norm_even_short", long: "norm_even_few" };
const fewMost = 64;
const params = new NormParams();

/**
 * Queues out = x / sqrt(mean(x^2) + eps) * weight, of each row of x [..., dim] by itself (RMSNorm,
 * arXiv 1910.07467); returns out. `x` is f32, f16 or bf16 of up to three axes with any strides but
 * 1 within a row, so that it may be the queries or keys [tokens, heads, headDim] within a product
 * of both (QK norm). `weight` [dim] is of that dtype or f32. Computed in f32 and rounded once; a
 * row's bits depend on no other row. `out` may be x, and may overlap nothing else. Errors:
 * OptionError.
 */
export function rmsNorm(x: Tensor, weight: Tensor, options: RmsNormOptions = {}): Tensor {
  requireOptions("options", options, ["eps", "zeroCentered", ...outOptions]);
  return norm("rmsNorm", x, weight, options, { eps: options.eps ?? 1e-6 });
}

/**
 * Queues residual += x, rounded to residual's dtype, then out = rmsNorm(residual); returns out.
 * Both give the bits that two operators would. `residual` is of x's shape, f32, f16 or bf16, and is
 * written; `out` may be x. All else is as in {@link rmsNorm}. Errors: OptionError.
 */
export function addRmsNorm(
  x: Tensor,
  residual: Tensor,
  weight: Tensor,
  options: RmsNormOptions = {},
): Tensor {
  requireOptions("options", options, ["eps", "zeroCentered", ...outOptions]);
  requireRows("x", x, undefined);
  requireRows("residual", residual, x.device);
  requireShape("residual", residual, x.shape);
  requireDistinct("residual", residual);
  requireApart("residual", residual, "x", x);
  return norm("addRmsNorm", x, weight, options, { eps: options.eps ?? 1e-6, residual });
}

/**
 * Queues out = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, of each row of x [..., dim]
 * by itself (layer normalisation, arXiv 1607.06450); returns out. All else is as in
 * {@link rmsNorm}. Errors: OptionError.
 */
export function layerNorm(x: Tensor, weight: Tensor, options: LayerNormOptions = {}): Tensor {
  requireOptions("options", options, ["eps", "bias", ...outOptions]);
  const { eps = 1e-5, bias } = options;
  return norm("layerNorm", x, weight, options, { eps, bias, centered: true });
}

interface Kind {
  eps: number;
  centered?: boolean;
  residual?: Tensor | undefined;
  bias?: Tensor | undefined;
}

function norm(
  label: string,
  x: Tensor,
  weight: Tensor,
  options: OutOptions & { zeroCentered?: boolean },
  { eps, centered = false, residual, bias }: Kind,
): Tensor {
  const { zeroCentered = false, scale, tokenScales, rowCount } = options;
  requireRows("x", x, undefined);
  const { device } = x;
  const dim = dimOf(x);
  requireDense("weight", weight, device, [dim], [x.dtype, "f32"]);
  if (bias !== undefined) requireDense("bias", bias, device, [dim], [weight.dtype]);
  requireNumber("eps", eps, epsLeast, 1);
  if (typeof zeroCentered !== "boolean")
    throw new OptionError(
      "zeroCentered",
      zeroCentered,
      "a boolean",
      "say true for Gemma's weights.",
    );
  const reads = { weight, bias, scale };
  if (residual !== undefined) requireAllApart("residual", residual, { ...reads, rowCount });
  const out = outOf(label, x, x.shape, options, { x }, { ...reads, residual });
  if (x.elements === 0) return out;
  needRows(device, x, weight, out, residual, bias, scale, tokenScales, rowCount);
  placeRows(params.x, x);
  placeRows(params.out, out);
  if (residual === undefined) params.residual.address = 0;
  else placeRows(params.residual, residual);
  placeScaling(params.scaling, options);
  params.weight = weight.address;
  params.bias = bias?.address ?? 0;
  params.weightDtype = dtypeCode(weight.dtype);
  params.weightOffset = zeroCentered ? 1 : 0;
  params.eps = eps;
  params.centered = centered ? 1 : 0;
  launchRows(device.kind === "cpu" ? kernels : kernelsOf(dim, rowsOf(x)), params, x, options);
  return out;
}

/** A GPU's kernels for the parameters. */
function kernelsOf(dim: number, rows: number): RowKernels {
  if (!isEvenNow(dim)) return kernels;
  if (rows <= fewMost) return fewKernels;
  return 2 * dim <= blockHolds ? evenKernels : wideKernels;
}

/** Whether the parameters are of rows that a GPU holds in whole chunks. */
function isEvenNow(dim: number): boolean {
  const { x, residual, out, weight, bias } = params;
  if (dim > blockHolds || !isEven(x, dim, x.dtype) || !isEven(residual, dim, x.dtype)) return false;
  return isEvenOut(out) && (weight | bias) % 16 === 0;
}
