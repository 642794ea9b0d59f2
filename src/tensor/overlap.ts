import { OptionError } from "../errors.ts";
import { type DType, dtypeBytes } from "./dtype.ts";

/** What of a tensor says where its elements lie; shape and strides count elements. */
interface Placed {
  readonly address: number;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly dtype: DType;
  readonly elements: number;
  readonly label: string;
}

/** Whether two begin at one place with the same steps: then each element is read, and written. */
export function isInPlace(a: Placed, b: Placed): boolean {
  const { address, dtype, strides } = b;
  const isSame = a.address === address && a.dtype === dtype && a.strides.length === strides.length;
  return isSame && a.strides.every((stride, axis) => stride === strides[axis]);
}

/** Throws an OptionError unless what is written, `out`, has no byte in common with what is read. */
export function requireApart(option: string, out: Placed, other: string, read: Placed): void {
  if (!overlap(out, read)) return;
  const allowed = `memory apart from ${other}`;
  throw new OptionError(option, out.label, allowed, "write to a tensor of its own.");
}

/**
 * Whether two tensors may have a byte in common. Those that lie between each other's rows, as
 * columns of one matrix do, are told apart by the longest stride, if they share it.
 */
export function overlap(a: Placed, b: Placed): boolean {
  const firstA = firstOf(a);
  const firstB = firstOf(b);
  const bytesA = spanOf(a, Infinity);
  const bytesB = spanOf(b, Infinity);
  if (firstA >= firstB + bytesB || firstB >= firstA + bytesA) return false;
  const stride = longestOf(a);
  if (stride === 0 || stride !== longestOf(b)) return true;
  const withinA = spanOf(a, stride);
  const withinB = spanOf(b, stride);
  const between = (((firstB - firstA) % stride) + stride) % stride;
  return between < withinA || between + withinB > stride;
}

/** Address of the first byte. */
function firstOf({ address, shape, strides, dtype }: Placed): number {
  let first = address;
  for (let axis = 0; axis < shape.length; axis++)
    if (strides[axis] < 0) first += (shape[axis] - 1) * strides[axis] * dtypeBytes(dtype);
  return first;
}

/** Bytes from the first to the last along the axes whose strides are below `stride` bytes. */
function spanOf({ elements, shape, strides, dtype }: Placed, stride: number): number {
  if (elements === 0) return 0;
  const bytes = dtypeBytes(dtype);
  let span = bytes;
  for (let axis = 0; axis < shape.length; axis++) {
    const step = Math.abs(strides[axis]) * bytes;
    if (step < stride) span += (shape[axis] - 1) * step;
  }
  return span;
}

/** Bytes of the longest stride that is taken. */
function longestOf({ shape, strides, dtype }: Placed): number {
  let longest = 0;
  for (let axis = 0; axis < shape.length; axis++)
    if (shape[axis] > 1) longest = Math.max(longest, Math.abs(strides[axis]));
  return longest * dtypeBytes(dtype);
}

/** Throws an OptionError where two elements of a tensor that is written share memory. */
export function requireDistinct(option: string, out: Placed): void {
  const { shape, strides, label } = out;
  const axes = strides.map((stride, axis) => ({ step: Math.abs(stride), size: shape[axis] }));
  let span = 1;
  for (const { step, size } of axes.sort((a, b) => a.step - b.step)) {
    if (size <= 1) continue;
    if (step < span) {
      const given = `${label}, strides [${strides}]`;
      throw new OptionError(
        option,
        given,
        "of elements that each have a place",
        "copy it by to().",
      );
    }
    span += (size - 1) * step;
  }
}
