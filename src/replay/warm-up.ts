import type { Device } from "../device/device.ts";
import { replay } from "./replay.ts";
import type { ReplayOptions, ModelShape } from "./types.ts";
import { generateWorkload } from "./workload.ts";

/** Next to no arithmetic: its steps are all scheduling, planning and launching. */
const heads = { queryHeads: 2, kvHeads: 1 };

/**
 * Full batches in which many requests come and go, as what runs once per request is compiled well
 * after a thousand of them; and next to nothing for an emulated GPU, which is slow but never cold.
 */
const full = { requests: 1600, promptMean: 32, outputMean: 10 };
const little = { requests: 4, promptMean: 8, outputMean: 4 };

/** A few requests go on alone: what runs once per step is compiled as late. */
const lasting = { requests: 4, outputTokens: 2000 };

/** Later layers go another way than the first. */
const layersMost = 2;

/** Fewer than the full batches need with what stays cached: some is evicted, as in long runs. */
const pages = 800;

/**
 * Runs a small workload first, a second or two, as serving engines do, full batches and then
 * many steps: those that count wait neither for JavaScript to be compiled nor for native threads to
 * start.
 */
export async function warmUp(options: ReplayOptions, device?: Device): Promise<void> {
  const { threads, signal, graph } = options;
  // A GPU's kernels are compiled for the rest of the shape: those that the run needs, no others.
  const onCpu = (device?.kind ?? "cpu") === "cpu";
  const dtype = onCpu ? "f32" : options.dtype;
  const shape: ModelShape = onCpu
    ? { name: "warm-up", layers: layersMost, headDim: 8, ...heads }
    : { ...options.shape, ...heads };
  const emulated = device?.properties.emulated === 1;
  const requests = generateWorkload(emulated ? little : full);
  for (let i = 0; i < lasting.requests && !emulated; i++)
    requests[i].outputTokens = lasting.outputTokens;
  const replayOptions: ReplayOptions = {
    shape,
    layers: Math.min(layersMost, options.layers),
    dtype,
    pages,
    pageSize: 16,
    tokenBudget: 512,
    maxBatch: 64,
    speed: Infinity,
    verify: 0,
    seed: 1,
    threads,
    graph,
    probe: false,
    signal,
  };
  await replay(requests, replayOptions, device);
}
