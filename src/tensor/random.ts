import type { Device } from "../device/device.ts";
import { RandomParams } from "../ffi/params.gen.ts";
import { requireInteger, requireNumber, requireOptions } from "../require.ts";
import { type DType, dtypeCode } from "./dtype.ts";

/** Normal numbers: their seed, mean (default 0) and deviation (default 1). */
export interface NormalOptions {
  seed: number;
  mean?: number;
  deviation?: number;
}

/** A dense tensor, as far as it is filled. */
interface Filled {
  readonly device: Device;
  readonly address: number;
  readonly elements: number;
  readonly dtype: DType;
}

const params = new RandomParams();

/** Throws an OptionError for a seed, mean or deviation that is none. */
export function requireNormal(options: NormalOptions): void {
  requireOptions("options", options, ["seed", "mean", "deviation"]);
  requireInteger("seed", options.seed, 0);
  requireNumber("mean", options.mean ?? 0);
  requireNumber("deviation", options.deviation ?? 1);
}

/** Queues N(mean, deviation) noise: element i depends on the seed and i only. */
export function fillNormal(tensor: Filled, { seed, mean = 0, deviation = 1 }: NormalOptions): void {
  const { device, address, elements, dtype } = tensor;
  params.out = address;
  params.count = elements;
  params.seed = seed;
  params.mean = mean;
  params.deviation = deviation;
  params.dtype = dtypeCode(dtype);
  const kernel = device.kernel("random_normal");
  device.launch(device.stream, kernel, params, Math.ceil(elements / kernel.itemRows));
}
