import type { Memory } from "../device/memory.ts";
import { OptionError } from "../errors.ts";
import { requireList } from "../require.ts";
import {
  type DType,
  dtypeBytes,
  encode,
  requireDType,
  type TypedArray,
  typedArrayOf,
} from "./dtype.ts";
import { checkShape, requireCount } from "./shape.ts";

/** A tensor, as far as the host looks at it. */
interface Placed {
  readonly device: { readonly kind: string; readonly label: string };
  readonly dtype: DType;
  readonly address: number;
  readonly elements: number;
  readonly contiguous: boolean;
  readonly label: string;
}

/** Numbers of a shape, rounded to a dtype, as bytes. Errors: OptionError. */
export function bytesOfNumbers(
  dtype: DType,
  data: ArrayLike<number> | ArrayLike<bigint>,
  shape: readonly number[],
): Uint8Array<ArrayBuffer> {
  requireDType("dtype", dtype);
  requireCount(requireList("data", data), checkShape(shape));
  const bytes = new Uint8Array(data.length * dtypeBytes(dtype));
  encode(dtype, data, bytes);
  return bytes;
}

/** The bits of elements of a shape as bytes, not copied. Errors: OptionError. */
export function bytesOfBits(
  dtype: DType,
  bits: ArrayBufferView,
  shape: readonly number[],
): Uint8Array {
  requireDType("dtype", dtype);
  if (!ArrayBuffer.isView(bits))
    throw new OptionError("bits", bits, "a typed array", "give the elements' bits.");
  requireCount(bits.byteLength / dtypeBytes(dtype), checkShape(shape));
  return new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength);
}

/** As Tensor.hostView, of a tensor in `memory`, if it is the device's own. Errors: OptionError. */
export function hostViewOf(tensor: Placed, memory: Memory | undefined): TypedArray {
  const { device, dtype, address, elements, contiguous, label } = tensor;
  if (device.kind !== "cpu") {
    const fix = "copy it by toTypedArray(), and back by set().";
    throw new OptionError("tensor", `${label} on ${device.label}`, "a tensor on the CPU", fix);
  }
  if (!contiguous) {
    throw new OptionError("tensor", label, "contiguous", "copy it by to(dtype) first.");
  }
  if (memory === undefined) {
    const fix = "use what its owner has, or copy it by to(dtype) first.";
    throw new OptionError("tensor", label, "in memory of the device", fix);
  }
  return typedArrayOf(dtype, memory.hostBytes(), address - memory.address, elements);
}
