import type { CostModel } from "../../plan/cost.ts";
import { type DType, isFp8 } from "../../tensor/dtype.ts";
import type { CudaVariant } from "../../variant/emit-cuda.ts";
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
 * Costs on a GPU, whose tensor cores take the rows of a decode tile in the time that the keys take
 * to arrive. A piece costs what a few tiles do; a merged row is written and read once in f32.
 */
export function cudaCosts(kvDtype: DType): CostModel {
  const pieceKeys = isFp8(kvDtype) ? 128 : 64;
  return { pieceKeys, rowKeys: 0.01, mergeKeys: 4, sharedRowKeys: 64, leastKeys: 64 };
}
