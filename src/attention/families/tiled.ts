import { OptionError } from "../../errors.ts";
import { dtypeBytes, isFp8 } from "../../tensor/dtype.ts";
import { ropeRange } from "../../ops/rope.ts";
import type { CudaVariant } from "../../variant/emit-cuda.ts";
import type { HookName } from "../../variant/expression.ts";
import type { ResolvedOptions } from "../options.ts";
import { withProducts } from "../row-dims.ts";
import { cudaVariant } from "../variant/cuda.ts";
import { cudaCosts, cudaMerge, liesApart, operandType, optionConstants } from "./cuda.ts";
import type { DeviceFacts, KernelClass, KernelFamily, KernelOffer } from "./family.ts";
import { shortCluster, type TiledClass, tiledClasses } from "./tiled-classes.ts";

/** The kernels of every GPU from 7.5 up, on warp-wide matrix products (kernels/attention/tiled). */
export const tiled: KernelFamily = { name: "tiled", offer };

/**
 * How much slower the cores multiply rows by matrices than the matrix unit does by keys: f32 beside
 * bf16 on an H100 (67 and 989 TFLOP/s by its data sheet).
 */
const coreProducts = 15;

function offer(facts: DeviceFacts, options: ResolvedOptions): KernelOffer | OptionError {
  const refused = refusedDtypes(facts, options);
  if (refused !== undefined) return refused;
  const { headDim, valueDim, dtype, kvDtype, rope } = options;
  const operands = operandType(options);
  const variant = cudaVariant(options);
  const keysChange = kvDtype !== operands || hasHook(variant, "key");
  const valuesChange = kvDtype !== operands || hasHook(variant, "value");
  const rows = tiledClasses({
    headDim,
    valueDim,
    keysChange,
    valuesChange,
    keysWiden:
      isFp8(kvDtype) &&
      rope === undefined &&
      !hasHook(variant, "key") &&
      !variant?.multiplies.query &&
      whole(headDim),
    valuesWiden:
      isFp8(kvDtype) && variant?.softmax !== false && !hasHook(variant, "value") && whole(valueDim),
    kvElementBytes: dtypeBytes(kvDtype),
    turnedPairs: rope === undefined ? 0 : ropeRange(rope, headDim).dim / 2,
    masked: options.mask !== "none",
    keyPositions: options.keyPositions,
    tokenScales: options.tokenScales,
    plain: !keysChange && !valuesChange && !changesScores(options, variant),
    scalesRows: isFp8(dtype),
    rowWords: variant?.rowWords ?? 0,
    queryDim: variant?.multiplies.query ? options.queryDim : 0,
    multipliesOutputs: variant?.multiplies.output === true,
    keysInTwo: options.keyTail > 0,
    valuePages: options.valuePages,
    shortSteps: variant === undefined && hasShortSteps(facts, options),
    sharedBytesPerBlock: facts.sharedBytesPerBlock,
    sharedBytesPerProcessor: facts.sharedBytesPerProcessor,
  });
  if (rows.length === 0) {
    const allowed = `dims whose tiles fit ${facts.sharedBytesPerBlock} bytes of shared memory`;
    const fix = "use another GPU, or the CPU.";
    return new OptionError("headDim", `${headDim} and valueDim ${valueDim}`, allowed, fix);
  }
  return {
    classes: rows.map((row) => kernelClass(row, options, variant)),
    merge: cudaMerge(variant),
    costs: withProducts(cudaCosts(kvDtype), options, coreProducts),
  };
}

/** Why matrix units do not take the dtypes, if they do not. */
function refusedDtypes(
  { computeMajor, computeMinor }: DeviceFacts,
  options: ResolvedOptions,
): OptionError | undefined {
  const { dtype, kvDtype } = options;
  const operands = operandType(options);
  if (dtype === "f32" || kvDtype === "f32") {
    const option = dtype === "f32" ? "dtype" : "kvDtype";
    const fix = 'use bf16 or f16, or open the "cpu" device.';
    return new OptionError(option, "f32", "f16, bf16 or (keys and values) fp8 on a GPU", fix);
  }
  if (operands === "bf16" && computeMajor < 8) {
    const allowed = `f16 on a GPU of compute capability ${computeMajor}.${computeMinor}`;
    const option = dtype === "bf16" ? "dtype" : "kvDtype";
    return new OptionError(option, "bf16", allowed, "its matrix units know no bf16: take f16.");
  }
  if (kvDtype === operands || isFp8(kvDtype)) return undefined;
  const fix = "keep the cache in the dtype of queries, or in fp8.";
  return new OptionError("kvDtype", kvDtype, `${dtype}, f8e4m3 or f8e5m2 on a GPU`, fix);
}

/**
 * Whether plans may have steps for the class of short requests: of heads for which it was measured,
 * on Hopper, where lengths are known and scores meet nothing but a range of tokens and scales.
 */
function hasShortSteps(facts: DeviceFacts, options: ResolvedOptions): boolean {
  const { headDim, valueDim, queryHeads, kvHeads, graph, deviceLengths, batchInvariant } = options;
  const measured = headDim === valueDim && (headDim === 64 || headDim === 128);
  const known = graph === undefined && !deviceLengths && !batchInvariant;
  const plain = options.mask === "none" && options.rope === undefined && !liesApart(options);
  const fits = 2 * shortCluster * kvHeads <= (facts.processors ?? Infinity);
  const isFew = queryHeads / kvHeads <= 8;
  return facts.computeMajor === 9 && measured && known && plain && fits && isFew;
}

/** Whether rows of fp8 are whole chunks of 16 bytes. */
function whole(dim: number): boolean {
  return dim % 16 === 0;
}

function hasHook(variant: CudaVariant | undefined, hook: HookName): boolean {
  return variant?.hooks.has(hook) === true;
}

/** Whether anything but a position decides what a score counts. */
function changesScores(
  { mask, tokenScales }: ResolvedOptions,
  variant: CudaVariant | undefined,
): boolean {
  if (mask !== "none" || tokenScales || variant?.softmax === false) return true;
  return hasHook(variant, "logits") || hasHook(variant, "mask");
}

function kernelClass(
  row: TiledClass,
  options: ResolvedOptions,
  variant: CudaVariant | undefined,
): KernelClass {
  const { threads, sharedBytes, kernel, few } = row;
  const launch = { threads, sharedBytes, persistent: true, programmatic: true };
  const source = {
    entry: `attention_${kernel}`,
    image: {
      source: `attention/tiled/${kernel}.cu`,
      constants: constantsOf(options, row),
      variant: variant?.attention,
    },
    launch,
  };
  return {
    ...row,
    ...source,
    fewKernel: few && {
      ...source,
      launch: { ...launch, threads: few.threads, sharedBytes: few.sharedBytes },
    },
  };
}

/** What a specialisation of the attention kernels is compiled for. */
function constantsOf(options: ResolvedOptions, row: TiledClass) {
  return {
    ...optionConstants(options),
    ...(options.queryDim === options.headDim ? {} : { FB_QUERY_DIM: options.queryDim }),
    FB_QUERY_TILE: row.queryTile,
    FB_KV_TILE: row.kvTile,
    FB_THREADS: row.threads,
    FB_MIN_BLOCKS: row.few === undefined ? row.blocksPerProcessor : 1,
    ...(row.few === undefined ? {} : { FB_MOST_THREADS: row.few.threads }),
    FB_STAGES: row.stages,
    ...(row.cluster > 1 ? { FB_CLUSTER: row.cluster } : {}),
    ...(row.stepKeys === undefined ? {} : { FB_STEP_KEYS: row.stepKeys }),
    FB_SHARED_BYTES: row.sharedBytes,
  };
}
