import { availableParallelism } from "node:os";
import { Attention } from "../attention/attention.ts";
import { Device } from "../device/device.ts";
import { requireInteger } from "../require.ts";
import type { DType } from "../tensor/dtype.ts";
import type { ReplayOptions, ReplayRequest } from "./types.ts";

/** Opens the device that a run is for. Errors: OptionError, DriverError, CompileError. */
export async function openDevice(options: ReplayOptions): Promise<Device> {
  const { device: kind = "cpu", threads } = options;
  // The threads of a run are its work: none is left to others.
  if (kind === "cpu") return Device.open(kind, { threads: threads ?? availableParallelism() });
  return Device.open(kind, threads === undefined ? {} : { threads });
}

/** The dtype of a run: the one asked for, else the one that the device is made for. */
export function dtypeOn(device: Device, options: ReplayOptions): "f32" | "f16" | "bf16" {
  return options.dtype ?? (device.kind === "cpu" ? "f32" : "bf16");
}

/** What a replay is made of beside its options. */
export interface Parts {
  attention: Attention;
  /** Attention with fixed sizes, where steps are captured. */
  graphed: Attention | undefined;
}

/** Compiles the attention of a run. Errors: OptionError, CompileError. */
export async function createParts(
  device: Device,
  requests: readonly ReplayRequest[],
  options: ReplayOptions,
): Promise<Parts> {
  const { shape, pageSize, maxBatch, graph = "auto" } = options;
  const { queryHeads, kvHeads, headDim, windowLeft, softCap } = shape;
  const common = {
    queryHeads,
    kvHeads,
    headDim,
    windowLeft,
    softCap,
    causal: true,
    dtype: dtypeOn(device, options),
  };
  const attention = await Attention.create(device, common);
  if (graph === "off" || (graph === "auto" && device.kind === "cpu"))
    return { attention, graphed: undefined };
  let longest = 1;
  for (const { promptTokens, outputTokens } of requests)
    longest = Math.max(longest, promptTokens.length + outputTokens);
  const maxColumns = Math.ceil(longest / pageSize);
  const sizes = { maxBatch, maxQueryTokens: maxBatch, maxQueryLength: 1, maxColumns };
  return { attention, graphed: await Attention.create(device, { ...common, graph: sizes }) };
}

/** Errors: OptionError. */
export function checkOptions(options: ReplayOptions): void {
  requireInteger("layers", options.layers, 1, options.shape.layers);
  // Tokens count in int32.
  requireInteger("pages", options.pages, 1, Math.floor(0x7fffffff / options.pageSize));
  requireInteger("verify", options.verify, 0, 1 << 20);
  requireInteger("seed", options.seed, 0);
  requireInteger("tokenBudget", options.tokenBudget, 1);
  requireInteger("maxBatch", options.maxBatch, 1, options.tokenBudget);
}

/** The cache that a run needs. */
export function cacheOptions(options: ReplayOptions, dtype: DType) {
  const { shape, layers, pages, pageSize, maxBatch: maxSequences } = options;
  const { kvHeads, headDim, windowLeft } = shape;
  const every = Array.from({ length: layers }, (_, layer) => layer);
  const groups = windowLeft === undefined ? undefined : [{ layers: every, pages, windowLeft }];
  const common = { layers, kvHeads, headDim, dtype, pages, pageSize, maxSequences };
  return groups === undefined ? common : { ...common, groups };
}
