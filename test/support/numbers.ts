/** Numbers for tests, on the host and on devices. */
import type { Device } from "../../src/device/device.ts";
import { type DType, dtypeBytes, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import type { Random } from "./random.ts";

/** N(0, 1) numbers rounded to a dtype. */
export function normals(random: Random, count: number, dtype: DType): Float64Array {
  const values = new Float64Array(count);
  for (let i = 0; i < count; i++) values[i] = random.normal();
  return roundTo(dtype, values);
}

/** A tensor of NaN in every dtype: what must not be read and, in outputs, what was not written. */
export function poisoned(device: Device, shape: number[], dtype: DType): Tensor {
  const tensor = Tensor.empty(device, shape, dtype);
  device.stream.fill(tensor.address, 0xff, tensor.elements * dtypeBytes(dtype));
  return tensor;
}

/** Lists one after the other. */
export function concatenate(parts: readonly Float64Array[]): Float64Array {
  const all = new Float64Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** [0, a, a + b, ...] */
export function indptrOf(lengths: readonly number[]): number[] {
  const result = [0];
  for (const length of lengths) result.push(result[result.length - 1] + length);
  return result;
}
