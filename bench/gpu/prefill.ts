import { Attention, createBatch, PagedCache, raggedLayout, Tensor } from "../../src/index.ts";
import {
  besidePeers,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  peerColumns,
  figuresOf,
  type PeerTarget,
  runsOf,
  timeOf,
} from "./bench.ts";

/** Tokens of a batch in all, and heads x dim, whatever the lengths and dims. */
const tokensInAll = 16_384;
const width = 2048;
const pageSize = 16;

interface Row {
  /** Of queries, keys and values. */
  dtype: "bf16" | "f8e4m3";
  dim: number;
  /** Of values; default `dim`. */
  valueDim?: number;
  /** Query and KV heads; default as many as fill the width. */
  heads?: readonly [number, number];
  /** Tokens of a sequence. */
  length: number;
  causal: boolean;
  paged: boolean;
}

const lengths = [16_384, 8192, 4096, 2048, 1024, 512];

function rows(dims: number[], of: number[], paged: boolean, dtype: Row["dtype"] = "bf16"): Row[] {
  return dims.flatMap((dim) =>
    of.flatMap((length) => [true, false].map((causal) => ({ dtype, dim, length, causal, paged }))),
  );
}

function headsOf({ dim, heads = [width / dim, width / dim] }: Row): readonly [number, number] {
  return heads;
}

function caseOf(row: Row): GpuCase {
  const { dtype, dim, valueDim = dim, length, causal, paged } = row;
  const [queryHeads, kvHeads] = headsOf(row);
  const layout = paged ? `paged${pageSize}` : "ragged";
  const heads = queryHeads === kvHeads ? `h${queryHeads}` : `h${queryHeads}_${kvHeads}`;
  const dims = valueDim === dim ? `d${dim}` : `d${dim}_${valueDim}`;
  const shape = `b${tokensInAll / length}_${heads}_${dims}_s${length}`;
  const name = `prefill/${dtype}/${layout}/${shape}_${causal ? "causal" : "full"}`;
  return { name, run: (bench) => prefill(bench, row) };
}

/** The rows that the targets speak of. */
export const prefillCases: GpuCase[] = [
  ...rows([128], [16_384], false),
  ...rows([128], [16_384], true),
  ...rows([128], [2048], false),
  ...rows([64, 256], [16_384], false),
  ...rows([512], [16_384, 2048], false),
  ...rows([128], [16_384, 2048], false, "f8e4m3"),
  ...rows([128], [16_384], true, "f8e4m3"),
  // Llama 70B, and MLA as prompts compute it.
  ...rows([128], [16_384, 8192, 2048], false).map((row) => ({ ...row, heads: [64, 8] as const })),
  ...rows([192], [16_384, 8192, 2048], false).map((row) => {
    return { ...row, valueDim: 128, heads: [16, 16] as const };
  }),
].map(caseOf);

/** Further shapes. */
export const morePrefillCases: GpuCase[] = [
  ...rows([128], lengths, false),
  ...rows([128], lengths, true),
  ...rows([64, 256], lengths, false),
  ...rows([64, 256], [16_384], true),
]
  .map(caseOf)
  .filter(({ name }) => !prefillCases.some((other) => other.name === name));

async function prefill(bench: GpuBench, row: Row): Promise<GpuRow[]> {
  const { dtype, dim, valueDim = dim, causal, paged } = row;
  const { device, quick } = bench;
  const length = quick ? 40 : row.length;
  const batch = quick ? Math.min(2, tokensInAll / row.length) : tokensInAll / row.length;
  const [queryHeads, kvHeads] = quick ? [2, 2] : headsOf(row);
  const shape = { queryHeads, kvHeads, headDim: dim, valueDim, dtype };
  using attention = await Attention.create(device, { ...shape, causal });
  // Nobody else takes such heads on Hopper: the tiled kernels do, which alone have the option.
  const besideTiled = dim > 256 && !paged;
  using tiled = besideTiled
    ? await Attention.create(device, { ...shape, causal, keyPositions: true })
    : undefined;
  const tokens = batch * length;
  const noise = (heads: number, elements: number, seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, elements], dtype, { seed });
  using q = noise(queryHeads, dim, 1);
  using k = noise(kvHeads, dim, 2);
  using v = noise(kvHeads, valueDim, 3);
  using out = Tensor.empty(device, [tokens, queryHeads, valueDim], "bf16");
  const each = new Array<number>(batch).fill(length);
  const pages = batch * Math.ceil(length / pageSize);
  using cache = PagedCache.create(device, {
    layers: 1,
    kvHeads,
    headDim: dim,
    valueDim,
    dtype,
    pages,
    pageSize,
    maxSequences: batch,
  });
  if (paged) {
    const step = cache.reserve(
      each.map(() => cache.sequence()),
      each,
    );
    if (!step.ok) throw step.error;
    cache.append({ layer: 0, batch: step, k, v });
    attention.plan(step);
  } else {
    const indptr = Array.from({ length: batch + 1 }, (_, i) => i * length);
    const layout = raggedLayout(indptr, indptr);
    const step = createBatch({ queryLengths: each, kvLengths: each, layout });
    attention.plan(step);
    tiled?.plan(step);
  }
  const run = () => attention.run(paged ? { q, cache, out } : { q, k, v, out });
  run();
  const pairs = causal ? (length * (length + 1)) / 2 : length * length;
  const tflops = (milliseconds: number) =>
    (2 * batch * queryHeads * (dim + valueDim) * pairs) / milliseconds / 1e9;
  const peerCase = {
    dtype,
    batch,
    queryHeads,
    kvHeads,
    dim,
    valueDim,
    queries: length,
    keys: length,
    causal,
    copies: 1,
    pageSize: paged ? pageSize : 0,
  };
  const { ms, peers } = await besidePeers(bench, runsOf(bench, 1), run, peerCase, tflops);
  if (tiled !== undefined) {
    tiled.run({ q, k, v, out });
    const other = await timeOf(bench, runsOf(bench, 1), () => tiled.run({ q, k, v, out }));
    peers.push(...figuresOf([{ backend: "tiled", ms: other }], ms, tflops));
  }
  const targets = targetsOf(row);
  const { matmulTflops } = bench.ceilings;
  const ofRoofline = matmulTflops === null ? null : tflops(ms) / matmulTflops;
  const measured = { value: tflops(ms), unit: "TFLOP/s", ofRoofline };
  return [{ name: "", ...measured, ...peerColumns(peers, targets) }];
}

function targetsOf({ dtype, dim, length, paged, heads }: Row): PeerTarget[] {
  if (dtype === "bf16" && dim === 192) return [{ backend: "cudnn", least: 0.9 }];
  if (heads !== undefined) return [{ backend: "cudnn", least: 1 }];
  if (dtype !== "bf16" || dim !== 128 || length !== tokensInAll) return [];
  return [{ backend: "flash", least: paged ? 0.92 : 1 }];
}
