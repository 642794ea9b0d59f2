import { besidePeers, type GpuBench } from "../gpu/bench.ts";
import { PagedWorld, shortened } from "../gpu/paged.ts";
import { dtype } from "./shape.ts";
import type { Measurement, PaperFigure, PaperTable } from "./table.ts";

const heads = 32;
const batch = 16;

/** Of its chart two lengths can be read: percent of bandwidth, fused and not. */
const known = new Map<number, PaperFigure>([
  [255, { flashinfer: 83, other: 35 }],
  [2000, { flashinfer: 50, other: 21 }],
]);

export const ropeTable: PaperTable = {
  id: "figure9-rope",
  title:
    "Figure 9, bottom: decode that rotates keys as it reads them, beside RoPE and then attention",
  unit: "% of the read rate",
  paperOther: "RoPE, FlashAttention",
  other: "RoPE (torch.compile), FlashAttention-2",
  notes: [
    `The cache holds unrotated keys, as StreamingLLM needs. ${batch} requests of equal ` +
      `lengths, MHA ${heads}/${heads}; the paper does not state its batch.`,
    "Both count the bytes of keys and values once, whatever is read and written besides.",
    "The paper's figures are read off its chart.",
  ],
  rows: [255, 511, 1000, 2000].map((length) => ({
    shape: `${length} keys`,
    paper: known.get(length) ?? null,
    measure: (bench: GpuBench) => measure(bench, length),
  })),
};

async function measure(bench: GpuBench, length: number): Promise<Measurement> {
  const lengths = shortened(bench, new Array<number>(batch).fill(length));
  const counts = {
    dtype,
    queryHeads: heads,
    kvHeads: heads,
    lengths,
    queryLengths: lengths.map(() => 1),
  };
  using world = await PagedWorld.create(bench, { ...counts, options: { rope: {} } });
  const percent = (ms: number) => (100 * world.bytes) / ms / 1e6 / bench.ceilings.readGBs;
  const unfused = { ...bench, backends: bench.backends.filter((name) => name === "rope-flash") };
  const run = (turn: number) => world.run(turn);
  const { ms, peers } = await besidePeers(unfused, world.runs, run, world.peerCase, percent);
  return { flashbun: percent(ms), other: peers.at(0)?.value ?? null };
}
