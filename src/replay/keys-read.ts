import type { Plan } from "../plan/planner.ts";
import { recordInts } from "../plan/emit.ts";

/** Keys (each with its value, of one KV head) that the records of a plan read in one layer. */
export function keysRead(plan: Plan): number {
  const { sections, offsets, recordCount } = plan;
  let keys = 0;
  for (let record = 0; record < recordCount; record++) {
    const at = offsets.records + record * recordInts;
    // Of a record, int 6 is where its keys start and int 7 where they end (kernels/params.h).
    keys += sections[at + 7] - sections[at + 6];
  }
  return keys;
}
