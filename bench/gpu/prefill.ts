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

/** Tokens of a batch in all, unless one prompt has more, and heads x dim, whatever the dims. */
const tokensInAll = 16_384;
const width = 2048;

interface Row {
  /** Of queries, and of keys and values unless `kvDtype` says otherwise. */
  dtype: "bf16" | "f8e4m3";
  kvDtype?: "f8e4m3";
  dim: number;
  /** Of values; default `dim`. */
  valueDim?: number;
  /** Query and KV heads; default as many as fill the width. */
  heads?: readonly [number, number];
  /** Tokens of a sequence. */
  length: number;
  causal: boolean;
  /** 0: ragged. */
  pageSize: number;
}

const lengths = [32_768, 16_384, 8192, 4096, 2048, 1024, 512];

function rows(dims: number[], of: number[], pageSize = 0, over: Partial<Row> = {}): Row[] {
  return dims.flatMap((dim) =>
    of.flatMap((length) =>
      [true, false].map((causal): Row => {
        return { dtype: "bf16", dim, length, causal, pageSize, ...over };
      }),
    ),
  );
}

function batchOf({ length }: Row): number {
  return Math.max(1, tokensInAll / length);
}

function headsOf({ dim, heads = [width / dim, width / dim] }: Row): readonly [number, number] {
  return heads;
}

function caseOf(row: Row): GpuCase {
  const { dtype, kvDtype, dim, valueDim = dim, length, causal, pageSize } = row;
  const [queryHeads, kvHeads] = headsOf(row);
  const layout = pageSize > 0 ? `paged${pageSize}` : "ragged";
  const heads = queryHeads === kvHeads ? `h${queryHeads}` : `h${queryHeads}_${kvHeads}`;
  const dims = valueDim === dim ? `d${dim}` : `d${dim}_${valueDim}`;
  const shape = `b${batchOf(row)}_${heads}_${dims}_s${length}`;
  const keys = kvDtype === undefined ? "" : `_${kvDtype}-keys`;
  const name = `prefill/${dtype}${keys}/${layout}/${shape}_${causal ? "causal" : "full"}`;
  return { name, run: (bench) => prefill(bench, row) };
}

const llama = [64, 8] as const;
const fp8Keys = { kvDtype: "f8e4m3" } as const;

/** The rows that the targets speak of. */
export const prefillCases: GpuCase[] = [
  ...rows([128], [16_384]),
  ...[16, 64, 1].flatMap((pageSize) => rows([128], [16_384], pageSize)),
  ...rows([128], [2048]),
  ...rows([64, 256], [16_384]),
  ...rows([512], [16_384, 2048]),
  ...rows([128], [16_384, 2048], 0, { dtype: "f8e4m3" }),
  ...rows([128], [16_384], 16, { dtype: "f8e4m3" }),
  ...rows([64, 128, 256], [16_384], 0, fp8Keys),
  // Llama 70B, and MLA as prompts compute it.
  ...rows([128], [16_384, 8192, 2048], 0, { heads: llama }),
  ...rows([192], [16_384, 8192, 2048], 0, { valueDim: 128, heads: [16, 16] }),
].map(caseOf);

/** Further shapes. */
export const morePrefillCases: GpuCase[] = [
  ...rows([128], lengths),
  ...rows([128], lengths, 16),
  ...[64, 1].flatMap((pageSize) => rows([128], [4096, 2048], pageSize)),
  ...rows([64, 256], lengths),
  ...rows([64, 256], [16_384], 16),
  ...rows([128], lengths, 0, { heads: llama }),
]
  .map(caseOf)
  .filter(({ name }) => !prefillCases.some((other) => other.name === name));

async function prefill(bench: GpuBench, row: Row): Promise<GpuRow[]> {
  const { dtype, kvDtype = dtype, dim, valueDim = dim, causal, pageSize } = row;
  const paged = pageSize > 0;
  const { device, quick } = bench;
  const length = quick ? 40 : row.length;
  const batch = quick ? Math.min(2, batchOf(row)) : batchOf(row);
  const [queryHeads, kvHeads] = quick ? [2, 2] : headsOf(row);
  // Scales by token are other kernels; these have none.
  const scales = { tokenScales: false };
  const shape = { queryHeads, kvHeads, headDim: dim, valueDim, dtype, kvDtype, causal, ...scales };
  using attention = await Attention.create(device, shape);
  const backend = otherOf(row);
  // The tiled kernels alone have the option.
  const changed = { ...shape, kvDtype: dtype, keyPositions: backend === "tiled" };
  using other = backend === undefined ? undefined : await Attention.create(device, changed);
  const tokens = batch * length;
  const noise = (of: Row["dtype"], heads: number, elements: number, seed: number) =>
    Tensor.randomNormal(device, [tokens, heads, elements], of, { seed });
  using q = noise(dtype, queryHeads, dim, 1);
  using k = noise(kvDtype, kvHeads, dim, 2);
  using v = noise(kvDtype, kvHeads, valueDim, 3);
  using otherK = other && noise(dtype, kvHeads, dim, 2);
  using otherV = other && noise(dtype, kvHeads, valueDim, 3);
  using out = Tensor.empty(device, [tokens, queryHeads, valueDim], "bf16");
  const each = new Array<number>(batch).fill(length);
  const kept = { layers: 1, kvHeads, headDim: dim, valueDim, dtype: kvDtype };
  const pages = paged ? batch * Math.ceil(length / pageSize) : 1;
  const room = { pages, pageSize: Math.max(1, pageSize), maxSequences: batch };
  using cache = PagedCache.create(device, { ...kept, ...room });
  const indptr = Array.from({ length: batch + 1 }, (_, i) => i * length);
  const layout = raggedLayout(indptr, indptr);
  const ragged = createBatch({ queryLengths: each, kvLengths: each, layout });
  other?.plan(ragged);
  if (paged) {
    const step = cache.reserve(
      each.map(() => cache.sequence()),
      each,
    );
    if (!step.ok) throw step.error;
    cache.append({ layer: 0, batch: step, k, v });
    attention.plan(step);
  } else attention.plan(ragged);
  const run = () => attention.run(paged ? { q, cache, out } : { q, k, v, out });
  run();
  const pairs = causal ? (length * (length + 1)) / 2 : length * length;
  const tflops = (milliseconds: number) =>
    (2 * batch * queryHeads * (dim + valueDim) * pairs) / milliseconds / 1e9;
  const tokensOf = { queries: length, keys: length, causal, pageSize, copies: 1 };
  const peerCase = { dtype, kvDtype, batch, queryHeads, kvHeads, dim, valueDim, ...tokensOf };
  const { ms, peers } = await besidePeers(bench, runsOf(bench, 1), run, peerCase, tflops);
  if (backend !== undefined && other !== undefined) {
    const runOther = () => other.run({ q, k: otherK, v: otherV, out });
    runOther();
    const otherMs = await timeOf(bench, runsOf(bench, 1), runOther);
    peers.push(...figuresOf([{ backend, ms: otherMs }], ms, tflops));
  }
  const targets = targetsOf(row);
  const { matmulTflops } = bench.ceilings;
  const ofRoofline = matmulTflops === null ? null : tflops(ms) / matmulTflops;
  const measured = { value: tflops(ms), unit: "TFLOP/s", ofRoofline };
  return [{ name: "", ...measured, ...peerColumns(peers, targets) }];
}

/** Another way of the same work that is measured beside a row, as peers are. */
function otherOf({ dtype, kvDtype, dim, pageSize }: Row): string | undefined {
  if (pageSize > 0) return "ragged";
  if (kvDtype !== undefined) return dtype;
  // Nobody else takes such heads on Hopper.
  return dim > 256 ? "tiled" : undefined;
}

function targetsOf({ dtype, kvDtype, dim, pageSize }: Row): PeerTarget[] {
  if (pageSize > 0) return [{ backend: "ragged", least: pageSize > 1 ? 1 : 0.9 }];
  if (kvDtype !== undefined) return [{ backend: dtype, least: 0.9 }];
  if (dtype !== "bf16" || dim > 256) return [];
  return [{ backend: "cudnn", least: dim === 192 ? 0.9 : 1 }];
}
