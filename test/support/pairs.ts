/** Every option of attention, cache, plan, run and step, and every pair of two of them. */
import { expect } from "bun:test";
import { schemas as attentionSchemas } from "../../src/attention/options.ts";
import { planSchemas } from "../../src/attention/settings.ts";
import { runNames } from "../../src/attention/tensors.ts";
import { schemas as cacheSchemas } from "../../src/cache/options.ts";
import { stepNames } from "../../src/cache/page-list-options.ts";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { reserveOptions } from "../../src/kv/reserve.ts";
import { ropeSchema } from "../../src/ops/rope.ts";
import { defineVariant } from "../../src/variant/define.ts";
import { type Case, caseOf, replayedLengths, yarn } from "./cases.ts";
import { Engine } from "./engine.ts";
import { toAnyWidth } from "./projections.ts";
import { seeded } from "./random.ts";
import { caseOn } from "./targets.ts";
import type { VariantCase } from "./variants.ts";
import { runCase, World } from "./world.ts";

/** A case with what only a world of its own can say. */
export interface PairCase extends Case {
  padTo?: number;
  /** Tokens that the layer's page group keeps before a query. */
  groupWindow?: number;
  /** The cache keeps positions from its first step on. */
  cacheKeyPositions?: boolean;
  /** Requests share a prefix, and the step knows. */
  shared?: boolean;
}

type Over = Partial<PairCase>;

/** The rooms' options, as their schemas name them. */
export const optionNames: readonly string[] = [
  ...Object.keys(attentionSchemas).map((name) => `attention.${name}`),
  ...Object.keys(ropeSchema.properties!).map((name) => `rope.${name}`),
  ...Object.keys(attentionSchemas.graph.properties!).map((name) => `graph.${name}`),
  ...Object.keys(cacheSchemas).map((name) => `cache.${name}`),
  ...Object.keys(planSchemas).map((name) => `plan.${name}`),
  ...runNames.map((name) => `run.${name}`),
  ...reserveOptions.map((name) => `reserve.${name}`),
  ...stepNames.map((name) => `step.${name}`),
];

const distance = defineVariant({
  name: "distance",
  logits: (x, { key, query }) => x.add(key.sub(query).toF32().mul(0.05)),
  mask: ({ key, query }) => query.sub(key).mod(7).ne(3),
});

/** With enough rows of a head for the Hopper kernels of heads of 512. */
const wideHeads: Over = { headDim: 512, valueDim: 512, kvHeads: 1 };
/** Steps of nothing but short prompts, whose rows are many, and of few short requests. */
const shortSteps: readonly Over[] = [
  {
    headDim: 128,
    valueDim: 128,
    kvHeads: 1,
    causal: true,
    queryLengths: [40, 33, 50],
    kvLengths: [40, 60, 90],
  },
  { headDim: 64, valueDim: 64, kvHeads: 1, queryLengths: [1, 2], kvLengths: [300, 40] },
];
const latent: Over = { latent: true, valueDim: 24 };
const sharing: Over = { shared: true };
const clamped: Over = { deviceLengths: true };
const callers: Over = { callers: true };

/**
 * What varies an option: cases that differ from the plain one by it, none where it is said by
 * another option or has no say in what attention computes.
 */
export const variations: Readonly<Record<string, readonly Over[]>> = {
  "attention.queryHeads": [{ queryHeads: 6 }],
  "attention.kvHeads": [{ kvHeads: 1 }],
  "attention.headDim": [{ headDim: 64 }, wideHeads, ...shortSteps],
  "attention.valueDim": [{ valueDim: 24 }],
  "attention.dtype": [
    { dtype: "f16" },
    { dtype: "bf16" },
    { dtype: "f8e4m3" },
    { dtype: "f8e5m2" },
  ],
  "attention.kvDtype": [
    { kvDtype: "f16" },
    { kvDtype: "bf16" },
    { kvDtype: "f8e4m3" },
    { kvDtype: "f8e5m2" },
  ],
  "attention.outDtype": [{ outDtype: "f16" }, { outDtype: "bf16" }, { outDtype: "f8e5m2" }],
  "attention.causal": [{ causal: true }],
  "attention.windowLeft": [{ windowLeft: 7 }],
  "attention.softCap": [{ softCap: 5 }],
  "attention.scale": [{ scale: 0.1 }],
  "attention.alibi": [{ alibi: true }],
  "attention.sinks": [{ sinks: true }],
  "attention.mask": [{ mask: "all" }, { mask: "tail" }],
  "attention.rope": [{ rope: { theta: 1e4, interleaved: false } }],
  "attention.lseBase": [{ lseBase: "2" }],
  "attention.finalize": [{ finalize: false }],
  "attention.batchInvariant": [{ batchInvariant: true }],
  "attention.fastAccumulation": [{ dtype: "f8e4m3", fastAccumulation: true }],
  "attention.deviceLengths": [clamped],
  "attention.tokenScales": [
    { tokenScales: true },
    { kvDtype: "f8e4m3", tokenScales: false }, // not their default
  ],
  "attention.keyPositions": [{ keyPositions: true }],
  "attention.keyPlane": [latent],
  "attention.valuePlane": [], // as keyPlane
  "attention.keyTail": [{ keyTail: true }],
  "attention.tailPlane": [], // as keyTail
  "attention.valuePages": [{ valuePages: true, callers: true }],
  "attention.raggedRows": [{ raggedRows: true, callers: true }],
  "attention.graph": [{ graph: {} }],
  "attention.variant": [
    { variant: { variant: distance } },
    { variant: toAnyWidth, queryDim: 40, outDim: 48 },
  ],
  "attention.layers": [], // read by nobody
  "rope.theta": [], // the default
  "rope.dim": [{ rope: { first: 6, dim: 20, interleaved: true, scaling: yarn } }],
  "rope.first": [], // as dim, like the next ones
  "rope.interleaved": [],
  "rope.scaling": [],
  "rope.sections": [], // refused alone, like the next one
  "rope.interleavedSections": [],
  "graph.maxBatch": [], // in every graph, like the next ones
  "graph.maxQueryTokens": [],
  "graph.maxColumns": [],
  "graph.maxQueryLength": [{ graph: { maxQueryLength: 20, buckets: [3] } }],
  "graph.buckets": [], // as maxQueryLength
  "graph.sharedPrefix": [{ graph: { sharedPrefix: true }, ...sharing }],
  "cache.layers": [], // how many there are is no other case
  "cache.kvHeads": [], // as attention's, like the next ones
  "cache.headDim": [],
  "cache.valueDim": [],
  "cache.dtype": [],
  "cache.queryHeads": [],
  "cache.pages": [], // sizes
  "cache.maxSequences": [],
  "cache.pageSize": [{ pageSize: 5 }],
  "cache.layout": [{ storage: "HND" }],
  "cache.combined": [{ storage: "combined" }],
  "cache.storage": [{ storage: "strided" }],
  "cache.planes": [], // as attention's keyPlane
  "cache.groups": [{ groupWindow: 12, windowLeft: 12 }],
  "cache.keyPositions": [{ cacheKeyPositions: true }],
  "plan.scale": [{ atPlan: true, scale: 0.12 }],
  "plan.softCap": [{ atPlan: true, softCap: 4 }],
  "plan.windowLeft": [{ atPlan: true, windowLeft: 9 }],
  "run.q": [], // in every case, like the next two
  "run.out": [],
  "run.lse": [],
  "run.k": [{ pageSize: 0 }],
  "run.v": [],
  "run.kTail": [{ pageSize: 0, keyTail: true }],
  "run.kRagged": [], // as raggedRows, like the next one
  "run.vRagged": [],
  "run.pageTable": [callers],
  "run.valuePageTable": [], // as valuePages
  "run.keyPositions": [{ pageSize: 0, keyPositions: true }],
  "run.kScale": (["tensor", "head", "request", "token", "number"] as const).map((scales) => ({
    scales,
  })),
  "run.vScale": [], // as kScale
  "run.qScale": [
    { qScales: "number" },
    ...(["tensor", "head", "token", "both"] as const).map((qScales) => ({
      dtype: "f8e4m3" as const,
      qScales,
    })),
  ],
  "run.outScale": [{ outDtype: "f8e4m3", outScale: 0.02 }],
  "run.cache": [], // in every case, like the next ones
  "run.layer": [],
  "run.batch": [],
  "run.layout": [],
  "run.stream": [],
  "run.variantInputs": [], // as variant
  "run.kvLengths": [], // as attention's deviceLengths, like the next one
  "run.queryLengths": [],
  "run.maskBits": [{ mask: "all", maskDtype: "bool" }],
  "run.maskIndptr": [], // as maskBits, like the next two of alibi and sinks
  "run.alibiSlopes": [],
  "run.sinkLogits": [],
  "reserve.padTo": [{ padTo: 40 }],
  "reserve.positions": [], // as attention's keyPositions
  "step.queryIndptr": [], // in every form, like the next ones, in the caller's cases
  "step.indptr": [],
  "step.indices": [],
  "step.lastPageLength": [],
  "step.kvLengths": [],
  "step.shared": [{ callers: true, ...sharing }],
  "step.share": [sharing],
  "step.writes": [], // what attention reads has been written
  "step.positions": [{ callers: true, keyPositions: true }],
  "step.keyPositions": [], // as positions
  "step.raggedStarts": [], // as raggedRows
  "step.padTo": [{ callers: true, padTo: 40 }],
};

/** Two options that are not used together: what an error says of them. */
export interface Refusal {
  readonly when: (c: PairCase) => boolean;
  readonly says: RegExp;
  /** Default: every device. */
  readonly on?: "cuda";
}

/** All that is refused. */
export const refusals: readonly Refusal[] = [
  {
    when: (c) => c.deviceLengths === true && c.mask === "tail",
    says: /mask must be not "tail" with deviceLengths.*Fix: /s,
  },
  {
    when: (c) => c.deviceLengths === true && c.keyPositions,
    says: /keyPositions must be false with deviceLengths.*Fix: /s,
  },
  {
    when: (c) => c.deviceLengths === true && c.groupWindow !== undefined,
    says: /kvLengths must be left out: the layer's page group frees pages.*Fix: /s,
  },
  {
    when: (c) => c.raggedRows === true && c.keyTail === true,
    says: /raggedRows must be false with keyTail.*Fix: /s,
  },
  {
    when: (c) => c.raggedRows === true && c.keyPositions,
    says: /raggedRows must be false with keyPositions.*Fix: /s,
  },
  {
    when: (c) => c.raggedRows === true && c.scales === "token",
    says: /kScale must be by tensor, head or request.*Fix: /s,
  },
  {
    when: (c) => c.tokenScales === false && c.scales === "token",
    says: /kScale must be by tensor, head or request.*Fix: create with { tokenScales: true }/s,
    on: "cuda",
  },
  {
    when: (c) => c.shared === true && c.scales === "request",
    says: /kScale must be not by request where requests share a level.*Fix: /s,
  },
  {
    when: (c) => c.shared === true && c.batchInvariant,
    says: /batch.layout.levels must be 1 under batchInvariant.*Fix: /s,
  },
  {
    when: (c) => c.keyTail === true && c.rope !== undefined,
    says: /rope must be elements before .*Fix: /s,
  },
  {
    when: (c) => c.variant?.variant === distance && c.softCap > 0,
    says: /softCap must be left out: variant distance has a logits hook.*Fix: /s,
  },
  {
    when: (c) => c.variant?.variant === distance && c.alibi,
    says: /alibi must be left out: variant distance has a logits hook.*Fix: /s,
  },
  {
    when: (c) => c.variant === toAnyWidth && c.rope !== undefined,
    says: /rope must be left out: variant to any width has a query hook.*Fix: /s,
  },
];

/** A pair by the names of its options. */
export interface Pair {
  readonly name: string;
  readonly c: PairCase;
}

/** Every pair of variations of two options, those that say the same twice left out. */
export function pairs(): Pair[] {
  const all = Object.entries(variations).flatMap(([name, list]) =>
    list.map((over) => ({ name, over })),
  );
  const found: Pair[] = [];
  for (const [i, a] of all.entries()) {
    for (const b of all.slice(i + 1)) {
      if (a.name === b.name || contradicts(a.over, b.over)) continue;
      const name = `${a.name} ${say(a.over)} and ${b.name} ${say(b.over)}`;
      const c = plain(name, { ...a.over, ...b.over });
      // Keys that lie in no cache have none to ask.
      if ((c.pageSize === 0 || c.callers) && asksCache(c)) continue;
      // Steps beside rows in no pages share nothing, and ragged ones have no pages.
      const isStep = c.shared === true || c.padTo !== undefined;
      if (isStep && (c.pageSize === 0 || c.raggedRows)) continue;
      if (c.pageSize === 0 && (c.callers || c.storage !== "NHD")) continue;
      found.push({ name, c });
    }
  }
  return found;
}

/** Whether one says of something what the other denies. */
function contradicts(a: Over, b: Over): boolean {
  return (Object.keys(a) as (keyof Over)[]).some((key) => key in b && a[key] !== b[key]);
}

function say(over: Over): string {
  const shown = (key: string, value: unknown) =>
    key === "variant" ? (value as VariantCase).variant.name : value;
  return JSON.stringify(over, shown);
}

/** Tokens of a shared prefix. */
const prefix = 32;
/** Of a cache, for every case and what follows its graph's capture. */
const pages = 140;

/** A step of a decode, a prompt and drafts, of which options are asked one by one. */
function plain(name: string, over: Over): PairCase {
  const lengths = { queryLengths: [1, 20, 3], kvLengths: [37, 20, 50], causal: false };
  const c: PairCase = { ...caseOf(name, lengths), valueDim: 32, ...over };
  if (c.shared) c.kvLengths = c.kvLengths.map((length) => prefix + length);
  // Where several things hold at once, sizes follow.
  if (c.latent) c.valueDim = c.keyTail ? 16 : 24;
  const tokens = c.queryLengths.reduce((sum, count) => sum + count, 0);
  if (c.padTo) c.padTo = Math.max(c.padTo, tokens + 2);
  const { maxQueryLength } = c.graph ?? {};
  if (maxQueryLength)
    c.graph = { ...c.graph, maxQueryLength: Math.max(maxQueryLength, ...c.queryLengths) };
  return c;
}

/** Whether the case asks what only a cache has. */
function asksCache({ groupWindow, cacheKeyPositions, storage }: PairCase): boolean {
  const asks = cacheKeyPositions === true || groupWindow !== undefined;
  return asks || storage === "combined" || storage === "strided";
}

/**
 * Runs a pair against the oracle, where it has sizes of graphs as a captured step, too, and then
 * its replay for another one. Errors: what refused it, or an Error for a wrong result.
 */
function runPair(device: Device, pair: PairCase): void {
  const c = onDevice(device, pair);
  const { padTo, groupWindow: windowLeft, cacheKeyPositions: keyPositions } = c;
  if (c.pageSize === 0 || c.raggedRows) return void runCase(device, c);
  if (c.callers) {
    using engine = new Engine(device, c, { pages }, seeded(c.seed));
    return void engine.run({ prefix: c.shared ? prefix : 0, padTo });
  }
  using world = new World(device, c, { pages, windowLeft, keyPositions });
  if (!c.shared) return void world.run({ padTo });
  const parent = world.create();
  world.grow([parent], [prefix]);
  const all = c.kvLengths.map(() => world.fork(parent));
  const own = c.kvLengths.map((length, i) => length - prefix - c.queryLengths[i]);
  world.grow(all, own);
  // A group with a window may have freed what they shared.
  const options = { padTo, share: windowLeft === undefined || ("perhaps" as const) };
  world.step(all, c.queryLengths, options);
  if (c.graph !== undefined) world.step(all, replayedLengths(c), options);
}

/** Heads of which Hopper takes all rows of a step with a shared prefix in one launch. */
function onDevice(device: Device, c: PairCase): PairCase {
  if (device.kind === "cpu" || !c.shared || c.headDim !== 32) return c;
  return { ...c, headDim: 128, valueDim: c.valueDim === 32 ? 128 : c.valueDim };
}

/** A pair agrees with the oracle, or is refused as the table says. */
export function checkPair(device: Device, pair: Pair, seed = 1): void {
  const c = { ...pair.c, seed };
  const refusal = refusalOf(device, c);
  if (refusal === undefined) return runPair(device, c);
  let error: unknown;
  try {
    runPair(device, c);
  } catch (thrown) {
    error = thrown;
  }
  expect(error).toBeInstanceOf(OptionError);
  expect((error as Error).message).toMatch(refusal.says);
}

/** The refusal that a case is to meet, if any. */
export function refusalOf(device: Device, c: PairCase): Refusal | undefined {
  const on = { ...c, ...caseOn(device, c) };
  return refusals.find((each) => (each.on ?? device.kind) === device.kind && each.when(on));
}
