import { expect, test } from "bun:test";
import { PlanError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { checkPlan } from "../../src/plan/check.ts";
import type { PlannerOptions } from "../../src/plan/options.ts";
import type { Plan } from "../../src/plan/plan.ts";
import { Planner } from "../../src/plan/planner.ts";
import {
  AttentionRecordField,
  attentionRecordInts,
  MergeRecordField,
} from "../../src/plan/record.gen.ts";
import { type PlanRecord, recordsOf } from "../../src/plan/record.ts";
import { placesOf } from "../../src/plan/traits.ts";
import { partialBytes } from "../../src/plan/workspace.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { pagedBatch } from "./example.ts";
import { randomBatch, randomOptions } from "./support.ts";

/** Every key that every query sees, by definition: "token head level key". */
function visibleKeys(batch: Batch, options: PlannerOptions): Set<string> {
  const { kvHeads, queryHeads, causal = false, windowLeft = -1 } = options;
  const { blockSize, levels } = batch.layout;
  const keys = new Set<string>();
  levels.forEach((level, l) => {
    for (let r = 0; r < level.requestRows; r++) {
      for (let token = level.queryIndptr[r]; token < level.queryIndptr[r + 1]; token++) {
        for (let head = 0; head < queryHeads; head++) {
          const kvHead = Math.floor((head * kvHeads) / queryHeads);
          const row = level.perHead ? r * kvHeads + kvHead : r;
          for (let kept = 0; kept < level.kvLengths[row]; kept++) {
            let at = kept;
            if (level.columns !== null) {
              const column = level.columnIndptr![row] + Math.floor(kept / blockSize);
              at = (level.columns[column] >> 1) * blockSize + (kept % blockSize);
            }
            const distance = batch.positions[token] - (level.positionStarts[row] + at);
            if (causal && distance < 0) continue;
            if (windowLeft >= 0 && distance > windowLeft) continue;
            keys.add(`${token} ${head} ${l} ${kept}`);
          }
        }
      }
    }
  });
  return keys;
}

/** How often the records visit each key of each query. */
function visits(plan: Plan): Map<string, number> {
  const counts = new Map<string, number>();
  for (const record of recordsOf(plan)) {
    for (let row = record.rowStart; row < record.rowStart + record.rowCount; row++) {
      const token = Math.floor(row / record.queryHeadCount);
      const head = record.kvHead * record.queryHeadCount + (row % record.queryHeadCount);
      for (let kept = record.kvStart; kept < record.kvEnd; kept++) {
        const key = `${token} ${head} ${record.level} ${kept}`;
        counts.set(key, (counts.get(key) ?? 0) + 1);
      }
    }
  }
  return counts;
}

test("by a naive oracle, records visit every visible key once and none twice", () => {
  forSeeds(1500, (random) => {
    const options = { ...randomOptions(random), kvHeads: 2, queryHeads: random.pick([2, 6, 8]) };
    const batch = randomBatch(random, options);
    if (batch.tokenCount > 20) return;
    const counts = visits(new Planner(options).plan(batch));
    for (const key of visibleKeys(batch, options)) {
      if (counts.get(key) !== 1) throw new Error(`${key} is visited ${counts.get(key)} times`);
    }
    for (const [key, count] of counts) {
      if (count !== 1) throw new Error(`${key} is visited ${count} times`);
    }
  });
});

/** Fields of a record that, when raised by one, make a plan wrong. */
const damages = [
  "kvHead",
  "queryHeadStart",
  "rowStart",
  "slot",
  "kvEnd",
  "positionStart",
  "columnOffset",
  "partialRow",
] as const;

test("the proof refuses a plan with any one field of any one record wrong", () => {
  forSeeds(400, (random) => {
    const options = { ...randomOptions(random), graph: undefined };
    const batch = randomBatch(random, options);
    for (const name of damages) {
      const plan = new Planner(options).plan(batch);
      const records = recordsOf(plan);
      const index = pickRecord(random, records);
      if (index < 0) return;
      const at = plan.offsets.records + index * attentionRecordInts;
      plan.sections[at + AttentionRecordField[name]]++;
      if (stillTrue(name, records[index], batch, options)) continue;
      expect(() => checkPlan(plan, batch, options), name).toThrow("breaks a rule");
    }
  });
});

function pickRecord(random: Random, records: PlanRecord[]): number {
  const filled = records.flatMap(({ kvStart, kvEnd }, i) => (kvStart < kvEnd ? [i] : []));
  return filled.length === 0 ? -1 : random.pick(filled);
}

/**
 * Whether one more key at the end is harmless: it is kept, and no later piece of the row has it.
 */
function stillTrue(name: string, record: PlanRecord, batch: Batch, options: PlannerOptions) {
  if (name !== "kvEnd") return false;
  const level = batch.layout.levels[record.level];
  const token = Math.floor(record.rowStart / record.queryHeadCount);
  let request = 0;
  while (level.queryIndptr[request + 1] <= token) request++;
  const row = level.perHead ? request * options.kvHeads + record.kvHead : request;
  return record.kvEnd < level.kvLengths[row];
}

test("the proof refuses a wrong merge and a wrong workspace", () => {
  const options = randomOptionsWithMerges();
  const batch = pagedBatch([1, 1], [4000, 300]);
  const damage = [
    (plan: Plan) => plan.sections[plan.offsets.parts]++,
    (plan: Plan) => plan.sections[plan.offsets.merges + MergeRecordField.rowStart]++,
    (plan: Plan) => plan.sections[plan.offsets.merges + MergeRecordField.partCount]--,
    (plan: Plan) => plan.mergeCount--,
    (plan: Plan) => (plan.workspaceBytes += 4),
    (plan: Plan) => plan.partialRows--,
    (plan: Plan) => plan.sections[plan.offsets.positions]++,
    (plan: Plan) => (plan.offsets.merges += 16),
    (plan: Plan) => plan.launches[0].recordCount--,
  ];
  for (const apply of damage) {
    const plan = new Planner(options).plan(batch);
    expect(plan.mergeCount).toBeGreaterThan(0);
    checkPlan(plan, batch, options);
    apply(plan);
    expect(() => checkPlan(plan, batch, options), String(apply)).toThrow();
  }
});

function randomOptionsWithMerges(): PlannerOptions {
  let found: PlannerOptions | undefined;
  forSeeds(1, (random) => {
    const costs = { pieceKeys: 8, rowKeys: 0.1, mergeKeys: 4, sharedRowKeys: 56, leastKeys: 32 };
    const heads = { kvHeads: 2, queryHeads: 8, windowLeft: -1, processors: 4 };
    found = { ...randomOptions(random), ...heads, costs };
  });
  return found!;
}

test("the bound holds for long and uneven batches, and is within twice processors", () => {
  forSeeds(500, (random) => {
    const options = randomOptions(random);
    const count = random.integer(1, 12);
    const queries = Array.from({ length: count }, () => random.pick([1, 1, 4, 40]));
    const keys = queries.map((tokens) => tokens + random.pick([0, 100, 5000, 100_000]));
    const batch = pagedBatch(queries, keys);
    const plan = new Planner(options).plan(batch);
    expect(plan.workspaceBytes).toBe(partialBytes(plan.partialRows, options.valueDim));
    expect(plan.workspaceBytes).toBeLessThanOrEqual(plan.boundBytes);
    let rows = 0;
    for (const traits of options.classes)
      if (!traits.shortRequests)
        rows += 2 * placesOf(traits, options.processors) * traits.queryTile;
    expect(plan.boundBytes).toBe(rows * (options.valueDim + 1) * 4);
  });
});

test("batch-invariant plans fit the sizes of a graph, however long the keys", () => {
  forSeeds(300, (random) => {
    const graph = { maxBatch: 4, maxQueryTokens: 40, maxColumns: 1024 };
    const options = { ...randomOptions(random), batchInvariant: true, graph };
    const planner = new Planner(options);
    let sizes = "";
    for (let step = 0; step < 3; step++) {
      const count = random.integer(3, 4);
      const queries = Array.from({ length: count }, () => random.integer(1, 10));
      const batch = pagedBatch(
        queries,
        queries.map((tokens) => tokens + random.pick([0, 3000, 16_000])),
      );
      const plan = planner.plan(batch);
      checkPlan(plan, batch, options);
      const grids = plan.launches.map(({ grid }) => grid);
      const now = [plan.offsets, grids, plan.mergeGrid, plan.workspaceBytes, plan.boundBytes];
      if (step > 0) expect(JSON.stringify(now)).toBe(sizes);
      sizes = JSON.stringify(now);
    }
    expect(() => planner.plan(pagedBatch([1], [16_385]))).toThrow(PlanError);
  });
});

test("planning makes no garbage once warm", async () => {
  const { heapStats } = await import("bun:jsc");
  const graph = { maxBatch: 64, maxQueryTokens: 128, maxColumns: 256 };
  const shape = { queryHeads: 32, kvHeads: 8, valueDim: 128 };
  const { classes } = randomOptionsWithMerges();
  for (const extra of [{}, { batchInvariant: true }, { graph }]) {
    const planner = new Planner({ ...shape, processors: 3, causal: true, classes, ...extra });
    const batch = pagedBatch(new Array(64).fill(1), new Array(64).fill(2000));
    for (let i = 0; i < 2000; i++) planner.plan(batch);
    Bun.gc(true);
    const before = heapStats();
    for (let i = 0; i < 2000; i++) planner.plan(batch);
    const after = heapStats();
    expect(after.objectCount - before.objectCount).toBeLessThan(100);
    expect(after.heapSize - before.heapSize).toBeLessThan(64 * 1024);
  }
});
