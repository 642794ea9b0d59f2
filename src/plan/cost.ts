import { requireInteger, requireNumber, requireOptions } from "../require.ts";

/** What the planner weighs, in units of one key and value read for one record. */
export interface CostModel {
  /** Fixed cost of a piece: taking the record, starting the softmax, writing its rows. */
  readonly pieceKeys: number;
  /** Cost of one query row against one key, relative to reading the key and value. */
  readonly rowKeys: number;
  /** Cost of writing and merging one row of partial state. */
  readonly mergeKeys: number;
  /**
   * Cost of one row in a level of its own: its state, the merge, and reads that caches had served.
   */
  readonly sharedRowKeys: number;
  /** A cut must leave at least this many keys on both sides. */
  readonly leastKeys: number;
  /**
   * Cost of one query row of a piece whatever its keys: products with matrices of a variant, which
   * each piece of a row computes again; default 0.
   */
  readonly pieceRowKeys?: number;
  /** Cost of splitting any row at all, which the schedule "whole" weighs; default 0. */
  readonly splitKeys?: number;
}

/** Costs seen on CPUs: a decode row is bound by memory up to about eight rows per key. */
export const defaultCosts: CostModel = {
  pieceKeys: 24,
  rowKeys: 0.08,
  mergeKeys: 4,
  sharedRowKeys: 56,
  leastKeys: 128,
};

const costNames = ["pieceKeys", "rowKeys", "mergeKeys", "sharedRowKeys", "leastKeys"] as const;
const costOptions = [...costNames, "pieceRowKeys", "splitKeys"];

/** Throws an OptionError unless each cost is a number of 0 or more. */
export function requireCosts(costs: CostModel): void {
  requireOptions("costs", costs, costOptions);
  for (const name of costNames) requireNumber(name, costs[name], 0, Infinity);
  requireNumber("pieceRowKeys", costs.pieceRowKeys ?? 0, 0, Infinity);
  requireNumber("splitKeys", costs.splitKeys ?? 0, 0, Infinity);
}

/** Cost of one piece: `keys` visible keys for `rows` packed rows. */
export function pieceCost(costs: CostModel, rows: number, keys: number): number {
  return startCost(costs, rows) + keys * (1 + costs.rowKeys * rows);
}

/** What it costs before its first key. */
export function startCost({ pieceKeys, pieceRowKeys = 0 }: CostModel, rows: number): number {
  return pieceKeys + pieceRowKeys * rows;
}

/**
 * Whether a prefix of `sharedTokens` tokens is cheaper as a level of its own, read once for its
 * sharers, than read by each of them: saved reads against one more piece and a merge of every row.
 * `group` is query heads per KV head (FlashInfer, MLSys 2025, section 3.1.2, composable formats).
 */
export function worthSharing(
  costs: CostModel,
  sharedTokens: number,
  requests: number,
  queryTokens: number,
  group: number,
): boolean {
  requireCosts(costs);
  return paysToShare(costs, sharedTokens, requests, queryTokens, group);
}

/** As worthSharing, of costs that were checked: what each step asks of each shared prefix. */
export function paysToShare(
  costs: CostModel,
  sharedTokens: number,
  requests: number,
  queryTokens: number,
  group: number,
): boolean {
  requireNumber("sharedTokens", sharedTokens);
  requireNumber("requests", requests);
  requireNumber("queryTokens", queryTokens);
  requireInteger("group", group, 1);
  if (requests < 2 || sharedTokens <= 0) return false;
  const rows = queryTokens * group;
  const apart = requests * pieceCost(costs, rows / requests, sharedTokens);
  const own = requests * startCost(costs, rows / requests);
  const together = pieceCost(costs, rows, sharedTokens) + own;
  return apart - together > 2 * rows * costs.sharedRowKeys;
}
