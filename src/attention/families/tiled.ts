import { OptionError } from "../../errors.ts";
import type { Specialization } from "../../jit/specialization.ts";
import { cudaClasses, type SharedLimits } from "./tiled-classes.ts";
import type { KernelTraits } from "../../plan/traits.ts";
import { dtypeBytes, dtypeCode } from "../../tensor/dtype.ts";
import type { CudaVariant } from "../../variant/emit-cuda.ts";
import type { HookName } from "../../variant/expression.ts";
import { cudaVariant } from "../variant/cuda.ts";
import type { ResolvedOptions } from "../options.ts";

/** File and entry of each class of a GPU, below kernels/attention/tiled. */
const cudaSources: Readonly<Record<string, readonly [string, string]>> = {
  "cuda.decode16": ["decode.cu", "attention_decode"],
  "cuda.wide16": ["prefill.cu", "attention_prefill"],
  "cuda.tile64": ["prefill.cu", "attention_prefill"],
  "cuda.tile128": ["prefill.cu", "attention_prefill"],
};

/** A kernel to load: what it is made of and how it is launched. */
export interface Wanted {
  readonly specialization: Specialization;
  readonly entry: string;
  readonly traits: KernelTraits | undefined;
}

/**
 * The closed set of a GPU's kernels for some options: one a class, then the merge. Errors:
 * OptionError for dtypes that matrix units do not take.
 */
export function wantedKernels(
  limits: SharedLimits,
  options: ResolvedOptions,
): { classes: readonly KernelTraits[]; wanted: readonly Wanted[] } {
  const { headDim, valueDim, dtype, kvDtype, rope } = options;
  if (dtype === "f32" || kvDtype === "f32") {
    const option = dtype === "f32" ? "dtype" : "kvDtype";
    const fix = 'use bf16 or f16, or open the "cpu" device.';
    throw new OptionError(option, "f32", "f16, bf16 or (keys and values) fp8 on a GPU", fix);
  }
  const same = kvDtype === dtype || dtypeBytes(kvDtype) === 1;
  if (!same) {
    const fix = "keep the cache in the dtype of queries, or in fp8.";
    throw new OptionError("kvDtype", kvDtype, `${dtype}, f8e4m3 or f8e5m2 on a GPU`, fix);
  }
  const variant = cudaVariant(options);
  const keysChange = kvDtype !== dtype || rope !== undefined || hasHook(variant, "key");
  const valuesChange = kvDtype !== dtype || hasHook(variant, "value");
  const classes = cudaClasses({
    ...{ headDim, valueDim, keysChange, valuesChange },
    kvElementBytes: dtypeBytes(kvDtype),
    masked: options.mask !== "none",
    plain: !keysChange && !valuesChange && !changesScores(options, variant),
    rowWords: variant?.rowWords ?? 0,
    sharedBytesPerBlock: limits.sharedBytesPerBlock,
    sharedBytesPerProcessor: limits.sharedBytesPerProcessor,
  });
  if (classes.length === 0) {
    const allowed = `dims whose tiles fit ${limits.sharedBytesPerBlock} bytes of shared memory`;
    const fix = "use another GPU, or the CPU.";
    throw new OptionError("headDim", `${headDim} and valueDim ${valueDim}`, allowed, fix);
  }
  const wanted = classes.map((traits): Wanted => {
    const constants = constantsOf(options, traits);
    const [source, entry] = cudaSources[traits.name]!;
    const specialization = {
      ...{ source: `attention/tiled/${source}`, constants },
      variant: variant?.attention,
    };
    return { specialization, entry, traits };
  });
  const merge = { source: "attention/merge.cu", constants: {}, variant: variant?.merge };
  wanted.push({ specialization: merge, entry: "attention_merge", traits: undefined });
  return { classes, wanted };
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

/** What a specialisation of the attention kernels is compiled for. */
function constantsOf(options: ResolvedOptions, traits: KernelTraits) {
  const { headDim, valueDim, dtype, kvDtype, outDtype, rope } = options;
  return {
    FB_QUERY_TILE: traits.queryTile,
    FB_KV_TILE: traits.kvTile,
    FB_THREADS: traits.threads,
    FB_MIN_BLOCKS: traits.blocksPerProcessor,
    FB_STAGES: traits.stages,
    FB_SHARED_BYTES: traits.sharedBytes,
    FB_KEY_DIM: headDim,
    FB_VALUE_DIM: valueDim,
    FB_Q_TYPE: dtypeCode(dtype),
    FB_KV_TYPE: dtypeCode(kvDtype),
    FB_OUT_TYPE: dtypeCode(outDtype),
    FB_MASK: options.mask === "none" ? 0 : 1,
    FB_ROPE: rope === undefined ? 0 : rope.interleaved ? 2 : 1,
    FB_K_TOKEN_SCALE: options.tokenScales ? 1 : 0,
    FB_V_TOKEN_SCALE: options.tokenScales ? 1 : 0,
    FB_DEVICE_LENGTHS: options.deviceLengths ? 1 : 0,
  };
}
