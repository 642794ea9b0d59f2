import { Attention, PagedCache, Tensor } from "../../src/index.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { copiesOf, type GpuBench, runsOf, timeOf } from "../gpu/bench.ts";
import type { Measurement, PaperTable } from "./table.ts";
import { dim, dtype } from "./shape.ts";

const [queryHeads, kvHeads] = [32, 8];
const pageSize = 16;
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
    `${queryHeads} query and ${kvHeads} KV heads, pages of ${pageSize}; the paper does not ` +
      "state its heads, its times fit these.",
    "Both sides are this library's. Levels are found from shared pages by cache.sharePrefixes.",
  ],
  rows: paper.map(({ batch, prefix, figures }) => ({
    shape: `prefix ${prefix}, ${batch} requests`,
    paper: { flashinfer: figures[0], other: figures[1] },
    measure: (bench) => measure(bench, batch, prefix),
  })),
};

async function measure(
  bench: GpuBench,
  fullBatch: number,
  fullPrefix: number,
): Promise<Measurement> {
  const { device, quick } = bench;
  const [batch, prefix, own] = quick ? [2, 64, 16] : [fullBatch, fullPrefix, suffix];
  const bytes = 2 * 2 * (prefix + batch * own) * kvHeads * dim;
  const layers = copiesOf(bench, bytes);
  const shape = { kvHeads, headDim: dim, dtype, layers } as const;
  const pages = Math.ceil(prefix / pageSize) + batch * Math.ceil((own + 1) / pageSize);
  const planes: Tensor[] = [];
  using cache = PagedCache.create(device, {
    ...shape,
    pages,
    pageSize,
    maxSequences: batch + 1,
    storage(layer, { name }) {
      const seed = 2 * layer + (name === "key" ? 0 : 1);
      const plane = [pages, pageSize, kvHeads, dim];
      planes.push(Tensor.randomNormal(device, plane, dtype, { seed }));
      return planes.at(-1)!;
    },
  });
  const parent = cache.sequence();
  grow(cache, [parent], prefix);
  const sequences = Array.from({ length: batch }, () => parent.fork());
  grow(cache, sequences, own - 1);
  const step = grow(cache, sequences, 1);
  const rows = [batch, queryHeads, dim];
  using q = Tensor.randomNormal(device, rows, dtype, { seed: 1000 });
  using out = Tensor.empty(device, rows, dtype);
  const microseconds = async () => {
    using attention = await Attention.create(device, { queryHeads, ...shape, causal: true });
    attention.plan(step);
    const run = (turn: number) => attention.run({ layer: turn % layers, q, cache, out });
    run(0);
    return (await timeOf(bench, runsOf(bench, layers), run)) * 1000;
  };
  const other = await microseconds();
  // Measured whether or not the costs say that it pays.
  cache.sharePrefixes(step, sequences, () => true);
  const flashbun = await microseconds();
  for (const plane of planes) plane[Symbol.dispose]();
  return { flashbun, other };
}

/** Gives each sequence so many tokens more, whose keys are the noise that lies there. */
function grow(cache: PagedCache, sequences: Sequence[], tokens: number) {
  const step = cache.reserve(
    sequences,
    sequences.map(() => tokens),
  );
  if (!step.ok) throw step.error;
  cache.markWritten(step);
  return step;
}
