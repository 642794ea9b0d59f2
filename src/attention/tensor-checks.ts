import { OptionError } from "../errors.ts";
import { type DType, dtypeBytes } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";

/** A GPU reads rows in units of 16 bytes, or 8 where a row of fp8 is no multiple of 16. */
export function rowUnit(tensor: Tensor, dim: number): number {
  return (dim * dtypeBytes(tensor.dtype)) % 16 === 0 ? 16 : 8;
}

/** Errors: OptionError unless all rows begin at multiples of `unit` bytes. */
export function requireAligned(option: string, tensor: Tensor, unit: number): void {
  const bytes = dtypeBytes(tensor.dtype);
  let aligned = tensor.address % unit === 0;
  for (let axis = tensor.strides.length - 2; axis >= 0; axis--) {
    if (tensor.shape[axis] > 1 && (tensor.strides[axis] * bytes) % unit !== 0) aligned = false;
  }
  if (aligned) return;
  const allowed = `rows at multiples of ${unit} bytes`;
  const given = `${tensor.label}, strides [${tensor.strides}]`;
  throw new OptionError(option, given, allowed, "pad the strides, or copy it by to(dtype).");
}

/**
 * Address of a contiguous tensor of at least so many elements, or with `heads` of at least so many
 * rows [rows, heads]. Errors: OptionError.
 */
export function denseAddress(
  option: string,
  tensor: Tensor,
  dtype: DType,
  count: number,
  heads?: number,
): number {
  const { shape, elements } = tensor;
  const fits =
    heads === undefined
      ? elements >= count
      : shape.length === 2 && shape[0] >= count && shape[1] === heads;
  if (tensor.dtype === dtype && tensor.contiguous && fits) return tensor.address;
  const wanted =
    heads === undefined ? `of ${count} elements or more` : `[${count} or more, ${heads}]`;
  const allowed = `a contiguous ${dtype} tensor ${wanted}`;
  throw new OptionError(option, tensor.label, allowed, "copy it by to(dtype).");
}
