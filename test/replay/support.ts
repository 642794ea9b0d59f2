import { shapeOf } from "../../src/replay/shapes.ts";
import type { ReplayOptions, ReplayRequest } from "../../src/replay/types.ts";
import { seeded } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";

/** Small options of a run in 64 pages of 4 tokens. */
export function optionsOf(more: Partial<ReplayOptions> = {}): ReplayOptions {
  return {
    shape: shapeOf("tiny"),
    layers: 2,
    pages: 64,
    pageSize: 4,
    tokenBudget: 24,
    maxBatch: 6,
    speed: Infinity,
    verify: 40,
    seed: 3,
    threads: 1,
    dtype: "f32",
    ...more,
  };
}

/** A device with a way to run steps on it. */
export interface Place {
  name: string;
  options: Partial<ReplayOptions>;
}

/** Where replays run, with the options that say so: kernel by kernel, and by captured graphs. */
export async function places(): Promise<Place[]> {
  const onGpu = { device: "cuda:0", threads: undefined, dtype: "bf16" } as const;
  return (await deviceTargets()).flatMap(({ name, kind }): Place[] =>
    kind === "cuda"
      ? [{ name, options: onGpu }]
      : [
          { name: "cpu", options: {} },
          { name: "cpu, graphs", options: { graph: "on" } },
        ],
  );
}

/** `count` requests, of which every second starts with the same 21 tokens. */
export function someRequests(count: number, seed = 1): ReplayRequest[] {
  const random = seeded(seed);
  return Array.from({ length: count }, (_, id) => {
    const promptTokens = Int32Array.from({ length: random.integer(22, 60) }, (_, i) =>
      id % 2 === 0 && i < 21 ? i : random.integer(0, 1 << 30),
    );
    const outputTokens = random.integer(1, 20);
    return { id, arrivalSeconds: id / 1000, promptTokens, outputTokens };
  });
}
