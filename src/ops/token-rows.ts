import type { Device } from "../device/device.ts";
import type { Kernel } from "../device/kernel.ts";
import { OptionError } from "../errors.ts";
import { requireInteger, requireNumber } from "../require.ts";
import type { DType } from "../tensor/dtype.ts";
import { isInPlace, requireApart } from "../tensor/overlap.ts";
import { requireTensor, type Tensor } from "../tensor/tensor.ts";

/** What rows of logits, probabilities or scores may be of. */
export const rowDtypes: readonly DType[] = ["f32", "f16", "bf16"];
/** Longest row: a thread of the CPU holds it as f32 and an index for each element. */
const lengthMost = 500_000;

/** A number for all rows, or a tensor [rows] with one for each. */
export type PerRow = number | Tensor;

/** Throws an OptionError unless x is [rows, 1 to 500,000] floats with innermost stride 1. */
export function checkRows(option: string, x: Tensor, dtypes = rowDtypes): void {
  requireTensor(option, x);
  x.guard();
  if (!dtypes.includes(x.dtype))
    throw new OptionError(option, x.label, `of ${dtypes.join(", ")}`, "convert it by to(dtype).");
  const { shape, strides } = x;
  const [rows, length] = shape;
  const isMatrix = shape.length === 2 && length >= 1 && length <= lengthMost && rows < 2 ** 31;
  if (isMatrix && (length === 1 || strides[1] === 1) && strides[0] >= 0) return;
  const allowed = `a tensor [rows, 1 to ${lengthMost}] with innermost stride 1`;
  throw new OptionError(option, x.label, allowed, "reshape or copy it.");
}

/** Throws an OptionError unless a tensor that is written has this shape, and rows of their own. */
export function checkOutRows(
  option: string,
  out: Tensor,
  device: Device,
  shape: readonly number[],
  dtypes: readonly DType[],
): void {
  requireTensor(option, out);
  out.requireOn(device, option);
  const isShaped = out.shape.join() === shape.join() && dtypes.includes(out.dtype);
  const [rows, length] = shape;
  const isDense = length <= 1 || out.strides[1] === 1;
  if (isShaped && isDense && (rows <= 1 || out.strides[0] >= length)) return;
  const allowed = `a ${dtypes.join(" or ")} tensor [${shape}] whose rows lie apart`;
  throw new OptionError(option, out.label, allowed, "leave it out to get a new one.");
}

/** Throws an OptionError unless a tensor is [rows] without gaps, of a dtype, on the device. */
export function checkColumn(
  option: string,
  column: Tensor,
  device: Device,
  rows: number,
  dtype: DType,
): void {
  requireTensor(option, column);
  column.requireOn(device, option);
  const { shape } = column;
  if (column.dtype === dtype && shape.length === 1 && shape[0] === rows && column.contiguous)
    return;
  const allowed = `a dense ${dtype} tensor [${rows}]`;
  throw new OptionError(option, column.label, allowed, "pass one entry for each row.");
}

/** Throws an OptionError unless out is x itself, as far as that is allowed, or apart from it. */
export function checkApart(option: string, out: Tensor, other: string, x: Tensor): void {
  if (!isInPlace(out, x)) requireApart(option, out, `${other}, or ${other} itself`, x);
}

/** Seeds of noise. */
export const seeds = { dtype: "i64", least: 0, most: Number.MAX_SAFE_INTEGER } as const;
/** Places of noise. */
export const positions = { dtype: "i32", least: 0, most: 2 ** 31 - 1 } as const;

/** The range of a number for all rows. */
interface Range {
  readonly dtype: "f32" | "i32" | "i64";
  readonly least: number;
  readonly most: number;
}

/** Throws an OptionError unless it is a number of the range, or a tensor with one for each row. */
export function checkPerRow(
  option: string,
  value: PerRow,
  device: Device,
  rows: number,
  { dtype, least, most }: Range,
): void {
  if (typeof value === "object") checkColumn(option, value, device, rows, dtype);
  else if (dtype === "f32") requireNumber(option, value, least, most);
  else requireInteger(option, value, least, most);
}

/** The address of a tensor with a number for each row, 0 for one number for all. */
export function addressOf(value: PerRow | undefined): number {
  return typeof value === "object" ? value.address : 0;
}

/** The number for all rows, or `other` where each row has one. */
export function numberOf(value: PerRow, other: number): number {
  return typeof value === "object" ? other : value;
}

/** What a graph needs of what may be a tensor. */
export function tensorsOf(...values: (PerRow | undefined)[]): Tensor[] {
  return values.filter((value) => typeof value === "object");
}

/** Rows that are longer have more work than one block does well. */
const blockLength = 1 << 14;

/**
 * The kernel that takes rows of this length, by a cluster of blocks if that helps: what a block
 * alone samples, it does by one kernel for all options.
 */
export function rowKernel(device: Device, name: string, length: number): Kernel {
  const hasClusters = device.kind === "cuda" && device.properties.computeMajor >= 9;
  if (hasClusters && length > blockLength) return device.kernel(`${name}_cluster`);
  return device.kernel(name.replace(/^sample_.*/, "sample_rows"));
}
