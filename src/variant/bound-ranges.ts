import type { Node } from "./expression.ts";
import { isInput } from "./graph.ts";
import { stage } from "./stages.ts";
import type { Variant, Visible } from "./variant.ts";

/** A bound on keys that does not decrease as the query's position increases. */
type Bound = (query: number) => number;

/**
 * What the planner can find out about a mask by itself: where its bounds on a row's keys consist of
 * the query's position and constants, a tile's keys lie between those of its first and last query.
 * undefined where nothing is known.
 */
export function boundRanges(variant: Variant): Visible | undefined {
  if (variant.hooks.mask === undefined) return undefined;
  const { low, high, mask } = stage(variant);
  const least = low && boundOf(low);
  const most = high && boundOf(high);
  if (least === undefined && most === undefined) return undefined;
  // Only a mask of two bounds and nothing else can be full.
  const isKnown = (low === undefined) === (least === undefined);
  const decides = mask === undefined && isKnown && (high === undefined) === (most === undefined);
  return ({ queryStart, queryEnd, kvLength }, ranges) => {
    const last = queryEnd - 1;
    const start = least === undefined ? 0 : least(queryStart);
    const end = most === undefined ? kvLength : most(last) + 1;
    const fullStart = least === undefined ? 0 : least(last);
    const fullEnd = most === undefined ? kvLength : most(queryStart) + 1;
    if (!decides || fullStart >= fullEnd) return ranges.add(start, end, false);
    ranges.add(start, fullStart, false);
    ranges.add(fullStart, fullEnd, true);
    ranges.add(fullEnd, end, false);
  };
}

/** Whether the planner finds out all bounds of a mask's keys, so that records are within them. */
export function knowsBounds({ low, high }: { low?: Node; high?: Node }): boolean {
  return [low, high].every((node) => node === undefined || boundOf(node) !== undefined);
}

function boundOf(node: Node): Bound | undefined {
  if (node.op === "constant") return () => node.value;
  if (isInput(node, "query")) return (query) => query;
  const [a, b] = node.inputs.map(boundOf);
  if (a === undefined || b === undefined) return undefined;
  switch (node.op) {
    case "add":
      return (query) => a(query) + b(query);
    case "sub":
      // What is subtracted must not increase.
      return node.inputs[1].op === "constant" ? (query) => a(query) - b(query) : undefined;
    case "min":
      return (query) => Math.min(a(query), b(query));
    case "max":
      return (query) => Math.max(a(query), b(query));
    default:
      return undefined;
  }
}
