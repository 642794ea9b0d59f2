import { expect, test } from "bun:test";
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { createLevel } from "../../src/kv/layout.ts";
import { checkPlan } from "../../src/plan/check.ts";
import type { PlannerOptions } from "../../src/plan/options.ts";
import { Planner } from "../../src/plan/planner.ts";
import { recordsOf } from "../../src/plan/record.ts";
import { invariantChunk } from "../../src/plan/workspace.ts";
import { pagedBatch } from "./example.ts";

const options: PlannerOptions = {
  queryHeads: 8,
  kvHeads: 2,
  valueDim: 64,
  processors: 3,
  causal: true,
  classes: cpuClasses,
};

test("tokens that no layout row serves are written, at the start, between rows and at the end", () => {
  const level = createLevel(3);
  level.rowCount = level.requestRows = 3;
  level.queryIndptr = Int32Array.of(2, 3, 3, 30);
  level.kvLengths = Int32Array.of(0, 9, 40);
  level.requests = Int32Array.of(0, 0, 1);
  const layout = { blockSize: 16, contiguous: true, levels: [level] };
  const batch = createBatch({ queryLengths: [3, 40], kvLengths: [9, 40], layout });
  const plan = new Planner(options).plan(batch);
  checkPlan(plan, batch, options);
  const empty = recordsOf(plan).filter(({ kvStart, kvEnd }) => kvStart === kvEnd);
  const rows = new Set(
    empty.flatMap(({ rowStart, rowCount }) =>
      Array.from({ length: rowCount }, (_, i) => Math.floor((rowStart + i) / 4)),
    ),
  );
  expect([...rows].sort((a, b) => a - b)).toEqual([
    0,
    1,
    2,
    ...Array.from({ length: 13 }, (_, i) => 30 + i),
  ]);
  for (const { partialRow } of empty) expect(partialRow).toBe(-1);
});

test("batch-invariant plans take one class, and cut at absolute multiples under a window too", () => {
  const own = { ...options, batchInvariant: true, windowLeft: 5000 };
  const batch = pagedBatch([1, 70, 3], [20_000, 9000, 300]);
  const plan = new Planner(own).plan(batch);
  checkPlan(plan, batch, own);
  const records = recordsOf(plan);
  for (const { kernelClass, kvStart, kvEnd } of records) {
    expect(kernelClass).toBe(cpuClasses.at(-1)!.name);
    expect(kvStart % 64).toBe(0);
    expect(Math.floor(kvStart / invariantChunk)).toBe(Math.floor((kvEnd - 1) / invariantChunk));
  }
  expect(Math.min(...records.filter(({ slot }) => slot === 0).map(({ kvStart }) => kvStart))).toBe(
    14_976,
  );
});

test.each([1, 500])("what a batch holds in %d ints past its counts is not planned", (extra) => {
  const graph = { maxBatch: 8, maxQueryTokens: 32, maxColumns: 64 };
  for (const own of [options, { ...options, graph }]) {
    const clean = pagedBatch([1, 2, 3], [100, 900, 3]);
    const dirty = { ...clean };
    for (const name of ["positions", "tokenRequests", "queryIndptr", "kvLengths"] as const) {
      dirty[name] = new Int32Array(clean[name].length + extra).fill(77_777);
      dirty[name].set(clean[name]);
    }
    const reused = new Planner(own);
    reused.plan(pagedBatch([5, 5, 5, 5], [500, 600, 700, 800]));
    const again = reused.plan(dirty);
    const fresh = new Planner(own).plan(clean);
    expect(again.sectionInts).toBe(fresh.sectionInts);
    expect(again.sections.slice(0, again.sectionInts)).toEqual(
      fresh.sections.slice(0, fresh.sectionInts),
    );
  }
});

test("a step of nothing, of empty requests and of padding alone is planned", () => {
  for (const [queries, keys] of [
    [[], []],
    [[0], [0]],
    [
      [0, 0, 1],
      [5, 0, 0],
    ],
  ]) {
    const batch = pagedBatch(queries, keys);
    const plan = new Planner(options).plan(batch);
    checkPlan(plan, batch, options);
    expect(plan.workspaceBytes).toBe(0);
  }
});

test("keys past what costs can count are planned all the same", () => {
  const batch = pagedBatch([1, 64], [2 ** 31 - 64, 2 ** 31 - 64]);
  const plan = new Planner(options).plan(batch);
  checkPlan(plan, batch, options);
  expect(plan.workspaceBytes).toBeLessThanOrEqual(plan.boundBytes);
});
