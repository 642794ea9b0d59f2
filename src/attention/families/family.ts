import type { Device } from "../../device/device.ts";
import type { LaunchTraits } from "../../device/kernel.ts";
import type { OptionError } from "../../errors.ts";
import type { AttentionMapParams, AttentionParams } from "../../ffi/params.gen.ts";
import type { Specialization } from "../../jit/specialization.ts";
import type { CostModel } from "../../plan/cost.ts";
import type { ClassTraits } from "../../plan/traits.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import type { ResolvedOptions } from "../options.ts";

/** What families are chosen by: of a GPU, or of an architecture to compile for; 0 on a CPU. */
export interface DeviceFacts {
  readonly computeMajor: number;
  readonly computeMinor: number;
  /** Shared memory that a block may have, and that a multiprocessor has. */
  readonly sharedBytesPerBlock: number;
  readonly sharedBytesPerProcessor: number;
  /** Multiprocessors of a GPU; absent: those of any of an architecture. */
  readonly processors?: number;
}

/** How a kernel is found and launched. */
export interface KernelSource {
  /** Its name in the library, or in the image. */
  readonly entry: string;
  /** What the image of a GPU is compiled from; a CPU's kernels are in the library. */
  readonly image?: Specialization;
  readonly launch?: LaunchTraits;
}

/** One kernel class: what the planner reads, and the kernel that takes its records. */
export interface KernelClass extends KernelSource, ClassTraits {
  /** How it is found and launched where tiles are few (ClassTraits), if the class says `few`. */
  readonly fewKernel?: KernelSource | undefined;
  /**
   * Encodes tensor maps of what a run bound. A class that has it takes fb_attention_map_params
   * (kernels/params/attention.h) in place of fb_attention_params. A layer's maps of keys and
   * values are kept with the layer: they may depend on nothing but `tensors` and the options.
   */
  readonly bindMaps?: (
    tensors: MappedTensors,
    options: ResolvedOptions,
    maps: AttentionMaps,
  ) => void;
}

/** The tensor maps of a kernel class; those that are not encoded are zeros. */
export type AttentionMaps = Pick<AttentionMapParams, "q" | "k" | "v" | "out">;

/** What tensor maps are made of: checked, with the innermost stride 1. */
export interface MappedTensors {
  /** [tokens, queryHeads, headDim]. */
  readonly q: Tensor;
  /** [tokens, kvHeads, dim], or pages [pages, pageSize, kvHeads, dim]. */
  readonly k: Tensor;
  readonly v: Tensor;
  /** The last elements of keys, where they lie apart; as k. */
  readonly kTail?: Tensor;
  /** [tokens, queryHeads, valueDim]. */
  readonly out: Tensor;
}

/** The kernel that merges the partial states of split rows. */
export interface MergeKernel extends KernelSource {
  /** Items for each merge of a launch of `merges`: they share out its rows. */
  readonly shares: (merges: number, processors: number) => number;
}

/** Kernels for some options on some device: what an attention object is made of. */
export interface KernelOffer {
  /** By rising query tile; classes of other families may be among them. */
  readonly classes: readonly KernelClass[];
  readonly merge: MergeKernel;
  readonly costs: CostModel;
  /** False where the kernels know no windows. */
  readonly windows?: boolean;
  /** Binds what only this family's kernels read; what is returned is freed with the attention. */
  readonly bind?: (device: Device, params: AttentionParams) => Disposable | undefined;
}

/** A family of kernels: the first in the table (table.ts) that makes an offer is taken. */
export interface KernelFamily {
  readonly name: string;
  /** The kernels for these options, or why this family has none for them there. */
  readonly offer: (facts: DeviceFacts, options: ResolvedOptions) => KernelOffer | OptionError;
}
