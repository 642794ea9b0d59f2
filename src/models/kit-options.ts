import type { PagedCache } from "../cache/paged-cache.ts";
import type { Communicator } from "../comm/communicator.ts";
import type { Rope } from "../ops/rope.ts";
import type { DType } from "../tensor/dtype.ts";
import type { DecoderShape } from "./shape.ts";

/** What a kit is made of, and the most that a step has. */
export interface KitOptions {
  readonly shape: DecoderShape;
  readonly dtype: DType;
  readonly cache: PagedCache;
  /** By kind: how queries and keys turn. */
  readonly ropes: readonly Rope[];
  /** Most tokens per step. */
  readonly tokenBudget: number;
  /** Most rows per step that want logits. */
  readonly rowsMost: number;
  /** Whether rows beside weights in codes are never rounded. */
  readonly exact: boolean;
  /** Whether bits of a row depend on no other: for all products. */
  readonly invariant: boolean;
  /** True: the rows that want logits get their states alone, see `statesOf` of the kit. */
  readonly statesOnly?: boolean | undefined;
  /** The processes that share the model, which have the rest of each layer. */
  readonly ranks?: Communicator | undefined;
}
