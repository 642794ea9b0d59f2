import { matmul, Tensor, Weight } from "../../src/index.ts";
import {
  bareRow,
  copiesOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  runsOf,
  timeOf,
} from "./bench.ts";

/** Linear layers of bf16: few rows against bytes, many in operations. */
export const matmulCases: GpuCase[] = [
  ...[1, 8, 32, 64].map((rows) => ({ rows, outputs: 14_336, inputs: 4096 })),
  ...[2048, 4096, 8192].map((size) => ({ rows: size, outputs: size, inputs: size })),
].map(({ rows, outputs, inputs }) => ({
  name: `matmul/bf16/r${rows}_${outputs}x${inputs}`,
  run: (bench) => product(bench, rows, outputs, inputs),
}));

async function product(
  bench: GpuBench,
  rows: number,
  outputs: number,
  inputs: number,
): Promise<GpuRow[]> {
  const { device, quick, ceilings } = bench;
  const [r, n, k] = quick ? [Math.min(rows, 64), 256, 256] : [rows, outputs, inputs];
  const bytes = 2 * n * k;
  const copies = copiesOf(bench, bytes);
  using x = Tensor.randomNormal(device, [r, k], "bf16", { seed: 0 });
  using out = Tensor.empty(device, [r, n], "bf16");
  const weights = Array.from({ length: copies }, (_, seed) =>
    Weight.dense(Tensor.randomNormal(device, [n, k], "bf16", { seed })),
  );
  const ms = await timeOf(bench, runsOf(bench, copies), (run) => {
    matmul(x, weights[run % copies], { out });
  });
  for (const weight of weights) weight[Symbol.dispose]();
  if (rows > 64) return [bareRow("", (2 * r * n * k) / ms / 1e9, "TFLOP/s")];
  const value = bytes / ms / 1e6;
  return [{ ...bareRow("", value, "GB/s"), ofRoofline: value / ceilings.readGBs }];
}
