import { mergeStates, PagedCache, Tensor } from "../../src/index.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import { median } from "../bench.ts";
import { bytesOf, type Subject, subjects } from "../subjects.ts";
import type { PeerRows } from "../peers/peer.ts";
import {
  bareRow,
  copiesOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  peerColumns,
  recorded,
  replayTimes,
  runsOf,
  timeOf,
} from "./bench.ts";

const [heads, dim] = [8, 128];
/** Launches of one row, each of which waits for the one before. */
const chain = 64;
/** What lies between the products of a decode step. */
const chained = new Set(["rms_norm", "add_rms_norm", "silu_and_mul"]);

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
  ...subjects
    .filter(({ name }) => chained.has(name))
    .map((subject) => ({
      name: `${subject.name}/bf16/chain${chain}_t1_d${subject.dim}`,
      run: (bench: GpuBench) => inChain(bench, subject),
    })),
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

async function overRows(bench: GpuBench, subject: Subject, most: number): Promise<GpuRow[]> {
  const rows = bench.quick ? 16 : most;
  const prepare = () => subject.prepare(bench.device, rows, subject.dim, "bf16");
  const all = [prepare()];
  const bytes = bytesOf(all[0].moves);
  const copies = copiesOf(bench, bytes);
  while (all.length < copies) all.push(prepare());
  const asked = { operator: subject.name, dtype: "bf16", rows, dim: subject.dim, copies };
  const row = await besideCompiled(bench, bytes, asked, (run) => all[run % copies].run());
  for (const { moves } of all) for (const tensor of new Set(moves)) tensor[Symbol.dispose]();
  return [row];
}

/** Bytes that copies of an operator in turn move, beside the same by torch.compile. */
export async function besideCompiled(
  bench: GpuBench,
  bytes: number,
  asked: Omit<PeerRows, "backend" | "seconds">,
  body: (run: number) => void,
): Promise<GpuRow> {
  const { peer, seconds } = bench;
  const runs = runsOf(bench, asked.copies);
  using graph = recorded(bench.device, () => {
    for (let run = 0; run < runs; run++) body(run);
  });
  const times = await replayTimes(bench, graph, seconds / 2);
  const answer = await peer?.ask({ ...asked, seconds, backend: "rows" });
  times.push(...(await replayTimes(bench, graph, seconds / 2)));
  const ms = median(times) / runs;
  const row = moved(bench, bytes, ms);
  if (answer?.seconds === undefined) return row;
  const theirs = answer.seconds * 1000;
  const backend = "torch.compile";
  const figure = { backend, value: bytes / theirs / 1e6, ratio: theirs / ms };
  return { ...row, ...peerColumns([figure], [{ backend, least: 1 }]) };
}

async function inChain(bench: GpuBench, subject: Subject): Promise<GpuRow[]> {
  const { moves, run } = subject.prepare(bench.device, 1, subject.dim, "bf16");
  const ms = await timeOf(bench, chain, run);
  for (const tensor of new Set(moves)) tensor[Symbol.dispose]();
  return [bareRow("", ms * 1000, "us")];
}

/** Bytes read and written, against what plain copying moves. */
export function moved({ ceilings }: GpuBench, bytes: number, milliseconds: number): GpuRow {
  const value = bytes / milliseconds / 1e6;
  return { ...bareRow("", value, "GB/s"), ofRoofline: value / ceilings.copyGBs };
}
