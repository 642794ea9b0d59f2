import { type Batch, requireBatch } from "../kv/batch.ts";
import { type Plan, requirePlan } from "./plan.ts";
import { recordsOf } from "./record.ts";

/** How much of attention's square a plan leaves: pairs of a query row and a key, over all heads. */
export interface Coverage {
  /** Every packed row with every key of its request. */
  all: number;
  /** Pairs that records compute. */
  planned: number;
  /** Of those, pairs that no mask is asked about. */
  full: number;
}

/** What a plan of a batch computes, against all pairs: how well masks were narrowed. */
export function coverageOf(plan: Plan, batch: Batch): Coverage {
  requirePlan(plan);
  requireBatch(batch);
  let planned = 0;
  let full = 0;
  let heads = 0;
  for (const record of recordsOf(plan)) {
    planned += record.rowCount * (record.kvEnd - record.kvStart);
    full += record.rowCount * (record.fullEnd - record.fullStart);
    heads = Math.max(heads, record.queryHeadStart + record.queryHeadCount);
  }
  let all = 0;
  for (let r = 0; r < batch.requestCount; r++) {
    all += (batch.queryIndptr[r + 1] - batch.queryIndptr[r]) * batch.kvLengths[r] * heads;
  }
  return { all, planned, full };
}
