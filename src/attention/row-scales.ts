/** Scales of fp8 queries, and of fp8 outputs. */
import { OptionError } from "../errors.ts";
import type { AttentionParams } from "../ffi/params.gen.ts";
import { isFp8 } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import type { ResolvedOptions } from "./options.ts";
import { denseAddress } from "./tensor-checks.ts";
import { type PlainTensors, tensorOf } from "./tensors.ts";

/** Where they lie, for so many query tokens. Errors: OptionError. */
export function bindRowScales(
  params: AttentionParams,
  { dtype, outDtype, queryHeads }: ResolvedOptions,
  tokens: number,
  tensors: PlainTensors,
): void {
  const qScale = tensorOf(tensors.qScale);
  if (qScale !== undefined && !isFp8(dtype)) {
    const fix = "give a number, or queries in fp8.";
    throw new OptionError("qScale", qScale.label, `a number beside queries in ${dtype}`, fix);
  }
  const [token, head] = qScale === undefined ? [0, 0] : queryStrides(qScale, tokens, queryHeads);
  params.qScaleData = qScale?.address ?? 0;
  params.qScaleStrideToken = token;
  params.qScaleStrideHead = head;
  const { outScale } = tensors;
  if (outScale !== undefined && !isFp8(outDtype)) {
    const fix = 'create with { outDtype: "f8e4m3" }, or leave it out.';
    throw new OptionError(
      "outScale",
      outScale.label,
      `left out beside outputs in ${outDtype}`,
      fix,
    );
  }
  params.outScale = outScale === undefined ? 0 : denseAddress("outScale", outScale, "f32", 1);
  if (outScale === undefined || outScale.elements === 1) return;
  throw new OptionError(
    "outScale",
    outScale.label,
    "an f32 tensor [1]",
    "give one for all outputs.",
  );
}

/** Strides of a scale from token to token, and from head to head. Errors: OptionError. */
function queryStrides(scale: Tensor, tokens: number, heads: number): [number, number] {
  const { shape, strides, dtype, elements } = scale;
  if (dtype === "f32") {
    if (elements === 1) return [0, 0];
    if (shape.length === 1 && shape[0] === heads) return [0, strides[0]];
    if (shape.length === 2 && shape[0] >= tokens) {
      if (shape[1] === heads) return [strides[0], strides[1]];
      if (shape[1] === 1) return [strides[0], 0];
    }
  }
  const rows = `${tokens} or more`;
  const allowed = `an f32 tensor [1], [${heads}], [${rows}, ${heads}] or [${rows}, 1]`;
  throw new OptionError("qScale", scale.label, allowed, "shape the scales as one of these.");
}
