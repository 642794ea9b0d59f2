import { Attention, createBatch, Tensor } from "../../src/index.ts";
import { dtypeBytes } from "../../src/tensor/dtype.ts";
import {
  copiesOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  bareRow,
  runsOf,
  timeOf,
} from "./bench.ts";
import { pagesOf } from "./pages.ts";

/** Latent attention (MLA): one head of 576 elements, whose first 512 are the value. */
const headDim = 576;
const valueDim = 512;

interface Row {
  batch: number;
  heads: number;
  /** Of each request, or of some more than of others. */
  keys: number;
  queries?: number;
  pageSize?: number;
  kvDtype?: "bf16" | "f8e4m3";
  skewed?: boolean;
  /** Pages of all requests by turns, as steps append them; else in no order. */
  byTurns?: boolean;
  unit: "TFLOP/s" | "GB/s" | "us";
}

const rows: Row[] = [
  { batch: 128, heads: 128, keys: 4096, unit: "TFLOP/s" },
  { batch: 64, heads: 128, keys: 8192, unit: "TFLOP/s" },
  { batch: 128, heads: 64, keys: 4096, unit: "TFLOP/s" },
  { batch: 64, heads: 64, keys: 8192, unit: "TFLOP/s" },
  { batch: 128, heads: 16, keys: 4096, unit: "GB/s" },
  { batch: 64, heads: 16, keys: 8192, unit: "GB/s" },
  { batch: 128, heads: 128, keys: 4096, byTurns: true, unit: "TFLOP/s" },
  { batch: 128, heads: 16, keys: 4096, byTurns: true, unit: "GB/s" },
  { batch: 1, heads: 128, keys: 8192, unit: "us" },
  { batch: 1, heads: 64, keys: 8192, unit: "us" },
  { batch: 1, heads: 16, keys: 8192, unit: "us" },
  { batch: 16, heads: 128, keys: 4096, queries: 2, unit: "TFLOP/s" },
  { batch: 64, heads: 128, keys: 4096, skewed: true, unit: "TFLOP/s" },
  { batch: 64, heads: 128, keys: 8192, pageSize: 16, unit: "TFLOP/s" },
  { batch: 64, heads: 64, keys: 8192, pageSize: 16, unit: "TFLOP/s" },
  { batch: 64, heads: 16, keys: 8192, pageSize: 16, unit: "GB/s" },
  { batch: 64, heads: 128, keys: 8192, pageSize: 1, unit: "TFLOP/s" },
  { batch: 64, heads: 16, keys: 8192, pageSize: 1, unit: "GB/s" },
  { batch: 128, heads: 16, keys: 4096, skewed: true, unit: "GB/s" },
  { batch: 128, heads: 16, keys: 4096, kvDtype: "f8e4m3", unit: "GB/s" },
  { batch: 128, heads: 16, keys: 4096, kvDtype: "f8e4m3", pageSize: 1, unit: "GB/s" },
  { batch: 64, heads: 16, keys: 8192, kvDtype: "f8e4m3", unit: "GB/s" },
  { batch: 128, heads: 16, keys: 4096, kvDtype: "f8e4m3", skewed: true, unit: "GB/s" },
  { batch: 64, heads: 64, keys: 8192, kvDtype: "f8e4m3", unit: "TFLOP/s" },
  { batch: 64, heads: 128, keys: 8192, kvDtype: "f8e4m3", unit: "TFLOP/s" },
  { batch: 1, heads: 16, keys: 8192, kvDtype: "f8e4m3", unit: "us" },
  { batch: 1, heads: 128, keys: 8192, kvDtype: "f8e4m3", unit: "us" },
];

function nameOf({ batch, heads, keys, queries = 1, pageSize = 64, ...row }: Row): string {
  const { skewed, byTurns, kvDtype = "bf16" } = row;
  const count = queries === 1 ? "" : `_q${queries}`;
  const ending = `${count}${skewed ? "_skewed" : ""}${byTurns ? "_by-turns" : ""}`;
  return `mla/${kvDtype}/b${batch}_h${heads}_kv${keys}_p${pageSize}${ending}`;
}

export const latentCases: GpuCase[] = rows.map((row) => ({
  name: nameOf(row),
  run: (bench) => measure(bench, row),
}));

/** Lengths from a quarter to seven quarters of the mean, the longest last. */
function lengthsOf({ skewed }: Row, batch: number, keys: number): number[] {
  if (!skewed) return new Array<number>(batch).fill(keys);
  return Array.from({ length: batch }, (_, i) => {
    return Math.max(1, Math.round(keys * (0.25 + (1.5 * i) / Math.max(1, batch - 1))));
  });
}

async function measure(bench: GpuBench, row: Row): Promise<GpuRow[]> {
  const { heads, queries = 1, pageSize = 64, kvDtype = "bf16", unit } = row;
  const batch = bench.quick ? Math.min(2, row.batch) : row.batch;
  const lengths = lengthsOf(row, batch, bench.quick ? 80 : row.keys);
  const tokens = lengths.reduce((sum, keys) => sum + keys, 0);
  const bytes = dtypeBytes(kvDtype) * tokens * headDim;
  const layers = copiesOf(bench, bytes);
  const { device, ceilings } = bench;
  using attention = await Attention.create(device, {
    queryHeads: heads,
    kvHeads: 1,
    headDim,
    valueDim,
    dtype: "bf16",
    kvDtype,
    causal: true,
    keyPlane: "latent",
    valuePlane: "latent",
    scale: 1 / Math.sqrt(192),
  });
  const queryLengths = lengths.map(() => queries);
  const pages = pagesOf({ lengths, queryLengths, pageSize, byTurns: row.byTurns });
  const { table, stride, layout, kvLengths } = pages;
  using pageTable = Tensor.from(device, table, [batch, stride], "i32");
  const planes = Array.from({ length: layers }, (_, seed) =>
    Tensor.randomNormal(device, [pages.count, pageSize, 1, headDim], kvDtype, { seed }),
  );
  attention.plan(createBatch({ queryLengths, kvLengths, layout }));
  const noise = [batch * queries, heads, headDim];
  using q = Tensor.randomNormal(device, noise, "bf16", { seed: 1000 });
  using out = Tensor.empty(device, [batch * queries, heads, valueDim], "bf16");
  const latents = planes.map((k) => k.slice(3, 0, valueDim));
  const run = (layer: number) =>
    attention.run({ q, k: planes[layer], v: latents[layer], pageTable, out });
  run(0);
  const ms = await timeOf(bench, runsOf(bench, layers), (turn) => run(turn % layers));
  for (const plane of planes) plane[Symbol.dispose]();
  const tflops = (2 * tokens * queries * heads * (headDim + valueDim)) / ms / 1e9;
  const gbs = bytes / ms / 1e6;
  const values = { "TFLOP/s": tflops, "GB/s": gbs, us: ms * 1000 };
  const matmul = ceilings.matmulTflops;
  const ofMatmul = matmul === null ? null : tflops / matmul;
  const ofRoofline = unit === "TFLOP/s" ? ofMatmul : gbs / ceilings.readGBs;
  return [{ ...bareRow("", values[unit], unit), ofRoofline }];
}
