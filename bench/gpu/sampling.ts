import {
  maskLogits,
  renormalize,
  sample,
  type SampleOptions,
  softmax,
  Tensor,
  topK,
} from "../../src/index.ts";
import {
  bareRow,
  copiesOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  runsOf,
  timeOf,
} from "./bench.ts";

const vocabulary = 128_256;

/** How far apart logits are: nearly alike, or a few far ahead. */
const spreads = { flat: 0.5, peaked: 4 };

/** Microseconds that top-k with top-p should take, by rows. */
const targets: Readonly<Record<number, number>> = { 1: 15, 64: 40, 256: 110 };

const filters: Readonly<Record<string, SampleOptions>> = {
  greedy: { temperature: 0 },
  plain: {},
  top_k: { topK: 50 },
  top_p: { topP: 0.9 },
  top_k_top_p: { topK: 50, topP: 0.9 },
  min_p: { minP: 0.1 },
};

interface Results {
  out: Tensor;
  values: Tensor;
  indices: Tensor;
}

const operators: Readonly<Record<string, (x: Tensor, results: Results) => void>> = {
  softmax: (x, { out }) => softmax(x, { out }),
  renorm_top_k: (x, { out }) => renormalize(x, { topK: 50, out }),
  renorm_top_p: (x, { out }) => renormalize(x, { topP: 0.9, out }),
  mask_top_k: (x, { out }) => maskLogits(x, { topK: 50, out }),
  top_k_40: (x, { values, indices }) => topK(x, 40, { values, indices }),
};

/** Tokens, probabilities and largest elements of rows of logits. */
export const samplingCases: GpuCase[] = [1, 64, 256].flatMap((rows) => [
  ...Object.entries(spreads).flatMap(([spread, deviation]) =>
    Object.keys(filters).map((filter) => ({
      name: `sampling/${filter}/${spread}_b${rows}_v${vocabulary}`,
      run: (bench: GpuBench) => draw(bench, rows, deviation, filter),
    })),
  ),
  ...Object.keys(operators).map((operator) => ({
    name: `sampling/${operator}_b${rows}_v${vocabulary}`,
    run: (bench: GpuBench) => filtered(bench, rows, operator),
  })),
]);

async function draw(
  bench: GpuBench,
  rows: number,
  deviation: number,
  filter: string,
): Promise<GpuRow[]> {
  using out = Tensor.empty(bench.device, [rows], "i32");
  const row = await timeRows(bench, rows, deviation, (x) =>
    sample(x, { ...filters[filter], seed: 1, out }),
  );
  if (filter !== "top_k_top_p") return [row];
  return [{ ...row, target: `${targets[rows]} us`, met: row.value <= targets[rows] }];
}

async function filtered(bench: GpuBench, rows: number, operator: string): Promise<GpuRow[]> {
  const { device } = bench;
  using out = Tensor.empty(device, [rows, lengthOf(bench)], "f32");
  using values = Tensor.empty(device, [rows, 40], "f32");
  using indices = Tensor.empty(device, [rows, 40], "i32");
  const results = { out, values, indices };
  return [await timeRows(bench, rows, 1, (x) => operators[operator](x, results))];
}

function lengthOf({ quick }: GpuBench): number {
  return quick ? 1000 : vocabulary;
}

/** Microseconds of one run; runs take copies in turn, so that rows come from memory. */
async function timeRows(
  bench: GpuBench,
  rows: number,
  deviation: number,
  run: (x: Tensor) => void,
): Promise<GpuRow> {
  const shape = [rows, lengthOf(bench)];
  const copies = copiesOf(bench, 4 * shape[0] * shape[1]);
  const all = Array.from({ length: copies }, (_, seed) =>
    Tensor.randomNormal(bench.device, shape, "f32", { seed, deviation }),
  );
  const ms = await timeOf(bench, runsOf(bench, copies), (turn) => run(all[turn % copies]));
  for (const x of all) x[Symbol.dispose]();
  return bareRow("", 1000 * ms, "us");
}
