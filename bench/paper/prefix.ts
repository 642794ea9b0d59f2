import type { GpuBench } from "../gpu/bench.ts";
import { CascadeWorld } from "../gpu/cascade.ts";
import { dtype } from "./shape.ts";
import type { Measurement, PaperTable } from "./table.ts";

const suffix = 128;

/** H100, us: composable formats and a single one, by requests and then tokens of the prefix. */
const paper = [
  { batch: 16, prefix: 1024, figures: [45.2, 46.5] },
  { batch: 16, prefix: 8192, figures: [88.7, 226.6] },
  { batch: 16, prefix: 32_768, figures: [217.4, 945.7] },
  { batch: 64, prefix: 1024, figures: [87.9, 130.5] },
  { batch: 64, prefix: 8192, figures: [125.8, 931.8] },
  { batch: 64, prefix: 32_768, figures: [254.5, 4090] },
];

export const prefixTable: PaperTable = {
  id: "g2-composable-formats",
  title: `G.2, a shared prefix as a level of its own: decode, ${suffix} own keys per request`,
  unit: "us",
  paperOther: "single format",
  other: "one level",
  notes: [
    "32 query and 8 KV heads, pages of 16; the paper does not state its heads, its times fit " +
      "these.",
    "Both sides are this library's. Levels are found from shared pages by cache.sharePrefixes.",
  ],
  rows: paper.map(({ batch, prefix, figures }) => ({
    shape: `prefix ${prefix}, ${batch} requests`,
    paper: { flashinfer: figures[0], other: figures[1] },
    measure: (bench) => measure(bench, batch, prefix),
  })),
};

async function measure(bench: GpuBench, requests: number, prefix: number): Promise<Measurement> {
  using world = new CascadeWorld(bench, { dtype, requests, prefix, own: suffix });
  const other = await world.microseconds(false);
  return { flashbun: await world.microseconds(true), other };
}
