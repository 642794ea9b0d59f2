import { OptionError } from "../errors.ts";
import { checkRope, type RopeOptions, ropeSchema } from "../ops/rope.ts";
import type { LseBase } from "../ops/states.ts";
import { checkOptions, finite, flag, integer, list, object, oneOf, unchecked } from "../options.ts";
import { type DType, isFp8 } from "../tensor/dtype.ts";
import type { HookName } from "../variant/expression.ts";
import { checkPlaces } from "./places.ts";
import { refuseWideTurns, type RowDims, rowDims } from "./row-dims.ts";
import { requireVariant, type Variant } from "../variant/variant.ts";

/** Fixed sizes for graph capture: addresses and grids then depend on the bucket only. */
export interface GraphOptions {
  maxBatch: number;
  maxQueryTokens: number;
  /**
   * Most new tokens of one request, such as 1 for decode; default maxQueryTokens. A graph of short
   * queries launches fewer kernels.
   */
  maxQueryLength?: number;
  /** Most page columns of a request. */
  maxColumns: number;
  /** Batch sizes to fix grids for, rising; default powers of two up to maxBatch. */
  buckets?: readonly number[];
  /**
   * For steps that share a prefix: rows of all requests are taken together, where kernels can in
   * one launch. Steps without a prefix are right, too, and slower.
   */
  sharedPrefix?: boolean;
}

/** Options of {@link Attention.create}. Unnamed features are off. */
export interface AttentionOptions {
  queryHeads: number;
  kvHeads: number;
  /** Elements of a query or key head: a multiple of 8 up to 576. */
  headDim: number;
  /** Elements of a value head; default headDim. */
  valueDim?: number;
  /** Dtype of queries: f32, f16, bf16 or fp8, which qScale multiplies at run. */
  dtype: DType;
  /** Dtype of keys and values; default dtype. */
  kvDtype?: DType;
  /** Dtype of outputs: of fp8, outScale divides them at run. Default dtype, of fp8 queries bf16. */
  outDtype?: DType;
  /** Query at position p sees keys up to p; without positions the mask is bottom-right. */
  causal?: boolean;
  /** Keys before the query's own position that stay visible; -1: all. */
  windowLeft?: number;
  /** logits = softCap * tanh(logits / softCap); 0: none. */
  softCap?: number;
  /** Factor of q.k; default 1 / sqrt(headDim). */
  scale?: number;
  /** Adds slope[head] * (key position - query position); run takes alibiSlopes. */
  alibi?: boolean;
  /** One logit per head that takes part in the softmax and has no value; run takes sinkLogits. */
  sinks?: boolean;
  /** Bits for pairs with all keys, or with only the last queryLength keys; run takes maskBits. */
  mask?: "none" | "all" | "tail";
  /** Rotates queries and keys while they are read; the cache then holds unrotated keys. */
  rope?: RopeOptions;
  lseBase?: LseBase;
  /** False: output the raw state for a merge elsewhere, without sinks. */
  finalize?: boolean;
  /** A row's bits do not depend on its neighbours in the batch. */
  batchInvariant?: boolean;
  /**
   * Beside fp8 queries: sums of values stay in a GPU's tensor cores, which keep about 14 bits of
   * them, for 16 tiles of keys (2048, beside hooks 1536) before they move to f32, not 5. Faster;
   * where all values have one sign 4 % of a sum may be lost, not 1 %. Where kernels do not multiply
   * fp8 (docs/kernels/hopper.md) it changes nothing. Default false.
   */
  fastAccumulation?: boolean;
  /**
   * Lengths are known only on the device: run takes kvLengths and queryLengths, those of the batch
   * are upper bounds, and kernels trim the keys that the planner cannot.
   */
  deviceLengths?: boolean;
  /**
   * kScale or vScale hold a scale for each token, which a GPU's kernels are compiled for; default:
   * for fp8 keys and values, unless queries are fp8 too. The CPU takes them either way.
   */
  tokenScales?: boolean;
  /**
   * Keys may stand at other positions than their places in the sequence, which a GPU's kernels are
   * compiled for: those given to reserve. Default false. The CPU takes them either way.
   */
  keyPositions?: boolean;
  /** Planes of the cache that hold keys and values; a value may be the head of the key's plane. */
  keyPlane?: string;
  valuePlane?: string;
  /**
   * The last so many elements of a key lie in a tensor of their own, such as MLA's 64 that were
   * rotated: run takes kTail, or the cache has the plane. A multiple of 16; default 0: none.
   */
  keyTail?: number;
  /** That plane of the cache; default "tail". */
  tailPlane?: string;
  /** Values lie in other pages than their keys: run takes valuePageTable. Default false. */
  valuePages?: boolean;
  /**
   * Requests of a batch over pages may have keys and values in no pages, one behind the other, such
   * as a prompt beside decodes: run takes kRagged and vRagged. Default false.
   */
  raggedRows?: boolean;
  graph?: GraphOptions;
  /**
   * How this attention differs from softmax(q k^T) v: what defineVariant made. Define it once and
   * pass the same object; run takes its tensors and scalars as variantInputs.
   */
  variant?: Variant;
  /** Accepted so that one shape object serves cache and attention. */
  layers?: number;
}

const floats = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2"];

/** What each option may be. */
export const schemas = {
  queryHeads: integer(1, 65536),
  kvHeads: integer(1, 65536),
  headDim: { ...integer(8, 576), multipleOf: 8, description: "a multiple of 8 from 8 to 576" },
  valueDim: { ...integer(8, 576), multipleOf: 8, description: "a multiple of 8 from 8 to 576" },
  dtype: oneOf(floats),
  kvDtype: oneOf(floats),
  outDtype: oneOf(floats),
  causal: flag,
  windowLeft: integer(-1),
  softCap: finite(0),
  scale: finite(),
  alibi: flag,
  sinks: flag,
  mask: oneOf(["none", "all", "tail"]),
  rope: ropeSchema,
  lseBase: oneOf(["e", "2"]),
  finalize: flag,
  batchInvariant: flag,
  fastAccumulation: flag,
  deviceLengths: flag,
  tokenScales: flag,
  keyPositions: flag,
  keyPlane: { type: "string", description: "the name of a plane" },
  valuePlane: { type: "string", description: "the name of a plane" },
  keyTail: { ...integer(0, 560), multipleOf: 16, description: "a multiple of 16, below headDim" },
  tailPlane: { type: "string", description: "the name of a plane" },
  valuePages: flag,
  raggedRows: flag,
  graph: object(
    {
      maxBatch: integer(1),
      maxQueryTokens: integer(1),
      maxQueryLength: integer(1),
      maxColumns: integer(1),
      buckets: list(integer(1), "a list of batch sizes"),
      sharedPrefix: flag,
    },
    ["maxBatch", "maxQueryTokens", "maxColumns"],
    "{ maxBatch, maxQueryTokens, maxQueryLength, maxColumns, buckets } in positive integers, " +
      "sharedPrefix true or false",
  ),
  variant: unchecked("a variant, as defineVariant makes it"),
  layers: integer(1, 65536),
};

/**
 * The options with every default filled in; rope, graph and variant have none. Rows of q have
 * queryDim elements and those of out outDim: headDim and valueDim, unless hooks multiply them.
 */
export type ResolvedOptions = Required<
  Omit<AttentionOptions, "rope" | "graph" | "variant" | "layers">
> &
  Pick<AttentionOptions, "rope" | "graph" | "variant"> &
  RowDims;

/** Checks the options and fills the defaults in. Errors: OptionError. */
export function resolveOptions(options: AttentionOptions): ResolvedOptions {
  checkOptions("options", schemas, ["queryHeads", "kvHeads", "headDim", "dtype"], options);
  const { queryHeads, kvHeads, headDim, dtype } = options;
  if (queryHeads % kvHeads !== 0) {
    const fix = "give every KV head the same number of query heads.";
    throw new OptionError("queryHeads", queryHeads, `a multiple of kvHeads (${kvHeads})`, fix);
  }
  if (options.deviceLengths) checkDeviceLengths(options);
  if (options.rope !== undefined) checkRope(options.rope, headDim);
  refuseUnread(options);
  if (options.variant !== undefined) checkVariant(options.variant, options);
  checkPlaces(options);
  const {
    valueDim = headDim,
    kvDtype = dtype,
    outDtype = isFp8(dtype) ? "bf16" : dtype,
    causal = false,
    windowLeft = -1,
    softCap = 0,
    scale = 1 / Math.sqrt(headDim),
    alibi = false,
    sinks = false,
    mask = "none",
    lseBase = "e",
    finalize = true,
    batchInvariant = false,
    fastAccumulation = false,
    deviceLengths = false,
    tokenScales = isFp8(kvDtype) && !isFp8(dtype),
    keyPositions = false,
    keyPlane = "key",
    valuePlane = "value",
    keyTail = 0,
    tailPlane = "tail",
    valuePages = false,
    raggedRows = false,
    rope,
    graph,
    variant,
  } = options;
  const resolved = {
    queryHeads,
    kvHeads,
    headDim,
    valueDim,
    dtype,
    kvDtype,
    outDtype,
    causal,
    windowLeft,
    softCap,
    scale,
    alibi,
    sinks,
    mask,
    lseBase,
    finalize,
    batchInvariant,
    fastAccumulation,
    deviceLengths,
    tokenScales,
    keyPositions,
    keyPlane,
    valuePlane,
    keyTail,
    tailPlane,
    valuePages,
    raggedRows,
    rope,
    graph,
    variant,
  };
  const { queryDim, outDim } = rowDims(resolved);
  // They follow from the rest, and what spreads options may resolve them again.
  const dims = { queryDim: { value: queryDim }, outDim: { value: outDim } };
  return Object.defineProperties(resolved, dims) as ResolvedOptions;
}

/** Refuses what no kernel could read. */
function refuseUnread({ fastAccumulation, dtype, rope }: AttentionOptions): void {
  if (fastAccumulation && !isFp8(dtype)) {
    const fix = "leave it out: sums of other queries' products are f32.";
    throw new OptionError("fastAccumulation", true, "false, but for fp8 queries", fix);
  }
  if (rope?.sections !== undefined) {
    const allowed = "left out: attention turns by one position of a token";
    const fix = "turn queries and keys by applyRope before append.";
    throw new OptionError("rope.sections", rope.sections, allowed, fix);
  }
}

/** Lengths that the plan does not know say neither what a tail is nor where keys stand. */
function checkDeviceLengths({ mask, keyPositions }: AttentionOptions): void {
  if (mask === "tail") {
    const fix = 'use mask "all", or give the lengths with the batch.';
    throw new OptionError("mask", "tail", 'not "tail" with deviceLengths', fix);
  }
  if (keyPositions) {
    const fix = "leave keyPositions out, or give the lengths with the batch.";
    throw new OptionError("keyPositions", true, "false with deviceLengths", fix);
  }
}

/** Whether a variant defines a hook, traced or in CUDA. */
export function hasHook(variant: Variant | undefined, hook: HookName): boolean {
  return variant?.hooks[hook] !== undefined || variant?.cuda?.hooks.includes(hook) === true;
}

/**
 * Options that take the place of hooks: with one of them, a variant may not define the same hook.
 */
const ownHooks = { softCap: ["logits"], alibi: ["logits"], rope: ["query", "key"] } as const;

/** Options that have a meaning only with a softmax. */
const softmaxOptions = ["softCap", "alibi", "sinks"] as const;

/** Refuses options in place of a hook that the variant defines too. */
function checkVariant(variant: Variant, options: AttentionOptions): void {
  requireVariant("variant", variant);
  const { name } = variant;
  if (variant.visible !== undefined && !hasHook(variant, "mask")) {
    const fix = "add mask: keys next to visible ones may be read with them.";
    throw new OptionError("variant", name, "with a mask hook where it has visible()", fix);
  }
  for (const [option, hooks] of Object.entries(ownHooks)) {
    const given = options[option as keyof typeof ownHooks];
    const hook = hooks.find((each) => hasHook(variant, each));
    if (!given || hook === undefined) continue;
    const allowed = `left out: variant ${name} has a ${hook} hook of its own`;
    throw new OptionError(option, given, allowed, `do it in the hook, or remove the hook.`);
  }
  for (const option of variant.softmax ? [] : softmaxOptions) {
    if (!options[option]) continue;
    const allowed = `left out: variant ${name} has no softmax`;
    throw new OptionError(option, options[option], allowed, "do it in the logits hook.");
  }
  refuseWideTurns(variant, options);
}
