import { Attention, PagedCache, Tensor } from "../../src/index.ts";
import type { Batch } from "../../src/kv/batch.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { type DType, dtypeBytes } from "../../src/tensor/dtype.ts";
import { median } from "../bench.ts";
import type { PeerCase } from "../peers/peer.ts";
import {
  asFlashInfer,
  askPeers,
  besidePeers,
  copiesOf,
  figuresOf,
  type GpuBench,
  type GpuCase,
  type GpuRow,
  peerColumns,
  type PeerTarget,
  recorded,
  replayTimes,
  runsOf,
} from "./bench.ts";

/** Elements of a head where a row does not say. */
export const usualDim = 128;
const pageSize = 16;
/** Pages of room for each request: measured steps go on from its keys. */
const spareColumns = 8;

/** A step of decodes over paged keys and values. */
export interface DecodeShape {
  queryHeads: number;
  kvHeads: number;
  /** Elements of a head. */
  headDim: number;
  /** New tokens of each request. */
  queries: number;
  /** Of queries; default bf16. */
  dtype?: "f8e4m3";
  kvDtype: DType;
  layout: "NHD" | "HND";
  /** Keys of each request. */
  lengths: readonly number[];
  layers: number;
  /** Keys turn as they are read. */
  rope?: boolean;
  /** Sizes are fixed for capture by device.capture. */
  graph?: boolean;
}

/** A cache full of noise, with one decode step reserved and planned. */
export class DecodeWorld implements Disposable {
  readonly cache: PagedCache;
  readonly attention: Attention;
  readonly q: Tensor;
  readonly k: Tensor;
  readonly out: Tensor;
  readonly sequences: Sequence[];
  batch: Batch;
  readonly #newTokens: Int32Array;
  readonly #planes: Tensor[] = [];

  private constructor(
    readonly bench: GpuBench,
    readonly shape: DecodeShape,
    attention: Attention,
  ) {
    const { device } = bench;
    const { queryHeads, kvHeads, headDim, queries, kvDtype, lengths, layers } = shape;
    this.attention = attention;
    const pages = lengths.reduce((sum, keys) => sum + Math.ceil(keys / pageSize) + spareColumns, 0);
    const copies = Math.min(layers, copiesOf(bench, this.layerBytes));
    this.cache = PagedCache.create(device, {
      layers,
      kvHeads,
      headDim,
      dtype: kvDtype,
      pages,
      pageSize,
      maxSequences: lengths.length,
      storage: (layer, { name }) => {
        // Layers beyond the cold copies share what others have.
        const seed = 2 * (layer % copies) + (name === "key" ? 0 : 1);
        const plane = (this.#planes[seed] ??= noisyPlane(device, pages, shape, seed));
        return shape.layout === "HND" ? plane.permute(0, 2, 1, 3) : plane;
      },
    });
    const tokens = lengths.length * queries;
    const noise = (heads: number, seed: number, dtype: DType = "bf16") =>
      Tensor.randomNormal(device, [tokens, heads, headDim], dtype, { seed });
    this.q = noise(queryHeads, 1000, shape.dtype);
    this.k = noise(kvHeads, 1001);
    this.out = Tensor.empty(device, [tokens, queryHeads, headDim], "bf16");
    this.sequences = lengths.map(() => this.cache.sequence());
    this.#newTokens = new Int32Array(lengths.length).fill(queries);
    this.#grow();
    this.batch = this.step();
  }

  /** Compiles, allocates and plans. Errors: CompileError, OutOfMemoryError. */
  static async create(bench: GpuBench, shape: DecodeShape): Promise<DecodeWorld> {
    const { queryHeads, kvHeads, headDim, queries, kvDtype, lengths } = shape;
    const maxBatch = lengths.length;
    const maxColumns = Math.ceil(Math.max(...lengths) / pageSize) + spareColumns;
    const attention = await Attention.create(bench.device, {
      queryHeads,
      kvHeads,
      headDim,
      dtype: shape.dtype ?? "bf16",
      kvDtype,
      outDtype: "bf16",
      causal: true,
      rope: shape.rope ? {} : undefined,
      graph: shape.graph
        ? { maxBatch, maxQueryTokens: maxBatch * queries, maxQueryLength: queries, maxColumns }
        : undefined,
      // Scales by token are another kernel; this one has none.
      tokenScales: false,
    });
    return new DecodeWorld(bench, shape, attention);
  }

  /** Bytes of keys and values that one layer reads. */
  get layerBytes(): number {
    const { lengths, kvHeads, headDim, kvDtype } = this.shape;
    const keys = lengths.reduce((sum, count) => sum + count, 0);
    return 2 * keys * kvHeads * headDim * dtypeBytes(kvDtype);
  }

  /** Reserves and plans the new tokens of each request. */
  step(): Batch {
    const batch = this.cache.reserve(this.sequences, this.#newTokens);
    if (!batch.ok) throw batch.error;
    this.cache.markWritten(batch);
    this.attention.plan(batch);
    return (this.batch = batch);
  }

  /** Takes the last new tokens of each request back. */
  rewind(): void {
    const { queries } = this.shape;
    for (const sequence of this.sequences) sequence.truncate(sequence.length - queries);
  }

  /** Queues a layer's attention. */
  run(layer: number): void {
    this.attention.run({ layer, q: this.q, cache: this.cache, out: this.out });
  }

  /** Queues a layer's append. */
  append(layer: number): void {
    this.cache.append({ layer, batch: this.batch, k: this.k, v: this.k });
  }

  [Symbol.dispose](): void {
    this.attention[Symbol.dispose]();
    this.cache[Symbol.dispose]();
    for (const tensor of [this.q, this.k, this.out, ...this.#planes]) tensor[Symbol.dispose]();
  }

  /**
   * All keys but the new ones: page by page in turn, so that a sequence's pages lie apart. First
   * some more, so that the page table does not grow while steps are measured.
   */
  #grow(): void {
    const { lengths, queries } = this.shape;
    const left = lengths.map((keys) => keys + (spareColumns - 1) * pageSize);
    while (left.some((tokens) => tokens > 0)) {
      const counts = left.map((tokens) => Math.min(tokens, pageSize));
      const batch = this.cache.reserve(this.sequences, counts);
      if (!batch.ok) throw batch.error;
      this.cache.markWritten(batch);
      counts.forEach((count, i) => (left[i] -= count));
    }
    for (const [i, sequence] of this.sequences.entries()) sequence.truncate(lengths[i] - queries);
  }
}

/** Pages of noise, [pages, pageSize, kvHeads, dim] or with heads before tokens. */
function noisyPlane(
  device: GpuBench["device"],
  pages: number,
  { kvHeads, headDim, kvDtype, layout }: DecodeShape,
  seed: number,
): Tensor {
  const heads = layout === "HND" ? [kvHeads, pageSize] : [pageSize, kvHeads];
  return Tensor.randomNormal(device, [pages, ...heads, headDim], kvDtype, { seed });
}

interface Row {
  batch: number;
  heads: readonly [number, number];
  keys: number;
  dim?: number;
  queries?: number;
  dtype?: "f8e4m3";
  kvDtype?: DType;
  layout?: "NHD" | "HND";
  rope?: boolean;
  targets?: readonly PeerTarget[];
  /** Microseconds that XQA of FlashInfer 0.7.2 takes, whose queries become fp8, on an H200. */
  most?: number;
}

const grouped = [32, 8] as const;
const wide = [64, 8] as const;
const nearCudnn: PeerTarget[] = [{ backend: "cudnn", least: 0.9 }, asFlashInfer];

/** In order of importance. */
const first: Row[] = [
  { batch: 64, heads: grouped, keys: 4096, targets: nearCudnn },
  { batch: 64, heads: grouped, keys: 8192, targets: nearCudnn },
  {
    batch: 1,
    heads: grouped,
    keys: 8192,
    targets: [{ backend: "cudnn", least: 1.33 }, asFlashInfer],
  },
  { batch: 64, heads: wide, keys: 4096, targets: nearCudnn },
  { batch: 128, heads: grouped, keys: 8192, targets: nearCudnn },
  { batch: 16, heads: grouped, keys: 1024 },
  { batch: 16, heads: grouped, keys: 8192 },
  { batch: 64, heads: grouped, keys: 1024 },
  { batch: 1, heads: grouped, keys: 1024 },
];

/** By batch, XQA's microseconds by thousands of keys. */
const xqa: [batch: number, times: Record<number, number>][] = [
  [64, { 4: 158, 1: 43.6, 8: 313 }],
  [1, { 1: 6.8, 8: 14.8, 4: 10.1, 32: 42.4 }],
  [128, { 8: 514, 1: 71.9, 4: 259 }],
  [16, { 1: 17.5, 4: 60.7, 8: 117 }],
];
const fp8: Row[] = xqa.flatMap(([batch, times]) =>
  Object.entries(times).map(([thousands, most]): Row => {
    return { batch, heads: grouped, keys: 1024 * Number(thousands), kvDtype: "f8e4m3", most };
  }),
);
/** XQA's own way: queries are fp8, too. */
const fp8Queries = fp8
  .filter(({ batch, keys }) => batch !== 16 && keys > 1024 && keys < 32_768)
  .map((row): Row => ({ ...row, dtype: "f8e4m3" }));

const other: Row[] = [
  { batch: 64, heads: grouped, keys: 4096, dim: 64 },
  { batch: 64, heads: [64, 1], keys: 4096 },
  { batch: 16, heads: [32, 4], keys: 4096, dim: 512 },
  { batch: 64, heads: grouped, keys: 4096, rope: true, targets: [] },
  { batch: 4, heads: grouped, keys: 8192 },
  ...[2, 4, 8].map((queries): Row => ({ batch: 64, heads: grouped, keys: 4096, queries })),
];

const rest: Row[] = [
  { batch: 64, heads: grouped, keys: 4096, layout: "HND" },
  ...[1, 16, 64, 128].flatMap((batch) =>
    [grouped, wide].flatMap((heads) =>
      [1024, 4096, 8192].map((keys): Row => {
        const targets = batch >= 64 && keys >= 4096 ? nearCudnn : undefined;
        return { batch, heads, keys, targets };
      }),
    ),
  ),
];

function nameOf(row: Row): string {
  const { batch, heads, keys, dim = usualDim, queries = 1, kvDtype = "bf16" } = row;
  const shape = `b${batch}_h${heads.join("_")}_d${dim}_kv${keys}_p${pageSize}`;
  const drafts = queries === 1 ? "" : `_q${queries}`;
  const options = `${row.layout === "HND" ? "_hnd" : ""}${row.rope ? "_rope" : ""}`;
  const dtype = row.dtype === undefined ? "" : `_${row.dtype}-queries`;
  return `decode/${kvDtype}${dtype}/${shape}${drafts}${options}`;
}

function caseOf(row: Row): GpuCase {
  return { name: nameOf(row), run: (bench) => decode(bench, row) };
}

/** The rows that the targets speak of. */
export const decodeCases: GpuCase[] = [
  ...first.map(caseOf),
  { name: `decode/bf16/zipf_b64_h32_8_d${usualDim}_kv4096_p${pageSize}`, run: skewed },
  ...fp8.map(caseOf),
  ...other.map(caseOf),
  ...fp8Queries.map(caseOf),
];

/** Further shapes. */
export const moreDecodeCases: GpuCase[] = rest
  .filter((row) => !first.some((known) => nameOf(known) === nameOf(row)))
  .map(caseOf);

async function decode(bench: GpuBench, row: Row): Promise<GpuRow[]> {
  const { dim = usualDim, queries = 1, kvDtype = "bf16", layout = "NHD" } = row;
  const { targets = [asFlashInfer] } = row;
  const [queryHeads, kvHeads] = row.heads;
  const batch = bench.quick ? Math.min(2, row.batch) : row.batch;
  const keys = bench.quick ? 80 : row.keys;
  const lengths = new Array<number>(batch).fill(keys);
  const layerBytes = 2 * batch * keys * kvHeads * dim * dtypeBytes(kvDtype);
  const layers = copiesOf(bench, layerBytes);
  using world = await DecodeWorld.create(bench, {
    queryHeads,
    kvHeads,
    headDim: dim,
    queries,
    dtype: row.dtype,
    kvDtype,
    layout,
    rope: row.rope,
    lengths,
    layers,
  });
  world.run(0);
  const peerCase: Omit<PeerCase, "seconds"> = {
    dtype: row.dtype ?? "bf16",
    kvDtype,
    batch,
    queryHeads,
    kvHeads,
    dim,
    queries,
    keys,
    causal: queries > 1,
    pageSize,
    copies: layers,
  };
  const gbs = (milliseconds: number) => layerBytes / milliseconds / 1e6;
  const { ms, peers } = await besidePeers(
    bench,
    runsOf(bench, layers),
    (run) => world.run(run % layers),
    peerCase,
    gbs,
  );
  const ofRoofline = gbs(ms) / bench.ceilings.readGBs;
  const columns = peerColumns(peers, targets);
  const figure = { name: "", value: gbs(ms), unit: "GB/s", ofRoofline, ...columns };
  if (row.most === undefined) return [figure];
  const us = ms * 1000;
  const target = `${us.toFixed(1)} us, at most ${row.most} (XQA)`;
  return [{ ...figure, target, met: us <= row.most }];
}

/** Lengths by Zipf's law, against as many requests of one length and the same keys in all. */
async function skewed(bench: GpuBench): Promise<GpuRow[]> {
  const [batch, keys] = bench.quick ? [3, 80] : [64, 4096];
  const total = batch * keys;
  const harmonic = Array.from({ length: batch }, (_, i) => 1 / (i + 1));
  const sum = harmonic.reduce((all, part) => all + part, 0);
  const lengths = harmonic.map((part) => Math.max(1, Math.round((total * part) / sum)));
  const [queryHeads, kvHeads] = grouped;
  const heads = { queryHeads, kvHeads, headDim: usualDim, queries: 1 };
  const common = { ...heads, kvDtype: "bf16", layout: "NHD", layers: 2 } as const;
  using zipf = await DecodeWorld.create(bench, { ...common, lengths });
  const even = new Array<number>(batch).fill(keys);
  using uniform = await DecodeWorld.create(bench, { ...common, lengths: even });
  const rates: number[][] = [[], []];
  const worlds = [zipf, uniform];
  for (const world of worlds) world.run(0);
  const runs = runsOf(bench, 2);
  const graphs = worlds.map((world) =>
    recorded(bench.device, () => {
      for (let run = 0; run < runs; run++) world.run(run % 2);
    }),
  );
  // In turn, so that a change of clocks hits both.
  for (let round = 0; round < (bench.quick ? 1 : 4); round++) {
    for (const [i, graph] of graphs.entries()) {
      const times = await replayTimes(bench, graph, bench.seconds / 4);
      rates[i].push(...times.map((ms) => (runs * worlds[i].layerBytes) / ms / 1e6));
    }
  }
  for (const graph of graphs) graph[Symbol.dispose]();
  const [value, evenRate] = rates.map(median);
  const ms = zipf.layerBytes / value / 1e6;
  const answers = await askPeers(bench, {
    dtype: "bf16",
    batch,
    queryHeads,
    kvHeads,
    dim: usualDim,
    queries: 1,
    keys: lengths,
    causal: false,
    pageSize,
    copies: 2,
  });
  const peers = [
    { backend: "uniform", value: evenRate, ratio: value / evenRate },
    ...figuresOf(answers, ms, (time) => zipf.layerBytes / time / 1e6),
  ];
  const columns = peerColumns(peers, [{ backend: "uniform", least: 0.95 }, asFlashInfer]);
  const ofRoofline = value / bench.ceilings.readGBs;
  return [{ name: "", value, unit: "GB/s", ofRoofline, ...columns }];
}
