import { OptionError } from "../errors.ts";
import { isMade, made } from "../made.ts";
import { showAs } from "../shown.ts";
import type { HookName, Node, ScalarSpec, TensorSpec } from "./expression.ts";

/**
 * How an attention differs from softmax(q k^T) v: made by defineVariant or defineCudaVariant, given
 * to an attention, and pure data from then on.
 */
export interface Variant {
  readonly name: string;
  readonly tensors: readonly TensorSpec[];
  readonly scalars: readonly ScalarSpec[];
  /** What each hook gives, over its inputs; a hook that is absent changes nothing. */
  readonly hooks: Readonly<Partial<Record<HookName, Node>>>;
  /** False: what the logits hook gives are the weights themselves; hidden pairs weigh 0. */
  readonly softmax: boolean;
  readonly visible: Visible | undefined;
  /** CUDA source instead of, or beside, traced hooks. */
  readonly cuda: CudaSource | undefined;
}

/** A variant as flashbun made it. */
export function madeVariant(variant: Variant): Variant {
  return showAs(made("variant", variant), describeVariant);
}

function describeVariant({ name, tensors, scalars, hooks, cuda, softmax }: Variant): string {
  const inputs = [...tensors, ...scalars].map((spec) => spec.name).join(", ") || "no inputs";
  const parts = [...Object.keys(hooks), ...(cuda?.hooks ?? []).map((hook) => `${hook} in CUDA`)];
  const kind = softmax ? "" : ", without softmax";
  return `Variant ${name}: ${parts.join(", ") || "no hooks"}${kind}; ${inputs}`;
}

/** Throws an OptionError unless `value` is a variant. */
export function requireVariant(option: string, value: Variant | undefined): void {
  if (isMade("variant", value)) return;
  const allowed = "a variant, as defineVariant makes it";
  throw new OptionError(option, value, allowed, "pass what it returned.");
}

/** Hooks written in CUDA C++. */
export interface CudaSource {
  readonly source: string;
  /** The hooks that the source defines. */
  readonly hooks: readonly HookName[];
  /** Where the source was given, for the compiler's messages. */
  readonly place: { readonly file: string; readonly line: number } | undefined;
}

/**
 * Tells the planner which keys a tile of queries may see, narrower than the mask hook could: keys
 * outside of all ranges are never read. The mask still decides about each pair of a range that is
 * not full.
 */
export type Visible = (tile: VisibleTile, ranges: VisibleRanges) => void;

/** Queries that are planned together; the object is reused from call to call. */
export interface VisibleTile {
  /** Index in the batch. */
  readonly request: number;
  /** Positions in the sequence of the first query, and of the last plus one. */
  readonly queryStart: number;
  readonly queryEnd: number;
  /** New tokens and all tokens of the request. */
  readonly queryLength: number;
  readonly kvLength: number;
}

/** Takes the keys of a tile. */
export interface VisibleRanges {
  /**
   * Adds positions [start, end), which some query of the tile may see; ranges ascend and are
   * disjoint.
   *
   * @param full every query of the tile sees all of them: the mask is not evaluated
   */
  add(start: number, end: number, full: boolean): void;
}
