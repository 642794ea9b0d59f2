import { replay } from "../src/replay/replay.ts";
import { shapeOf } from "../src/replay/shapes.ts";
import type { ReplayOptions, StepRecord } from "../src/replay/types.ts";
import { warmUp } from "../src/replay/warm-up.ts";
import { generateWorkload } from "../src/replay/workload.ts";
import { type Bench, type Case, type Measured, median, plainRow } from "./bench.ts";

const batch = 64;
const hostTargetUs = 200;
const shareTarget = 10;

/** What the default demo spends beside its kernels. */
export const demoCases: Case[] = [{ name: "demo/host", run: demo }];

async function demo({ device, quick }: Bench): Promise<Measured[]> {
  const options: ReplayOptions = {
    shape: shapeOf(quick ? "tiny" : "llama-3.1-8b"),
    layers: 2,
    dtype: "f32",
    verify: 0,
    pages: 2048,
    pageSize: 16,
    tokenBudget: 512,
    maxBatch: batch,
    speed: Infinity,
    seed: 1,
    threads: device.processors,
  };
  await warmUp(options);
  const { steps } = await replay(generateWorkload({ requests: 200, seed: 1 }), options);
  const full = steps.filter(({ runningRequests }) => runningRequests === batch);
  return [
    hostRow("demo/host_b64", full),
    hostRow(
      "demo/host_b64_decode",
      full.filter(({ prefillTokens }) => prefillTokens === 0),
    ),
    besideKernels(steps),
  ];
}

/** Scheduling, batch, plan and enqueue of a step with two layers. */
function hostRow(name: string, steps: readonly StepRecord[]): Measured {
  const value = median(steps.map(({ hostMicroseconds }) => hostMicroseconds));
  const target = `under ${hostTargetUs} us`;
  return { ...plainRow(name, value, "us p50"), target, met: value < hostTargetUs };
}

/** All of a step that its append and attention do not take, made-up inputs included. */
function besideKernels(steps: readonly StepRecord[]): Measured {
  const seconds = steps.reduce((sum, step) => sum + step.endSeconds - step.startSeconds, 0);
  const kernels = steps.reduce((sum, step) => sum + step.kernelMicroseconds, 0) / 1e6;
  const value = 100 * (1 - kernels / seconds);
  const target = `under ${shareTarget} %`;
  return { ...plainRow("demo/beside_kernels", value, "%"), target, met: value < shareTarget };
}
