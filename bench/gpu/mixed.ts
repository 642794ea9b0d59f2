import { bareRow, type GpuBench, type GpuCase, type GpuRow, timeOf } from "./bench.ts";
import { PagedWorld } from "./paged.ts";

const heads = { dtype: "bf16", queryHeads: 32, kvHeads: 8 } as const;

/** Decodes and chunks of prompts in one step, beside the same parts alone. */
export const mixedCases: GpuCase[] = [
  { name: "mixed/bf16/60x4096_and_2048", run: (bench) => mixed(bench, 60, [2048]) },
  { name: "mixed/bf16/60x4096_and_4x512", run: (bench) => mixed(bench, 60, [512, 512, 512, 512]) },
  { name: "mixed/bf16/16x4096_and_8192", run: (bench) => mixed(bench, 16, [8192]) },
  // So few that alone each of their tiles has a processor for itself.
  { name: "mixed/bf16/12x4096_and_2048", run: (bench) => mixed(bench, 12, [2048]) },
];

async function mixed(bench: GpuBench, decodes: number, prompts: number[]): Promise<GpuRow[]> {
  const { quick } = bench;
  const long = new Array<number>(quick ? 2 : decodes).fill(quick ? 80 : 4096);
  const chunks = quick ? [40] : prompts;
  const ones = long.map(() => 1);
  const both = await microseconds(bench, [...long, ...chunks], [...ones, ...chunks]);
  const decode = await microseconds(bench, long, ones);
  const prefill = await microseconds(bench, chunks, chunks);
  const most = Math.max(1.1 * Math.max(decode, prefill), 0.8 * (decode + prefill));
  return [
    bareRow("/decodes", decode, "us"),
    bareRow("/prompts", prefill, "us"),
    {
      ...bareRow("/step", both, "us"),
      target: `at most ${most.toFixed(0)}: 1.1x the larger part, 0.8x the sum`,
      met: both <= most,
    },
  ].map((row) => ({
    ...row,
    name: `mixed/bf16/${decodes}x4096_and_${textOf(prompts)}${row.name}`,
  }));
}

function textOf(prompts: readonly number[]): string {
  return prompts.length === 1 ? `${prompts[0]}` : `${prompts.length}x${prompts[0]}`;
}

async function microseconds(bench: GpuBench, lengths: number[], queryLengths: number[]) {
  using world = await PagedWorld.create(bench, { ...heads, lengths, queryLengths });
  return (await timeOf(bench, world.runs, (turn) => world.run(turn))) * 1000;
}
