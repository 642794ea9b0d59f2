import type { Device } from "../device/device.ts";
import { replay } from "./engine.ts";
import type { EngineOptions, ModelShape } from "./types.ts";
import { generateWorkload } from "./workload.ts";

/** Next to no arithmetic: its steps are all scheduling, planning and launching. */
const heads = { queryHeads: 2, kvHeads: 1 };

/** Full batches, and next to nothing for an emulated GPU, which is slow but never cold. */
const full = { requests: 96, promptMean: 64, outputMean: 40 };
const little = { requests: 4, promptMean: 8, outputMean: 4 };

/**
 * Runs a small workload of full batches first, a fifth of a second, as serving engines do: steps
 * that count then wait neither for JavaScript to be compiled nor for native threads to start.
 */
export async function warmUp(options: EngineOptions, device?: Device): Promise<void> {
  const { threads, signal, graph } = options;
  // A GPU's kernels are compiled for the rest of the shape: those that the run needs, no others.
  const onCpu = (device?.kind ?? "cpu") === "cpu";
  const dtype = onCpu ? "f32" : options.dtype;
  const shape: ModelShape = onCpu
    ? { name: "warm-up", layers: 1, headDim: 8, ...heads }
    : { ...options.shape, ...heads };
  const requests = generateWorkload(device?.properties.emulated ? little : full);
  const engineOptions: EngineOptions = {
    ...{ shape, layers: 1, dtype, verify: 0, seed: 1, speed: Infinity, threads, signal, graph },
    ...{ pages: 2048, pageSize: 16, tokenBudget: 512, maxBatch: 64 },
  };
  await replay(requests, engineOptions, device);
}
