import type { Job } from "../serve/job.ts";
import type { Step } from "../serve/step.ts";
import type { Generation } from "./request.ts";
import type { SampledRow } from "./sampler.ts";

/** What a step gives a job from a place on: a token, and behind each of its drafts one. */
export interface Row {
  readonly job: Job;
  readonly place: number;
  /** Its first row of logits, and how many it has. */
  readonly first: number;
  readonly count: number;
}

/** The rows of a step that is not yet over, in their order. */
export function rowsOf({ sampled }: Step): Row[] {
  let first = 0;
  return sampled.map((job) => {
    const row = { job, place: job.length, first, count: 1 + job.drafted };
    first += row.count;
    return row;
  });
}

/** What is to be chosen for each row of logits; `depthOf` says how deep a draft's node lies. */
export function sampledRows(
  rows: readonly Row[],
  generations: ReadonlyMap<number, Generation>,
  depthOf: (job: Job, node: number) => number,
): SampledRow[] {
  const sampled: SampledRow[] = [];
  for (const { job, place, count } of rows) {
    const generation = generations.get(job.id)!;
    for (let node = 0; node < count; node++)
      sampled.push({ generation, position: place + depthOf(job, node) });
  }
  return sampled;
}

/** Ids of a step's tokens in the order of its batch, in `room`. */
export function idsOf({ jobs }: Step, room: Int32Array): Int32Array {
  let count = 0;
  for (const { tokens, computed, scheduled, drafts, drafted } of jobs) {
    const known = scheduled - drafted;
    // A view for each request of a step of decodes would cost more than what it holds.
    if (known === 1) room[count] = tokens[computed];
    else room.set(tokens.subarray(computed, computed + known), count);
    count += known;
    for (let i = 0; i < drafted; i++) room[count++] = drafts![i];
  }
  return room;
}
