import { replay } from "./engine.ts";
import type { EngineOptions, ModelShape } from "./types.ts";
import { generateWorkload } from "./workload.ts";

/** Next to no arithmetic: its steps are all scheduling, planning and launching. */
const shape: ModelShape = { name: "warm-up", layers: 1, queryHeads: 2, kvHeads: 1, headDim: 8 };

/**
 * Runs a small workload of full batches first, a fifth of a second, as serving engines do: steps
 * that count then wait neither for JavaScript to be compiled nor for native threads to start.
 */
export async function warmUp({ threads, signal }: EngineOptions): Promise<void> {
  const requests = generateWorkload({ requests: 96, promptMean: 64, outputMean: 40 });
  await replay(requests, {
    ...{ shape, layers: 1, dtype: "f32", verify: 0, seed: 1, speed: Infinity, threads, signal },
    ...{ pages: 2048, pageSize: 16, tokenBudget: 512, maxBatch: 64 },
  });
}
