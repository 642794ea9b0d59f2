import type { Device } from "../device/device.ts";
import { OptionError, PlanError } from "../errors.ts";
import { requireNumber } from "../require.ts";
import { requireTensor, Tensor } from "./tensor.ts";

/** Numbers that are kept as tensors, by device: those used last. */
const numbers = new WeakMap<Device, Map<number, Tensor>>();
const numbersMost = 256;

/** A scale as a tensor: a number becomes one of a single element. Errors: OptionError. */
export function scaleTensor(
  device: Device,
  option: string,
  scale: Tensor | number | null | undefined,
): Tensor | undefined {
  if (scale === undefined || scale === null) return undefined;
  if (typeof scale !== "number") {
    requireTensor(option, scale);
    scale.requireOn(device, option);
    return scale;
  }
  requireNumber(option, scale);
  let kept = numbers.get(device);
  if (kept === undefined) numbers.set(device, (kept = new Map()));
  let tensor = kept.get(scale);
  if (tensor === undefined) {
    if (device.capturing) {
      const what = `${option} is a number that no step had before`;
      throw new PlanError(`${what}. Fix: run the step once before the capture.`);
    }
    tensor = Tensor.from(device, [scale], [1], "f32", "scale");
    // Streams other than the default one do not wait for its upload.
    device.stream.wait();
  } else kept.delete(scale);
  kept.set(scale, tensor);
  // Forgotten, not disposed: a graph that reads the oldest keeps it.
  if (kept.size > numbersMost) kept.delete(kept.keys().next().value!);
  return tensor;
}

/** Strides of f32 scales, in elements; an axis that the scales do not have has stride 0. */
export interface ScaleStrides {
  address: number;
  request: number;
  head: number;
  page: number;
  token: number;
}

/** No scales at all. */
const noScale: Readonly<ScaleStrides> = {
  address: 0,
  request: 0,
  head: 0,
  page: 0,
  token: 0,
};

/** What scales must reach: the heads, pages and tokens per page of a plane, and the requests. */
export interface ScaleReach {
  heads: number;
  /** 1 for ragged keys, whose tokens are all in one page. */
  pages: number;
  pageTokens: number;
  requests: number;
}

/**
 * Reads the axes of a scale tensor from its shape: [] or [1] per tensor, [heads] per head,
 * [requests, heads], or a token plane [pages, pageSize, heads] (a fourth axis of 1 may follow).
 * Errors: OptionError naming `option`, also where a request or token would have no scale.
 */
export function scaleStrides(
  option: string,
  scale: Tensor | undefined,
  reach: ScaleReach,
): ScaleStrides {
  if (scale === undefined) return noScale;
  scale.guard();
  const { shape, strides, address, dtype } = scale;
  const { heads, pages, pageTokens, requests } = reach;
  if (dtype !== "f32") throw new OptionError(option, scale.label, "an f32 tensor", "convert it.");
  if (scale.elements === 1) return { ...noScale, address };
  if (shape.length === 1 && shape[0] === heads) return { ...noScale, address, head: strides[0] };
  if (shape.length === 2 && shape[1] === heads) {
    requireReach(option, scale, shape[0] >= requests, `[${requests} or more, ${heads}]`);
    if (shape[0] > requests && shape[0] === pages * pageTokens) {
      const fix = `by token, reshape it to [pages, pageSize, ${heads}]; by request, slice it.`;
      const allowed = `[${requests}, ${heads}], or [${pages}, ${pageTokens}, ${heads}] by token`;
      throw new OptionError(option, scale.label, allowed, fix);
    }
    return { ...noScale, address, request: strides[0], head: strides[1] };
  }
  const plane = shape.length === 3 || (shape.length === 4 && shape[3] === 1);
  if (plane && shape[2] === heads) {
    const reaches = shape[0] >= pages && shape[1] >= pageTokens;
    const allowed = `[${pages} or more, ${pageTokens} or more, ${heads}]`;
    requireReach(option, scale, reaches, allowed);
    return { address, request: 0, page: strides[0], token: strides[1], head: strides[2] };
  }
  throw new OptionError(
    option,
    scale.label,
    `[1], [${heads}], [requests, ${heads}] or [pages, pageSize, ${heads}]`,
    "shape the scales as one of these.",
  );
}

function requireReach(option: string, scale: Tensor, reaches: boolean, allowed: string): void {
  if (reaches) return;
  throw new OptionError(option, scale.label, allowed, "give every request or token its scale.");
}
