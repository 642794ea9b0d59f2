import type { MatmulParams } from "../ffi/params.gen.ts";
import { dtypeCode } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { Weight, WeightScheme } from "../tensor/weight.ts";
import type { MatmulOptions } from "./matmul-options.ts";

/** Inputs, and outputs, that share a scale of blocks. */
const block = 128;
/** More than there are, and few enough for i32. */
const all = 2 ** 30;

/** Writes where the operands of a product and what is added to it lie. */
export function place(
  params: MatmulParams,
  x: Tensor,
  weight: Weight,
  out: Tensor,
  { groups, bias, residual, scales }: MatmulOptions,
): void {
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
  placeInputScales(params, scales);
  params.starts = groups?.starts.address ?? 0;
  params.rows = groups?.rows?.address ?? 0;
  params.experts = weight.experts ?? 1;
  params.bias = bias?.address ?? 0;
  params.biasDtype = dtypeCode(bias?.dtype ?? x.dtype);
  params.residual = residual?.address ?? 0;
  params.residualStride = residual?.strides[0] ?? 0;
  params.residualDtype = dtypeCode(residual?.dtype ?? x.dtype);
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
