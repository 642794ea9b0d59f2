import type { Stream } from "../device/stream.ts";
import { OptionError } from "../errors.ts";
import { requireTensor, Tensor } from "./tensor.ts";

/**
 * A copy in i32 of indices in i64, made in the order of `stream`. A device that looks at indices
 * before kernels follow them refuses those that 32 bits do not hold; others take their low 32 bits.
 * Errors: OptionError.
 */
export function narrowed(option: string, indices: Tensor, stream: Stream): Tensor {
  requireTensor(option, indices);
  indices.requireOn(stream.device, option);
  requireNarrow(option, indices, stream);
  const copy = Tensor.empty(indices.device, indices.shape, "i32");
  copy.copyFrom(indices, stream);
  return copy;
}

/** Throws an OptionError for an index in i64 that 32 bits do not hold, where that is looked at. */
export function requireNarrow(option: string, indices: Tensor, stream: Stream): void {
  const { device, dtype } = indices;
  if (dtype !== "i64" || !device.checksContents || device.capturing) return;
  stream.wait();
  indexValues(option, indices);
}

/**
 * Indices in i32 or i64 on the host, once the stream that wrote them was waited for. Errors:
 * OptionError for one that 32 bits do not hold.
 */
export function indexValues(option: string, indices: Tensor): Int32Array {
  const values = indices.toTypedArray() as Int32Array | BigInt64Array;
  if (values instanceof Int32Array) return values;
  const wrong = values.findIndex((value) => value !== BigInt.asIntN(32, value));
  if (wrong < 0) return Int32Array.from(values, Number);
  const fix = "pass the index itself, not an address or a key.";
  throw new OptionError(`${option}[${wrong}]`, values[wrong], "an index of 32 bits", fix);
}
