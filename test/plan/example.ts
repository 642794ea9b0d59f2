import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { pagesLayout } from "../../src/kv/layout.ts";
import { drawPlan } from "../../src/plan/draw.ts";
import type { Plan } from "../../src/plan/plan.ts";
import { Planner } from "../../src/plan/planner.ts";

/** The CPU's classes with tiles of 16 and 64 rows: small enough to follow by hand. */
const exampleClasses = cpuClasses.map((traits, c) => ({ ...traits, queryTile: [16, 64][c] }));

/** Processors of the worked example. */
export const exampleProcessors = 4;

/** A batch over pages of 16 tokens: new tokens and all tokens of each request. */
export function pagedBatch(queries: readonly number[], keys: readonly number[]): Batch {
  const queryIndptr = new Int32Array(queries.length + 1);
  queries.forEach((count, r) => (queryIndptr[r + 1] = queryIndptr[r] + count));
  const slots = Int32Array.from(keys.keys());
  const layout = pagesLayout(16, queryIndptr, slots, Int32Array.from(keys));
  return createBatch({ queryLengths: queries, kvLengths: keys, layout });
}

/**
 * The worked example of docs/planner.md: four decodes, one of them long, and a chunk of a prompt.
 */
export function examplePlan(): Plan {
  const planner = new Planner({
    queryHeads: 8,
    kvHeads: 2,
    valueDim: 128,
    processors: exampleProcessors,
    causal: true,
    classes: exampleClasses,
  });
  return planner.plan(pagedBatch([1, 1, 1, 1, 96], [6000, 900, 400, 2500, 256]));
}

/** The picture of the worked example. */
export function exampleDrawing(): string {
  const title = "Four decodes and a prompt chunk on four processors";
  return drawPlan(examplePlan(), { processors: exampleProcessors, title });
}
