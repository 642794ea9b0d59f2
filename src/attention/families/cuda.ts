import { type RopeOptions, ropeRange } from "../../ops/rope.ts";
import type { CostModel } from "../../plan/cost.ts";
import { type DType, dtypeCode, isFp8 } from "../../tensor/dtype.ts";
import type { CudaVariant } from "../../variant/emit-cuda.ts";
import type { ResolvedOptions } from "../options.ts";
import type { MergeKernel } from "./family.ts";

const mergeThreads = 128;
/** How blocks share the rows of merges. */
interface MergeShares {
  /** Blocks of one merge, at most. */
  readonly most: number;
  /** Blocks of all merges, for each multiprocessor. */
  readonly blocksPerProcessor: number;
}

/** The merge of every family of a GPU: what they leave of split rows looks alike. */
export function cudaMerge(
  variant: CudaVariant | undefined,
  { most, blocksPerProcessor }: MergeShares = { most: 16, blocksPerProcessor: 4 },
): MergeKernel {
  return {
    entry: "attention_merge",
    image: {
      source: "attention/merge.cu",
      constants: { FB_THREADS: mergeThreads },
      variant: variant?.merge,
    },
    launch: { threads: mergeThreads, programmatic: true },
    // Few merges are shared by more blocks.
    shares: (merges, processors) => {
      const room = Math.floor((blocksPerProcessor * processors) / merges);
      return Math.max(1, Math.min(most, room));
    },
  };
}

/**
 * What queries are multiplied as: themselves, or of fp8 as keys are; f16 holds all of fp8, and its
 * probabilities are finer than those of bf16.
 */
export function operandType({ dtype, kvDtype }: ResolvedOptions): DType {
  if (!isFp8(dtype)) return dtype;
  return isFp8(kvDtype) ? "f16" : kvDtype;
}

/** The constants that options give every attention kernel; its class adds how it is cut. */
export function optionConstants(options: ResolvedOptions) {
  const { headDim, valueDim, dtype, outDtype, kvDtype, mask, rope } = options;
  const tokenScale = options.tokenScales ? 1 : 0;
  return {
    FB_KEY_DIM: headDim,
    FB_VALUE_DIM: valueDim,
    FB_Q_TYPE: dtypeCode(operandType(options)),
    ...(isFp8(dtype) ? { FB_QUERY_TYPE: dtypeCode(dtype) } : {}),
    FB_KV_TYPE: dtypeCode(kvDtype),
    FB_OUT_TYPE: dtypeCode(outDtype),
    FB_MASK: mask === "none" ? 0 : 1,
    ...ropeConstants(rope, headDim),
    FB_K_TOKEN_SCALE: tokenScale,
    FB_V_TOKEN_SCALE: tokenScale,
    FB_DEVICE_LENGTHS: options.deviceLengths ? 1 : 0,
    FB_KEY_POSITIONS: options.keyPositions ? 1 : 0,
    ...(options.keyTail > 0 ? { FB_KEY_TAIL: options.keyTail } : {}),
    ...(options.valuePages ? { FB_VALUE_PAGES: 1 } : {}),
    ...(options.raggedRows ? { FB_RAGGED_ROWS: 1 } : {}),
  };
}

function ropeConstants(rope: RopeOptions | undefined, headDim: number): Record<string, number> {
  if (rope === undefined) return { FB_ROPE: 0 };
  const { first, dim } = ropeRange(rope, headDim);
  return { FB_ROPE: rope.interleaved ? 2 : 1, FB_ROPE_FIRST: first, FB_ROPE_DIM: dim };
}

/**
 * The first option that more than positions decide about, its value and what is taken: for kernels
 * without hooks (soft-cap and ALiBi are some), mask bits, rotation, token scales, positions of keys
 * or device lengths.
 */
export function beyondPositions(
  options: ResolvedOptions,
): readonly [option: string, value: unknown, allowed: string] | undefined {
  if (options.variant !== undefined) return ["variant", "given", "left out"];
  if (options.softCap !== 0) return ["softCap", options.softCap, "0"];
  if (options.alibi) return ["alibi", true, "false"];
  if (options.mask !== "none") return ["mask", options.mask, "none"];
  if (options.rope !== undefined) return ["rope", "given", "left out"];
  if (options.tokenScales) return ["tokenScales", true, "false"];
  if (options.keyPositions) return ["keyPositions", true, "false"];
  if (options.deviceLengths) return ["deviceLengths", true, "false"];
  return undefined;
}

/**
 * The first option by which keys stand elsewhere than at their places, or keys or values lie
 * elsewhere than in the pages of one tensor each: for kernels of boxes and of ascending positions.
 */
export function liesApart({
  keyPositions,
  keyTail,
  valuePages,
  raggedRows,
}: ResolvedOptions): readonly [option: string, value: unknown, allowed: string] | undefined {
  if (keyPositions) return ["keyPositions", true, "false"];
  if (keyTail > 0) return ["keyTail", keyTail, "0"];
  if (valuePages) return ["valuePages", true, "false"];
  if (raggedRows) return ["raggedRows", true, "false"];
  return undefined;
}

/**
 * Costs on a GPU, whose tensor cores take the rows of a decode tile in the time that the keys take
 * to arrive. A piece costs as much as a step of a block's warps, and has one at least: of fp8 32
 * keys a warp; a merged row is written and read once in f32.
 */
export function cudaCosts(kvDtype: DType): CostModel {
  const step = isFp8(kvDtype) ? 128 : 64;
  return { pieceKeys: step, rowKeys: 0.01, mergeKeys: 4, sharedRowKeys: 64, leastKeys: step };
}
