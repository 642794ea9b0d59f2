import { OptionError } from "../errors.ts";
import type { Tensor } from "./tensor.ts";

/**
 * A copy in i32 of indices in i64. A device that looks at indices before kernels follow them
 * refuses those that 32 bits do not hold; others take their low 32 bits. Errors: OptionError.
 */
export function narrowed(option: string, indices: Tensor): Tensor {
  requireNarrow(option, indices);
  return indices.to("i32");
}

/** Throws an OptionError for an index in i64 that 32 bits do not hold, where that is looked at. */
export function requireNarrow(option: string, indices: Tensor): void {
  const { device, dtype } = indices;
  if (dtype !== "i64" || !device.checksContents || device.capturing) return;
  const values = indices.toTypedArray() as BigInt64Array;
  const wrong = values.findIndex((value) => value !== BigInt.asIntN(32, value));
  if (wrong < 0) return;
  const fix = "pass the index itself, not an address or a key.";
  throw new OptionError(`${option}[${wrong}]`, values[wrong], "an index of 32 bits", fix);
}
