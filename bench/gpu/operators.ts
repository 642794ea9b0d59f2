import { mergeStates, PagedCache, Tensor } from "../../src/index.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import { bytesOf, type Subject, subjects } from "../subjects.ts";
import {
  bareRow,
  copiesOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  runsOf,
  timeOf,
} from "./bench.ts";

const [heads, dim] = [8, 128];

/** Operators that move memory and compute next to nothing. */
export const operatorCases: GpuCase[] = [
  { name: "append/bf16/t16384_h8_d128_p16", run: (bench) => append(bench, "bf16") },
  { name: "append/f8e4m3/t16384_h8_d128_p16", run: (bench) => append(bench, "f8e4m3") },
  { name: "merge/bf16/s2_t8192_h32_d128", run: merge },
  ...subjects.flatMap((subject) =>
    [16_384, 64].map((rows) => ({
      name: `${subject.name}/bf16/t${rows}_d${subject.dim}`,
      run: (bench: GpuBench) => overRows(bench, subject, rows),
    })),
  ),
];

async function append(bench: GpuBench, dtype: "bf16" | "f8e4m3"): Promise<GpuRow[]> {
  const { device, quick } = bench;
  const tokens = quick ? 64 : 16_384;
  const elements = 2 * tokens * heads * dim;
  const bytes = elements * (2 + dtypeBytes(dtype));
  const layers = copiesOf(bench, bytes);
  using cache = PagedCache.create(device, {
    layers,
    kvHeads: heads,
    headDim: dim,
    dtype,
    pages: Math.ceil(tokens / 16),
    pageSize: 16,
    maxSequences: 1,
  });
  const batch = cache.reserve([cache.sequence()], [tokens]);
  if (!batch.ok) throw batch.error;
  const sources = Array.from({ length: layers }, (_, seed) =>
    Tensor.randomNormal(device, [2, tokens, heads, dim], "bf16", { seed }),
  );
  const views = sources.map((source) => [source.select(0, 0), source.select(0, 1)]);
  const run = (turn: number) => {
    const layer = turn % layers;
    cache.append({ layer, batch, k: views[layer][0], v: views[layer][1] });
  };
  run(0);
  const ms = await timeOf(bench, runsOf(bench, layers), run);
  for (const source of sources) source[Symbol.dispose]();
  return [moved(bench, bytes, ms)];
}

async function merge(bench: GpuBench): Promise<GpuRow[]> {
  const { device, quick } = bench;
  const [states, rows] = [2, (quick ? 8 : 8192) * 32];
  const bytes = (states + 1) * rows * (dim * 2 + 4);
  const copies = copiesOf(bench, bytes);
  const stateOf = (seed: number) => ({
    out: Tensor.randomNormal(device, [rows, 1, dim], "bf16", { seed }),
    lse: Tensor.randomNormal(device, [rows, 1], "f32", { seed }),
    lseBase: "e" as const,
  });
  const all = Array.from({ length: copies }, (_, seed) => ({
    given: [stateOf(2 * seed), stateOf(2 * seed + 1)],
    out: Tensor.empty(device, [rows, 1, dim], "bf16"),
    lse: Tensor.empty(device, [rows, 1], "f32"),
  }));
  const ms = await timeOf(bench, runsOf(bench, copies), (run) => {
    const { given, out, lse } = all[run % copies];
    mergeStates(given, { out, lse });
  });
  for (const { given, out, lse } of all)
    for (const state of [...given, { out, lse }]) {
      state.out[Symbol.dispose]();
      state.lse[Symbol.dispose]();
    }
  return [moved(bench, bytes, ms)];
}

async function overRows(bench: GpuBench, subject: Subject, rows: number): Promise<GpuRow[]> {
  const { device, quick } = bench;
  const prepare = () => subject.prepare(device, quick ? 16 : rows, subject.dim, "bf16");
  const all = [prepare()];
  const bytes = bytesOf(all[0].moves);
  const copies = copiesOf(bench, bytes);
  while (all.length < copies) all.push(prepare());
  const ms = await timeOf(bench, runsOf(bench, copies), (run) => all[run % copies].run());
  for (const { moves } of all) for (const tensor of new Set(moves)) tensor[Symbol.dispose]();
  return [moved(bench, bytes, ms)];
}

/** Bytes read and written, against what plain copying moves. */
export function moved({ ceilings }: GpuBench, bytes: number, milliseconds: number): GpuRow {
  const value = bytes / milliseconds / 1e6;
  return { ...bareRow("", value, "GB/s"), ofRoofline: value / ceilings.copyGBs };
}
