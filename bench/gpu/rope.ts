import { applyRope, Rope, Tensor } from "../../src/index.ts";
import { copiesOf, type GpuBench, type GpuCase, type GpuRow, runsOf, timeOf } from "./bench.ts";
import { moved } from "./operators.ts";

const [queryHeads, kvHeads, dim] = [32, 8, 128];

/** Rotation of new tokens: reads and writes all of them. */
export const ropeCases: GpuCase[] = [
  { name: "rope/bf16/t16384_h40_d128", run: (bench) => rope(bench, 16_384) },
  { name: "rope/bf16/t64_h40_d128", run: (bench) => rope(bench, 64) },
  { name: "rope/bf16/t1_h40_d128", run: (bench) => rope(bench, 1) },
];

async function rope(bench: GpuBench, most: number): Promise<GpuRow[]> {
  const { device } = bench;
  const tokens = bench.quick ? Math.min(most, 64) : most;
  const heads = queryHeads + kvHeads;
  const bytes = 2 * 2 * tokens * heads * dim;
  const copies = copiesOf(bench, bytes);
  using turns = Rope.create(device, dim, { theta: 5e5 });
  const at = Int32Array.from({ length: tokens }, (_, token) => token);
  using positions = Tensor.from(device, at, [tokens], "i32");
  const all = Array.from({ length: copies }, (_, seed) =>
    Tensor.randomNormal(device, [tokens, heads, dim], "bf16", { seed }),
  );
  const views = all.map((x) => [x.slice(1, 0, queryHeads), x.slice(1, queryHeads, heads)]);
  const ms = await timeOf(bench, runsOf(bench, copies), (run) => {
    const [q, k] = views[run % copies];
    applyRope(q, k, positions, turns);
  });
  for (const x of all) x[Symbol.dispose]();
  return [moved(bench, bytes, ms)];
}
