import { OptionError } from "../errors.ts";
import { requireInteger } from "../require.ts";
import type { Visible } from "../variant/variant.ts";
import { type CostModel, requireCosts } from "./cost.ts";
import type { ClassTraits } from "./traits.ts";

/** Graph sizes: what fixes a plan's sections, grids and addresses. */
export interface GraphSizes {
  readonly maxBatch: number;
  readonly maxQueryTokens: number;
  /** Most new tokens of one request; default maxQueryTokens. */
  readonly maxQueryLength?: number;
  readonly maxColumns: number;
  readonly buckets?: readonly number[];
}

/** What a planner is made for; everything else comes with the batch. */
export interface PlannerOptions {
  readonly queryHeads: number;
  readonly kvHeads: number;
  /** Elements of a value head. */
  readonly valueDim: number;
  /** Threads of a CPU, multiprocessors of a GPU. */
  readonly processors: number;
  readonly causal?: boolean;
  /** Keys before a query's own position that it sees; -1: all. */
  readonly windowLeft?: number;
  readonly mask?: "none" | "all" | "tail";
  readonly batchInvariant?: boolean;
  /** Lengths are known only on the device; those of the batch are upper bounds. */
  readonly deviceLengths?: boolean;
  /** A variant's mask decides about the pairs that `visible` does not call full: without it all. */
  readonly hookMasks?: boolean;
  /** Narrows the keys of each tile, unless lengths are known only on the device. */
  readonly visible?: Visible;
  /** Kernel classes by rising query tile. */
  readonly classes: readonly ClassTraits[];
  readonly graph?: GraphSizes;
  readonly costs?: CostModel;
}

/** Threads or multiprocessors, or the blocks that are resident on them, at most. */
export const processorsMost = 16384;

function isClass(traits: ClassTraits | undefined): boolean {
  return typeof traits?.name === "string" && Number.isInteger(traits.queryTile);
}

/** Errors: OptionError naming the option. */
export function checkPlannerOptions(options: PlannerOptions): void {
  if (typeof options !== "object" || options === null)
    throw new OptionError("options", options, "an object of options", "pass the planner's.");
  const { queryHeads, kvHeads, classes, processors, graph } = options;
  requireInteger("kvHeads", kvHeads, 1);
  requireInteger("queryHeads", queryHeads, 1);
  requireInteger("processors", processors, 1, processorsMost);
  requireInteger("windowLeft", options.windowLeft ?? -1, -1);
  requireInteger("valueDim", options.valueDim, 1);
  if (queryHeads % kvHeads !== 0) {
    const fix = "give every KV head as many query heads.";
    throw new OptionError("queryHeads", queryHeads, `a multiple of kvHeads (${kvHeads})`, fix);
  }
  if (!Array.isArray(classes) || classes.length === 0 || !Array.from(classes).every(isClass)) {
    throw new OptionError("classes", classes, "one class or more", "pass those of a device.");
  }
  if (options.costs !== undefined) requireCosts(options.costs);
  if (graph === undefined) return;
  requireInteger("graph.maxBatch", graph.maxBatch, 1);
  requireInteger("graph.maxQueryTokens", graph.maxQueryTokens, 1);
  requireInteger("graph.maxColumns", graph.maxColumns, 1);
  if (graph.maxQueryLength !== undefined) {
    requireInteger("graph.maxQueryLength", graph.maxQueryLength, 1, graph.maxQueryTokens);
  }
  graph.buckets?.forEach((size) => requireInteger("graph.buckets", size, 1, graph.maxBatch));
}
