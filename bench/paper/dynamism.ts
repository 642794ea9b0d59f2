import { besidePeers, type GpuBench } from "../gpu/bench.ts";
import { PagedWorld, shortened } from "../gpu/paged.ts";
import { shuffle } from "../gpu/pages.ts";
import { dim, dtype } from "./shape.ts";
import type { Measurement, PaperFigure, PaperRow, PaperTable } from "./table.ts";

const batch = 16;
const mean = 1024;

/** The paper states no exponent: shares 1/1, 1/2, ... 1/16 of as many keys in all, in no order. */
function zipf(): number[] {
  const shares = Array.from({ length: batch }, (_, i) => 1 / (i + 1));
  const all = shares.reduce((total, share) => total + share);
  const lengths = shares.map((share) => Math.round((batch * mean * share) / all));
  shuffle(lengths);
  return lengths;
}

/** As many lengths in equal steps from 512 to 1024, in no order. */
function uniform(): number[] {
  const lengths = Array.from(
    { length: batch },
    (_, i) => 512 + Math.round((512 * i) / (batch - 1)),
  );
  shuffle(lengths);
  return lengths;
}

const loads = [
  { name: "1024", lengths: new Array<number>(batch).fill(mean) },
  { name: "U(512, 1024)", lengths: uniform() },
  { name: "Zipf, mean 1024", lengths: zipf() },
];

const heads = [
  { name: "MHA 32/32", queryHeads: 32, kvHeads: 32 },
  { name: "GQA 32/8", queryHeads: 32, kvHeads: 8 },
  { name: "GQA 32/4", queryHeads: 32, kvHeads: 4 },
];

/** Percent of the H100's bandwidth: FlashInfer and FlashAttention, by load and then heads. */
const decodePercent = [
  [73, 73],
  [58, 53],
  [43, 43],
  [70, 65],
  [43, 36],
  [32, 29],
  [52, 43],
  [39, 35],
  [32, 28],
];

/** Percent of the H100's f16 peak, by load. */
const prefillPercent = [
  [40, 39],
  [37, 34],
  [48, 44],
];

function figureOf(pair: number[] | undefined): PaperFigure | null {
  return pair === undefined ? null : { flashinfer: pair[0], other: pair[1] };
}

function rows(
  paper: (load: number, head: number) => PaperFigure | null,
  measure: (
    bench: GpuBench,
    head: (typeof heads)[number],
    lengths: number[],
  ) => Promise<Measurement>,
): PaperRow[] {
  return loads.flatMap(({ name, lengths }, load) =>
    heads.map((head, h) => ({
      shape: `${name}, ${head.name}`,
      paper: paper(load, h),
      measure: (bench: GpuBench) => measure(bench, head, shortened(bench, lengths)),
    })),
  );
}

const fromChart = "The paper's figures are read off its chart, to about 5 points.";
const varlen =
  "FlashAttention-2 as PyTorch ships it, over contiguous keys of varying lengths; the paper took " +
  "FlashAttention 3 on the H100.";

export const decodeTable: PaperTable = {
  id: "figure8-decode",
  title: "Figure 8, decode: 16 requests, lengths of three kinds",
  unit: "% of the read rate",
  paperOther: "FlashAttention",
  other: "FlashAttention-2",
  asksFlashInfer: true,
  notes: [
    fromChart,
    "Percent of the rate that a plain read reaches here, of the nominal one there.",
    varlen,
  ],
  rows: rows((load, head) => figureOf(decodePercent[3 * load + head]), decode),
};

export const prefillTable: PaperTable = {
  id: "figure8-prefill",
  title: "Figure 8, causal prefill: 16 prompts, lengths of three kinds",
  unit: "% of the matrix product",
  paperOther: "FlashAttention",
  other: "FlashAttention-2",
  asksFlashInfer: true,
  notes: [
    `${fromChart} It does not say of which heads: they stand beside the first.`,
    "Percent of an 8192 x 8192 x 8192 product in bf16 here, of the nominal rate there.",
    varlen,
  ],
  rows: rows((load, head) => (head === 0 ? figureOf(prefillPercent[load]) : null), prefill),
};

async function decode(
  bench: GpuBench,
  { queryHeads, kvHeads }: (typeof heads)[number],
  lengths: number[],
): Promise<Measurement> {
  const queryLengths = lengths.map(() => 1);
  using world = await PagedWorld.create(bench, {
    dtype,
    queryHeads,
    kvHeads,
    lengths,
    queryLengths,
  });
  const percent = (ms: number) => (100 * world.bytes) / ms / 1e6 / bench.ceilings.readGBs;
  return await measured(bench, world, percent);
}

async function prefill(
  bench: GpuBench,
  { queryHeads, kvHeads }: (typeof heads)[number],
  lengths: number[],
): Promise<Measurement> {
  const work = { dtype, queryHeads, kvHeads, lengths, queryLengths: lengths };
  using world = await PagedWorld.create(bench, work);
  const pairs = lengths.reduce((all, length) => all + (length * (length + 1)) / 2, 0);
  const operations = 4 * pairs * queryHeads * dim;
  // Without a peer nobody measured the product: the H200's nominal rate.
  const peak = bench.ceilings.matmulTflops ?? 989;
  return await measured(bench, world, (ms) => (100 * operations) / ms / 1e9 / peak);
}

async function measured(
  bench: GpuBench,
  world: PagedWorld,
  figure: (ms: number) => number,
): Promise<Measurement> {
  const asked = bench.backends.filter((name) => name === "varlen" || name === "flashinfer");
  const some = { ...bench, backends: asked };
  const run = (turn: number) => world.run(turn);
  const { ms, peers } = await besidePeers(some, world.runs, run, world.peerCase, figure);
  const valueOf = (name: string) => peers.find(({ backend }) => backend === name)?.value ?? null;
  const flashinfer = asked.includes("flashinfer") ? valueOf("flashinfer") : undefined;
  return { flashbun: figure(ms), other: valueOf("varlen"), flashinfer };
}
