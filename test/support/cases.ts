import type { GraphOptions } from "../../src/attention/options.ts";
import type { RopeOptions } from "../../src/ops/rope.ts";
import type { RopeScaling } from "../../src/ops/rope-scaling.ts";
import { type DType, isFp8 } from "../../src/tensor/dtype.ts";
import type { Random } from "./random.ts";
import type { VariantCase } from "./variants.ts";

/** How a page's memory lies; all but NHD have gaps or another order. */
export const storages = ["NHD", "HND", "strided", "combined"] as const;

/** What keys and values are multiplied by while they are read. */
const scaleKinds = ["none", "tensor", "head", "request", "token"] as const;

/** One batch over paged K/V, or ragged when it has no page size, with every option. */
export interface Case {
  name: string;
  seed: number;
  /** New tokens of each request and all its tokens of K/V, the new ones included. */
  queryLengths: number[];
  kvLengths: number[];
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  /** Of rows of queries and of outputs, where the variant multiplies them. */
  queryDim?: number;
  outDim?: number;
  dtype: DType;
  kvDtype: DType;
  outDtype: DType;
  /** 0: ragged K/V. */
  pageSize: number;
  storage: (typeof storages)[number];
  causal: boolean;
  windowLeft: number;
  softCap: number;
  scale: number;
  alibi: boolean;
  sinks: boolean;
  mask: "none" | "all" | "tail";
  /** A mask's dtype: packed, or a byte for each pair. */
  maskDtype: "u8" | "bool";
  rope: (RopeOptions & { interleaved: boolean }) | undefined;
  /** Of a number, what divides outputs is one too. */
  scales: (typeof scaleKinds)[number] | "number";
  /**
   * What fp8 queries are multiplied by; signs: by token, of below 0, of 0 and above in turn. A
   * number multiplies those of any dtype.
   */
  qScales: "none" | "tensor" | "head" | "token" | "both" | "signs" | "number";
  /** What fp8 outputs are divided by; 0: nothing. */
  outScale: number;
  /** Left out: the default, or true where bf16 keys have scales by token. */
  tokenScales?: boolean;
  lseBase: "e" | "2";
  finalize: boolean;
  batchInvariant: boolean;
  /** Sums of fp8 products stay in the tensor cores. */
  fastAccumulation?: boolean;
  /** Values are the first elements of the keys, in the one plane "latent". */
  latent: boolean;
  /** Pages of a block manager of the caller's, not of a cache. */
  callers: boolean;
  /** Window, soft cap and scale are said by each plan: those of the options are others. */
  atPlan: boolean;
  /** Keys, and queries, stand at other positions than their places in the request. */
  keyPositions: boolean;
  /** Some elements, scales, sinks and slopes are NaN or infinite. */
  notFinite: boolean;
  /** The ends of keys lie in a tensor, or plane, of their own. */
  keyTail?: boolean;
  /** Values lie in other pages than their keys. */
  valuePages?: boolean;
  /** Every other request lies in no pages. */
  raggedRows?: boolean;
  /** Lengths are known only on the device, where keys are fewer. */
  deviceLengths?: boolean;
  /** Options of graphs, beside sizes that every case of three requests keeps to. */
  graph?: Partial<GraphOptions>;
  variant?: VariantCase;
}

/** Elements of the end of a key that lies in a tensor of its own; MLA's are 64. */
export function tailDim({ headDim }: Case): number {
  return headDim === 576 ? 64 : 16;
}

/** Whose factor of rotated elements is 1.5. */
export const yarn: RopeScaling = {
  kind: "yarn",
  factor: 4,
  originalPositions: 64,
  attentionFactor: 1.5,
};

const plain: Omit<Case, "name"> = {
  seed: 1,
  queryLengths: [1],
  kvLengths: [17],
  queryHeads: 4,
  kvHeads: 2,
  headDim: 32,
  valueDim: 32,
  dtype: "f32",
  kvDtype: "f32",
  outDtype: "f32",
  pageSize: 16,
  storage: "NHD",
  causal: true,
  windowLeft: -1,
  softCap: 0,
  scale: 0,
  alibi: false,
  sinks: false,
  mask: "none",
  maskDtype: "u8",
  rope: undefined,
  scales: "none",
  qScales: "none",
  outScale: 0,
  lseBase: "e",
  finalize: true,
  batchInvariant: false,
  latent: false,
  callers: false,
  keyPositions: false,
  atPlan: false,
  notFinite: false,
};

/** Elements of a query head as it comes. */
export function queryDimOf({ headDim, queryDim = headDim }: Case): number {
  return queryDim;
}

/** Elements of an output head as it goes. */
export function outDimOf({ valueDim, outDim = valueDim, finalize }: Case): number {
  return finalize ? outDim : valueDim;
}

/** Sizes of the graphs of a case's steps. */
export function graphSizesOf(c: Case): GraphOptions {
  const { queryLengths, kvLengths, pageSize, graph } = c;
  const later = replayedLengths(c);
  const columns = kvLengths.map((length, i) => Math.ceil((length + later[i]) / (pageSize || 1)));
  const tokens = queryLengths.reduce((sum, length) => sum + length, 0);
  const maxBatch = Math.max(4, kvLengths.length);
  // Two rows behind the last token are to stay as they were.
  const sizes = { maxQueryTokens: Math.max(64, tokens + 2), maxColumns: Math.max(64, ...columns) };
  return { maxBatch, ...sizes, ...graph };
}

/** New tokens of the step for which a captured one is replayed: as many, of others. */
export function replayedLengths({ queryLengths }: Case): number[] {
  return [...queryLengths.slice(1), ...queryLengths.slice(0, 1)];
}

/** A plain decode with some fields changed; valueDim follows headDim, kv and out follow dtype. */
export function caseOf(name: string, over: Partial<Case>): Case {
  const { headDim = plain.headDim, dtype = plain.dtype } = over;
  const outDtype = isFp8(dtype) ? "bf16" : dtype;
  return { ...plain, valueDim: headDim, kvDtype: dtype, outDtype, ...over, name };
}

/**
 * The grids: each varies one thing around a batch that mixes lengths. FLASHBUN_TEST_CASES, a
 * pattern of names, picks some, so that kernels of the others are not even compiled.
 */
export function gridCases(): Case[] {
  const wanted = new RegExp(process.env["FLASHBUN_TEST_CASES"] ?? "");
  const grids = [lengthCases, groupCases, dimCases, dtypeCases, optionCases, longCases];
  return grids.flatMap((grid) => grid()).filter(({ name }) => wanted.test(name));
}

/** Empty and single queries, empty KV, lengths around a page's end, full and one-token pages. */
function lengthCases(): Case[] {
  const cases: Case[] = [];
  for (const pageSize of [1, 5, 16, 64]) {
    const ends = [1, pageSize - 1, pageSize, pageSize + 1, 2 * pageSize, 3 * pageSize + 1, 0, 2];
    cases.push(
      caseOf(`decode, page size ${pageSize}`, {
        pageSize,
        kvLengths: ends,
        queryLengths: ends.map((length) => Math.min(1, length)),
      }),
      caseOf(`prefill, page size ${pageSize}`, { pageSize, kvLengths: ends, queryLengths: ends }),
      caseOf(`chunks, page size ${pageSize}`, {
        pageSize,
        storage: "HND",
        kvLengths: [70, 33, pageSize, 64, 90],
        queryLengths: [1, 33, pageSize, 0, 37],
      }),
    );
  }
  const ragged = { pageSize: 0, causal: true };
  cases.push(
    caseOf("ragged, more queries than keys", {
      ...ragged,
      queryLengths: [5, 3, 1, 0, 70],
      kvLengths: [3, 0, 1, 4, 66],
    }),
    caseOf("ragged, not causal", {
      ...ragged,
      causal: false,
      queryLengths: [5, 3, 1, 40],
      kvLengths: [3, 0, 130, 65],
    }),
    caseOf("an empty batch", { queryLengths: [], kvLengths: [] }),
    caseOf("a batch of empty requests", { queryLengths: [0, 0], kvLengths: [0, 5] }),
  );
  return cases;
}

function groupCases(): Case[] {
  const cases: Case[] = [];
  for (let group = 1; group <= 16; group++) {
    cases.push(
      caseOf(`group ${group}`, {
        queryHeads: 2 * group,
        seed: group,
        queryLengths: [1, 3, 20],
        kvLengths: [40, 18, 37],
        pageSize: 5,
      }),
    );
  }
  return cases;
}

/** Head dims from 8 to 576, value dims that differ, and MLA's shape. */
function dimCases(): Case[] {
  const dims = [8, 16, 24, 40, 56, 64, 72, 96, 104, 128, 136, 192, 200, 256, 320, 408, 512, 576];
  const lengths = { queryLengths: [1, 18, 2], kvLengths: [35, 18, 66] };
  const cases = dims.map((headDim) =>
    caseOf(`head dim ${headDim}`, { headDim, kvDtype: "bf16", ...lengths }),
  );
  const pairs = [
    [192, 128],
    [64, 200],
    [8, 576],
    [576, 8],
    [24, 40],
  ];
  for (const [headDim, valueDim] of pairs)
    cases.push(
      caseOf(`head dim ${headDim}, value dim ${valueDim}`, { headDim, valueDim, ...lengths }),
    );
  return cases;
}

function dtypeCases(): Case[] {
  const cases: Case[] = [];
  const floats: DType[] = ["f32", "f16", "bf16"];
  for (const dtype of floats)
    for (const kvDtype of [...floats, "f8e4m3", "f8e5m2"] as DType[])
      for (const outDtype of floats)
        cases.push(
          caseOf(`${dtype} queries, ${kvDtype} KV, ${outDtype} out`, {
            dtype,
            kvDtype,
            outDtype,
            storage: storages[cases.length % storages.length],
            causal: cases.length % 2 === 0,
            headDim: 64,
            queryLengths: [1, 20],
            kvLengths: [70, 33],
          }),
        );
  return cases;
}

/** Each option alone, in decode and in prefill. */
function optionCases(): Case[] {
  const options: [string, Partial<Case>][] = [
    ["not causal", { causal: false }],
    ["window 0", { windowLeft: 0 }],
    ["window 10", { windowLeft: 10 }],
    ["window 10, not causal", { windowLeft: 10, causal: false }],
    ["window beyond all", { windowLeft: 1000 }],
    ["soft cap", { softCap: 5 }],
    ["scale", { scale: 0.4 }],
    ["window, soft cap and scale at plan", { windowLeft: 9, softCap: 4, scale: 0.4, atPlan: true }],
    ["pages of the caller", { callers: true }],
    ["pages of the caller, HND", { callers: true, storage: "HND", scales: "token" }],
    ["ALiBi", { alibi: true }],
    ["sinks", { sinks: true }],
    ["raw state", { sinks: true, finalize: false }],
    ["mask over all keys", { mask: "all", causal: false }],
    ["mask over all keys, causal", { mask: "all" }],
    ["mask over the tail", { mask: "tail", causal: false }],
    ["mask over the tail, window", { mask: "tail", windowLeft: 12 }],
    ["bool mask over all keys", { mask: "all", maskDtype: "bool", causal: false }],
    ["bool mask over the tail", { mask: "tail", maskDtype: "bool" }],
    ["rope", { rope: { dim: 32, interleaved: false, theta: 1e4 } }],
    ["rope, interleaved", { rope: { dim: 32, interleaved: true, theta: 1e4 } }],
    ["rope of some elements", { rope: { dim: 12, interleaved: false, theta: 5e5 } }],
    ["rope of the last elements", { rope: { first: 16, interleaved: false } }],
    ["rope of elements between", { rope: { first: 6, dim: 20, interleaved: true } }],
    ["rope by YaRN", { rope: { dim: 16, interleaved: false, scaling: yarn } }],
    ["LSE of base 2", { lseBase: "2", sinks: true }],
    ["batch invariant", { batchInvariant: true }],
    ["keys in two tensors", { keyTail: true }],
    ["values in pages of their own", { callers: true, valuePages: true }],
    ["rows beside pages", { raggedRows: true }],
    ...positionCases(),
  ];
  for (const scales of scaleKinds)
    for (const kvDtype of ["f8e4m3", "f8e5m2", "bf16"] as const)
      options.push([`${scales} scales, ${kvDtype}`, { scales, kvDtype }]);
  for (const scales of ["none", "tensor", "head", "request"] as const)
    options.push([
      `${scales} scales, f8e4m3, no tokenScales`,
      { scales, kvDtype: "f8e4m3", tokenScales: false },
    ]);
  options.push(...fp8Cases());
  const cases = options.flatMap(([name, over]) => [
    caseOf(`decode: ${name}`, { queryLengths: [1, 1, 1], kvLengths: [37, 1, 80], ...over }),
    caseOf(`prefill: ${name}`, { queryLengths: [40, 3, 33], kvLengths: [40, 50, 65], ...over }),
    caseOf(`ragged: ${name}`, {
      pageSize: 0,
      queryLengths: [7, 1],
      kvLengths: [20, 66],
      ...over,
    }),
  ]);
  const needsPages = (c: Case) => c.valuePages === true || c.raggedRows === true;
  return cases.filter((c) => c.pageSize > 0 || !needsPages(c));
}

/** Queries, and outputs, in fp8. */
function fp8Cases(): [string, Partial<Case>][] {
  const e4m3 = { dtype: "f8e4m3", kvDtype: "f8e4m3" } as const;
  return [
    ["fp8 queries", { ...e4m3, qScales: "tensor" }],
    ["fp8 queries, scales by head", { ...e4m3, qScales: "head", scales: "head", sinks: true }],
    ["fp8 queries, scales by token", { ...e4m3, qScales: "token", softCap: 5 }],
    ["fp8 queries of e5m2, scales by both", { dtype: "f8e5m2", qScales: "both", alibi: true }],
    ["fp8 queries, token scales", { ...e4m3, tokenScales: true, scales: "token", headDim: 64 }],
    ["fp8 queries beside bf16", { dtype: "f8e4m3", kvDtype: "bf16", qScales: "both", headDim: 40 }],
    ["fp8 queries, rope", { ...e4m3, rope: { interleaved: false, theta: 1e4 }, qScales: "both" }],
    ["fp8 queries, sums that move seldom", { ...e4m3, fastAccumulation: true, qScales: "both" }],
    ["fp8 outputs", { outDtype: "f8e4m3", outScale: 0.02 }],
    ["fp8 outputs of e5m2", { outDtype: "f8e5m2", kvDtype: "f8e4m3", sinks: true }],
    ["fp8 outputs that saturate", { ...e4m3, outDtype: "f8e4m3", outScale: 1e-3 }],
  ];
}

/** Keys at positions of their own, beside what reads positions or places. */
function positionCases(): [string, Partial<Case>][] {
  const beside: [string, Partial<Case>][] = [
    ["causal", {}],
    ["window", { windowLeft: 9, causal: false }],
    ["ALiBi", { alibi: true, causal: false }],
    ["rope", { rope: { dim: 32, interleaved: false, theta: 1e4 }, causal: false }],
    ["masks over all keys", { mask: "all", windowLeft: 20 }],
    ["masks over the tail", { mask: "tail" }],
    ["scales by token", { scales: "token", kvDtype: "f8e4m3", headDim: 256, mask: "tail" }],
    ["batch invariant", { batchInvariant: true }],
  ];
  return beside.map(([name, over]) => [`key positions, ${name}`, { keyPositions: true, ...over }]);
}

/** Long rows, which the planner splits, and one row far longer than its neighbours. */
function longCases(): Case[] {
  const heads = { queryHeads: 4, kvHeads: 1, headDim: 64 };
  return [
    caseOf("one long row", { ...heads, queryLengths: [1], kvLengths: [6000] }),
    caseOf("one long row, all options", {
      ...heads,
      queryLengths: [1],
      kvLengths: [5000],
      sinks: true,
      softCap: 20,
      alibi: true,
      kvDtype: "f8e4m3",
      scales: "token",
      rope: { dim: 64, interleaved: false, theta: 1e4 },
    }),
    caseOf("a long row among short ones", {
      ...heads,
      queryLengths: [1, 1, 1, 9],
      kvLengths: [4000, 3, 90, 300],
    }),
    ...(["bf16", "f8e4m3", "f32"] as const).map((kvDtype) =>
      caseOf(`long rows of many heads in ${kvDtype}`, {
        queryHeads: 24,
        kvHeads: 8,
        headDim: 128,
        kvDtype,
        sinks: true,
        windowLeft: 1500,
        queryLengths: [1, 1, 2],
        kvLengths: [2000, 1, 1100],
      }),
    ),
    caseOf("a long prefill", { ...heads, queryLengths: [300], kvLengths: [900], dtype: "bf16" }),
    caseOf("a raw state of a split row", {
      ...heads,
      queryLengths: [2],
      kvLengths: [4000],
      finalize: false,
      sinks: true,
      lseBase: "2",
    }),
  ];
}

/** A random case over every option; the seed of `random` names it. */
export function randomCase(random: Random): Case {
  const scales = random.chance(0.4) ? random.pick(scaleKinds) : "none";
  const group = random.integer(1, 16);
  const kvHeads = random.integer(1, group > 8 ? 2 : 3);
  const headDim = 8 * random.integer(1, random.chance(0.2) ? 72 : 20);
  const pageSize = random.pick([0, 1, 5, 16, 64]);
  const kvDtype = random.pick<DType>(["f32", "f16", "bf16", "f8e4m3", "f8e5m2"]);
  const rope = random.chance(0.3) ? randomRope(random, headDim) : undefined;
  const queryLengths: number[] = [];
  const kvLengths: number[] = [];
  for (let r = random.integer(1, 5); r > 0; r--) {
    const queries = random.pick([0, 1, 1, 1, random.integer(2, 8), random.integer(9, 40)]);
    const history = random.pick([0, 1, random.integer(2, 30), random.integer(31, 200)]);
    queryLengths.push(queries);
    const outnumbered = pageSize === 0 && random.chance(0.2);
    kvLengths.push(outnumbered ? history : queries + history);
  }
  const c = caseOf(`SEED=${random.seed}`, {
    seed: random.seed,
    queryLengths,
    kvLengths,
    queryHeads: group * kvHeads,
    kvHeads,
    headDim,
    pageSize,
    kvDtype,
    rope,
    valueDim: random.chance(0.3) ? 8 * random.integer(1, 20) : headDim,
    dtype: random.pick<DType>(["f32", "f16", "bf16", "f8e4m3", "f8e5m2"]),
    outDtype: random.pick<DType>(["f32", "f16", "bf16", "f8e4m3", "f8e5m2"]),
    storage: random.pick(storages),
    causal: random.chance(0.7),
    windowLeft: random.chance(0.3) ? random.integer(0, 100) : -1,
    softCap: random.chance(0.3) ? random.integer(2, 30) : 0,
    scale: random.chance(0.2) ? (0.3 + 1.5 * random.next()) / Math.sqrt(headDim) : 0,
    alibi: random.chance(0.3),
    sinks: random.chance(0.3),
    mask: random.pick(["none", "none", "all", "tail"]),
    maskDtype: random.pick(["u8", "bool"]),
    scales,
    ...(isFp8(kvDtype) && scales !== "token" && random.chance(0.5) ? { tokenScales: false } : {}),
    lseBase: random.pick(["e", "2"]),
    finalize: random.chance(0.8),
    batchInvariant: random.chance(0.2),
    keyPositions: random.chance(0.2),
    notFinite: random.chance(0.3),
    atPlan: random.chance(0.3),
    callers: random.chance(0.3),
    qScales: random.pick(["none", "tensor", "head", "token", "both"]),
    outScale: random.chance(0.5) ? 0.1 : 0,
  });
  return { ...c, ...randomPlaces(random, c) };
}

/** Scales as numbers, captured steps, and where keys, values and lengths are. */
function randomPlaces(random: Random, c: Case): Partial<Case> {
  const { pageSize, keyPositions, rope, headDim, scales } = c;
  const more: Partial<Case> = {};
  if (scales === "tensor" && random.chance(0.5)) more.scales = "number";
  if (random.chance(0.2)) more.qScales = "number";
  // Queries before position 0 have no rotation.
  const known = keyPositions || c.mask === "tail" || rope !== undefined;
  if (!known && random.chance(0.2)) more.deviceLengths = true;
  if (rope === undefined && headDim > 16 && random.chance(0.15)) more.keyTail = true;
  if (pageSize === 0) return more;
  if (random.chance(0.3)) more.graph = {};
  const alone = more.keyTail === true || keyPositions || scales === "token";
  if (!alone && random.chance(0.15)) return { ...more, callers: true, raggedRows: true };
  if (c.callers && random.chance(0.3)) more.valuePages = true;
  return more;
}

function randomRope(random: Random, headDim: number): Case["rope"] {
  const first = random.chance(0.5) ? 0 : random.integer(0, headDim - 2);
  const dim = 2 * random.integer(1, Math.floor((headDim - first) / 2));
  const scaling = random.chance(0.5) ? { scaling: yarn } : {};
  return { first, dim, interleaved: random.chance(0.5), theta: 1e4, ...scaling };
}
