import { expect, test } from "bun:test";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { IntList, Piece, pieceInts } from "../../src/plan/list.ts";
import type { Plan } from "../../src/plan/plan.ts";
import { Planner } from "../../src/plan/planner.ts";
import { recordsOf as planRecords } from "../../src/plan/record.ts";
import { Makespan } from "../../src/plan/whole.ts";
import { indptrOf } from "../support/numbers.ts";
import { forSeeds } from "../support/random.ts";

const costs = { pieceKeys: 192, rowKeys: 0, mergeKeys: 4, sharedRowKeys: 64, leastKeys: 256 };
const tiles = { name: "whole", queryTile: 64, kvTile: 64, cluster: 1, blocksPerProcessor: 1 };

/** The plan of decodes of so many keys. */
function planOf(keys: number[], splitKeys: number, processors = 66): Plan {
  const planner = new Planner({
    queryHeads: 64,
    kvHeads: 1,
    valueDim: 512,
    processors,
    classes: [{ ...tiles, schedule: "whole", take: "longest-first" }],
    costs: { ...costs, splitKeys },
  });
  const queryLengths = keys.map(() => 1);
  const layout = raggedLayout(indptrOf(queryLengths), indptrOf(keys));
  return planner.plan(createBatch({ queryLengths, kvLengths: keys, layout }));
}

/** Its records, and how many merge. */
function recordsOf(keys: number[], splitKeys: number): [number, number] {
  const plan = planOf(keys, splitKeys);
  return [plan.recordCount, plan.mergeCount];
}

/** When the last of some places is done that take records in their order. */
function endOf(plan: Plan, places: number): number {
  const free = new Array<number>(places).fill(0);
  for (const { kvStart, kvEnd } of planRecords(plan))
    free[free.indexOf(Math.min(...free))] += costs.pieceKeys + kvEnd - kvStart;
  return Math.max(...free);
}

test("requests stay whole where a walk ends earlier by less than splitting costs", () => {
  const equal = new Array<number>(62).fill(8192);
  expect(recordsOf(equal, 512)).toEqual([62, 0]);
  const [records, merges] = recordsOf(equal, 0);
  expect(records).toBeGreaterThan(62);
  expect(merges).toBeGreaterThan(0);
  expect(recordsOf([8192], 512)).toEqual([32, 1]);
  expect(recordsOf([300], 512)).toEqual([1, 0]);
  // One long request among short ones is what a walk is for.
  expect(recordsOf([...new Array<number>(65).fill(500), 65536], 512)[1]).toBeGreaterThan(0);
});

test("requests of uneven lengths end as early as even ones, by few cuts", () => {
  forSeeds(100, (random) => {
    const places = random.pick([66, 132]);
    const count = places + random.integer(-5, 200);
    const keys = Array.from({ length: count }, () => random.integer(1, 8192));
    const plan = planOf(keys, 0, places);
    const total = keys.reduce((sum, n) => sum + n + costs.pieceKeys, 0);
    const cuts = plan.recordCount - count;
    expect(cuts).toBeLessThanOrEqual(places);
    expect(cuts).toBeLessThan(0.8 * places);
    expect(endOf(plan, places)).toBeLessThan(1.08 * (total / places));
  });
});

test("a makespan is that of places which take the next piece when they are free", () => {
  forSeeds(200, (random) => {
    const most = random.integer(1, 9);
    const places = random.integer(1, most);
    const pieces = new IntList(pieceInts);
    const count = random.integer(0, 30);
    for (let p = 0; p < count; p++)
      pieces.data[pieces.add() + Piece.weight] = random.integer(1, 50);
    const order = Int32Array.from({ length: count }, (_, p) => p);
    const free = new Array<number>(places).fill(0);
    for (let p = 0; p < count; p++) {
      const at = free.indexOf(Math.min(...free));
      free[at] += pieces.data[p * pieceInts + Piece.weight];
    }
    const makespan = new Makespan(most);
    makespan.of(most, pieces, order, 0, count); // leaves nothing behind
    expect(makespan.of(places, pieces, order, 0, count)).toBe(Math.max(...free));
  });
});
