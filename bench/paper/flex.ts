import {
  Attention,
  type AttentionOptions,
  createBatch,
  raggedLayout,
  Tensor,
} from "../../src/index.ts";
import { besidePeers, type GpuBench } from "../gpu/bench.ts";
import { indptrOf } from "../gpu/pages.ts";
import type { Measurement, PaperTable } from "./table.ts";
import { dim, dtype } from "./shape.ts";

const heads = 16;
const window = 1024;

interface Kind {
  name: string;
  /** As gpu.py calls it. */
  variant: string;
  options: Partial<AttentionOptions>;
  /** H100: TFLOP/s of FlashInfer and FlexAttention at 512 and 16384 tokens. */
  paper: readonly [readonly [number, number], readonly [number, number]];
}

const kinds: Kind[] = [
  {
    name: "causal",
    variant: "causal",
    options: { causal: true },
    paper: [
      [250.5, 209.1],
      [612.3, 453.6],
    ],
  },
  {
    name: "soft-cap 30",
    variant: "soft_cap",
    options: { softCap: 30 },
    paper: [
      [336.5, 241.5],
      [520.9, 409.9],
    ],
  },
  {
    name: "ALiBi",
    variant: "alibi",
    options: { alibi: true },
    paper: [
      [403.9, 253.2],
      [578.0, 434.9],
    ],
  },
  {
    name: `window ${window}`,
    variant: "window",
    options: { causal: true, windowLeft: window },
    paper: [
      [236.4, 206.5],
      [380.5, 367.9],
    ],
  },
];

/** Sequence lengths, and how many sequences: the paper's 16 of the longest take 0.1 s a run. */
const sizes = [
  { length: 512, batch: 16 },
  { length: 16_384, batch: 2 },
];

export const flexTable: PaperTable = {
  id: "g1-flexattention",
  title: "G.1, variants beside FlexAttention: 16 heads",
  unit: "TFLOP/s",
  paperOther: "FlexAttention",
  other: "FlexAttention",
  notes: [
    "Ragged keys. Causal masks and windows count the pairs that are visible. ALiBi and " +
      "soft-cap are not causal, as their rates in the paper suggest.",
    "16384 tokens: 2 sequences here, 16 in the paper.",
  ],
  rows: sizes.flatMap(({ length, batch }, size) =>
    kinds.map((kind) => ({
      shape: `${kind.name}, ${batch} x ${length}`,
      paper: { flashinfer: kind.paper[size][0], other: kind.paper[size][1] },
      measure: (bench: GpuBench) => measure(bench, kind, batch, length),
    })),
  ),
};

async function measure(
  bench: GpuBench,
  { variant, options }: Kind,
  fullBatch: number,
  fullLength: number,
): Promise<Measurement> {
  const { device } = bench;
  const [batch, length] = bench.quick ? [2, 40] : [fullBatch, fullLength];
  const shape = { queryHeads: heads, kvHeads: heads, headDim: dim, dtype } as const;
  using attention = await Attention.create(device, { ...shape, ...options });
  const each = new Array<number>(batch).fill(length);
  const indptr = indptrOf(each);
  const layout = raggedLayout(indptr, indptr);
  attention.plan(createBatch({ queryLengths: each, kvLengths: each, layout }));
  const rows = [batch * length, heads, dim];
  const noise = (seed: number) => Tensor.randomNormal(device, rows, dtype, { seed });
  using q = noise(1);
  using k = noise(2);
  using v = noise(3);
  using out = Tensor.empty(device, rows, dtype);
  const slopes = Float32Array.from({ length: heads }, (_, head) => 2 ** (-(head + 1) / 2));
  using alibiSlopes = Tensor.from(device, slopes, [heads], "f32");
  const bias = options.alibi ? { alibiSlopes } : {};
  const run = () => attention.run({ q, k, v, out, ...bias });
  run();
  const operations = 4 * batch * heads * dim * pairsOf(variant, length);
  const tflops = (ms: number) => operations / ms / 1e9;
  const causal = options.causal ?? false;
  const counts = { queryHeads: heads, kvHeads: heads, dim, queries: length, keys: length };
  const peerCase = { dtype, batch, ...counts, causal, variant, copies: 1 };
  const flex = { ...bench, backends: bench.backends.filter((name) => name === "flex") };
  // One long run is enough of a graph.
  const runs = bench.quick || length > 4096 ? 1 : 20;
  const { ms, peers } = await besidePeers(flex, runs, run, peerCase, tflops);
  return { flashbun: tflops(ms), other: peers.at(0)?.value ?? null };
}

/** Pairs of a query and a key that it sees. */
function pairsOf(variant: string, length: number): number {
  if (variant === "soft_cap" || variant === "alibi") return length * length;
  const all = (length * (length + 1)) / 2;
  const hidden = variant === "window" ? Math.max(0, length - window - 1) : 0;
  return all - (hidden * (hidden + 1)) / 2;
}
