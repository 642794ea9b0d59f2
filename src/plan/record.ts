import type { Plan } from "./planner.ts";
import { recordInts } from "./emit.ts";

/** A record read back from a plan. */
export interface PlanRecord {
  kernelClass: string;
  kvHead: number;
  unit: number;
  heads: number;
  rowStart: number;
  rowCount: number;
  slot: number;
  kvStart: number;
  kvEnd: number;
  fullStart: number;
  fullEnd: number;
  positionStart: number;
  columnOffset: number;
  partialRow: number;
  request: number;
  level: number;
}

/** The records of a plan that have rows, in order. */
export function recordsOf(plan: Plan): PlanRecord[] {
  const records: PlanRecord[] = [];
  for (const { kernelClass, firstRecord, recordCount } of plan.launches) {
    for (let i = firstRecord; i < firstRecord + recordCount; i++) {
      const at = plan.offsets.records + i * recordInts;
      const field = plan.sections.subarray(at, at + recordInts);
      records.push({
        kernelClass,
        kvHead: field[0],
        unit: field[1] / field[2],
        heads: field[2],
        rowStart: field[3],
        rowCount: field[4],
        slot: field[5],
        kvStart: field[6],
        kvEnd: field[7],
        fullStart: field[8],
        fullEnd: field[9],
        positionStart: field[10],
        columnOffset: field[11],
        partialRow: field[12],
        request: field[13],
        level: field[14],
      });
    }
  }
  return records;
}
