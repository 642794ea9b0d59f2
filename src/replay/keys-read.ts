import type { Plan } from "../plan/plan.ts";
import { AttentionRecordField as Field, attentionRecordInts } from "../plan/record.gen.ts";

/** Keys (each with its value, of one KV head) that the records of a plan read in one layer. */
export function keysRead(plan: Plan): number {
  const { sections, offsets, recordCount } = plan;
  let keys = 0;
  for (let record = 0; record < recordCount; record++) {
    const at = offsets.records + record * attentionRecordInts;
    keys += sections[at + Field.kvEnd] - sections[at + Field.kvStart];
  }
  return keys;
}
