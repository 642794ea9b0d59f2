import { Attention, blockMaskLayout, createBatch, Tensor } from "../../src/index.ts";
import { besidePeers, copiesOf, type GpuBench, runsOf } from "../gpu/bench.ts";
import { shuffle } from "../gpu/pages.ts";
import type { Measurement, PaperFigure, PaperTable } from "./table.ts";
import { dim, dtype } from "./shape.ts";

const heads = 32;
const block = 16;

/** Two cells of the paper's table are known here; the others stand without its figure. */
const known = new Map<string, PaperFigure>([
  ["32768/64", { flashinfer: 22.4, other: 1712 }],
  ["32768/512", { flashinfer: 68.5, other: 1712 }],
]);

const lengths = [4096, 8192, 16_384, 32_768];
const budgets = [64, 128, 256, 512];

export const sparseTable: PaperTable = {
  id: "g5-block-sparse",
  title: `G.5, block-sparse decode as in Quest: ${heads}/${heads} heads, blocks of ${block} keys`,
  unit: "us",
  paperOther: "SDPA, all keys",
  other: "SDPA, all keys",
  notes: [
    "One query; each head keeps a set of blocks of its own, in no order beforehand. A budget " +
      "counts blocks.",
    "SDPA is cuDNN's by PyTorch here; the paper does not say which.",
  ],
  rows: lengths.flatMap((length) =>
    budgets
      .filter((budget) => budget * block <= length)
      .map((budget) => ({
        shape: `${length} keys, ${budget} blocks`,
        paper: known.get(`${length}/${budget}`) ?? null,
        measure: (bench: GpuBench) => measure(bench, length, budget),
      })),
  ),
};

async function measure(
  bench: GpuBench,
  fullLength: number,
  fullBudget: number,
): Promise<Measurement> {
  const { device } = bench;
  const [length, budget] = bench.quick ? [128, 3] : [fullLength, fullBudget];
  const shape = { queryHeads: heads, kvHeads: heads, headDim: dim, dtype } as const;
  using attention = await Attention.create(device, { ...shape, causal: true });
  const all = Array.from({ length: length / block }, (_, i) => i);
  const indices = Array.from({ length: heads }, () => {
    shuffle(all);
    return all.slice(0, budget).sort((a, b) => a - b);
  });
  const layout = blockMaskLayout({
    queryIndptr: [0, 1],
    kvIndptr: [0, length],
    blockRows: 1,
    blockColumns: block,
    indptr: Array.from({ length: heads + 1 }, (_, head) => head * budget),
    indices: indices.flat(),
    kvHeads: heads,
  });
  attention.plan(createBatch({ queryLengths: [1], kvLengths: [length], layout }));
  // Of each copy only the kept blocks are read.
  const copies = copiesOf(bench, 2 * 2 * budget * block * heads * dim);
  const noise = (rows: number, seed: number) =>
    Tensor.randomNormal(device, [rows, heads, dim], dtype, { seed });
  const planes = Array.from({ length: 2 * copies }, (_, seed) => noise(length, seed));
  using q = noise(1, 1000);
  using out = Tensor.empty(device, [1, heads, dim], dtype);
  const run = (turn: number) => {
    const at = 2 * (turn % copies);
    attention.run({ q, k: planes[at], v: planes[at + 1], out });
  };
  run(0);
  const cudnn = { ...bench, backends: bench.backends.filter((name) => name === "cudnn") };
  const counts = { queryHeads: heads, kvHeads: heads, dim, queries: 1, keys: length };
  const dense = Math.min(copies, copiesOf(bench, 2 * 2 * length * heads * dim));
  const peerCase = { dtype, batch: 1, ...counts, causal: false, copies: dense };
  const us = (ms: number) => ms * 1000;
  const { ms, peers } = await besidePeers(cudnn, runsOf(bench, copies), run, peerCase, us);
  for (const plane of planes) plane[Symbol.dispose]();
  return { flashbun: us(ms), other: peers.at(0)?.value ?? null };
}
