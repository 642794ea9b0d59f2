import type { PageGroup } from "../kv/page-group.ts";
import type { Plan } from "../plan/planner.ts";
import { recordInts } from "../plan/emit.ts";
import type { Job } from "./job.ts";

/** Counts the pages that running requests hold; pages that are merely cached are free to take. */
export class PageCounter {
  readonly #group: PageGroup;
  /** By page, the last count that saw it. */
  readonly #seen: Int32Array;
  #round = 0;

  constructor(group: PageGroup) {
    this.#group = group;
    this.#seen = new Int32Array(group.allocator.pageCount);
  }

  /** Pages of the jobs' sequences; shared ones count once. */
  count(jobs: readonly Job[]): number {
    const { data, stride } = this.#group.table;
    const round = ++this.#round;
    let count = 0;
    for (let i = 0; i < jobs.length; i++) {
      const sequence = jobs[i].sequence!;
      const row = sequence.slot * stride;
      const end = row + sequence.pageCount;
      for (let at = row; at < end; at++) {
        const page = data[at];
        if (page < 0 || this.#seen[page] === round) continue;
        this.#seen[page] = round;
        count++;
      }
    }
    return count;
  }
}

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
