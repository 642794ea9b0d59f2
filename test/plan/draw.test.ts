import { expect, test } from "bun:test";
import { join } from "node:path";
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { SequencePool } from "../../src/kv/sequence.ts";
import { sharePrefixes } from "../../src/kv/share-prefixes.ts";
import { drawPlan } from "../../src/plan/draw.ts";
import { emptyPlan } from "../../src/plan/plan.ts";
import { Planner } from "../../src/plan/planner.ts";
import { recordsOf } from "../../src/plan/record.ts";
import { planTrace, timelineOf } from "../../src/plan/timeline.ts";
import { exampleDrawing, examplePlan, exampleProcessors, pagedBatch } from "./example.ts";

const options = { processors: exampleProcessors };

test("the picture in docs/planner.md is the one that is drawn", async () => {
  const path = join(import.meta.dir, "../../docs/planner.svg");
  if (process.env["WRITE_DOCS"] === "1") await Bun.write(path, exampleDrawing());
  expect(await Bun.file(path).text()).toBe(exampleDrawing());
});

test("a timeline holds every record and merge once, and no processor does two things at a time", () => {
  const plan = examplePlan();
  const { slices, end, busy } = timelineOf(plan, options);
  expect(slices).toHaveLength(recordsOf(plan).length + plan.mergeCount);
  expect(slices.filter(({ kind }) => kind === "partial")).toHaveLength(
    recordsOf(plan).filter(({ partialRow }) => partialRow >= 0).length,
  );
  for (let lane = 0; lane < exampleProcessors; lane++) {
    let at = 0;
    for (const slice of slices.filter((each) => each.lane === lane)) {
      expect(slice.start).toBeGreaterThanOrEqual(at);
      expect(slice.end).toBeGreaterThan(slice.start);
      at = slice.end;
    }
    expect(at).toBeLessThanOrEqual(end);
  }
  expect(busy).toBeGreaterThan(0.9);
  expect(busy).toBeLessThanOrEqual(1);
});

test("a trace is JSON with one event a slice, on the slice's processor", () => {
  const plan = examplePlan();
  const { traceEvents } = JSON.parse(planTrace(plan, options)) as {
    traceEvents: { ph: string; tid: number; ts: number; dur: number }[];
  };
  const { slices } = timelineOf(plan, options);
  const events = traceEvents.filter(({ ph }) => ph === "X");
  expect(events.map(({ tid, ts }) => [tid, ts])).toEqual(
    slices.map(({ lane, start }) => [lane, start]),
  );
  expect(traceEvents.filter(({ ph }) => ph === "M")).toHaveLength(exampleProcessors);
});

test("every colour has another one where a page is dark", () => {
  const drawing = exampleDrawing();
  const colours = new Set(
    [...drawing.matchAll(/ (fill|stroke)="(#[0-9a-f]{6})"/g)].map(([, name, colour]) =>
      [name, colour].join(),
    ),
  );
  expect(colours.size).toBeGreaterThan(8);
  for (const colour of colours) {
    const [name, light] = colour.split(",");
    expect(drawing).toContain(`.plan-drawing [${name}="${light}"]{${name}:#`);
  }
  expect(drawing).not.toContain('<text x="96" y="110" text-anchor');
});

test("titles are escaped, and a plan of nothing is drawn too", () => {
  expect(drawPlan(examplePlan(), { ...options, title: "a < b & c" })).toContain(
    "a &#60; b &#38; c",
  );
  expect(drawPlan(emptyPlan([]), options)).not.toContain("NaN");
});

test("thousands of records stay a small drawing, one record is drawn too", () => {
  const heads = { queryHeads: 32, kvHeads: 8, valueDim: 64 };
  const planner = new Planner({ ...heads, processors: 8, classes: cpuClasses });
  const requests = Array.from({ length: 1024 }, (_, r) => 10 + ((r * 37) % 300));
  const many = planner.plan(pagedBatch(new Array<number>(1024).fill(1), requests));
  expect(many.recordCount).toBeGreaterThan(8000);
  const drawing = drawPlan(many, { processors: 8 });
  expect(drawing.length).toBeLessThan(700_000);
  expect(drawing).toContain(" records of cpu.row<");
  const one = new Planner({
    ...heads,
    queryHeads: 8,
    kvHeads: 1,
    processors: 1,
    classes: cpuClasses,
  });
  expect(drawPlan(one.plan(pagedBatch([1], [5])), { processors: 1 })).toContain("1 records");
  expect(() => drawPlan(many, { processors: 0 })).toThrow("processors must be");
});

test("a prefix that requests share is told apart", () => {
  const pool = new SequencePool({ pageSize: 16, maxSequences: 4, groups: [{ pages: 100 }] });
  const first = pool.create();
  pool.reserve([first], [160]);
  const sequences = [first, first.fork(), first.fork()];
  const batch = pool.reserve(sequences, [1, 1, 1]);
  if (!batch.ok) throw batch.error;
  expect(sharePrefixes(batch, sequences, () => true)).toBe(true);
  const plan = new Planner({
    queryHeads: 8,
    kvHeads: 2,
    valueDim: 64,
    processors: 2,
    classes: cpuClasses,
  }).plan(batch);
  const { slices } = timelineOf(plan, { processors: 2 });
  expect(slices.filter(({ shared }) => shared).every(({ level }) => level === 0)).toBe(true);
  expect(slices.some(({ shared }) => shared)).toBe(true);
  expect(drawPlan(plan, { processors: 2 })).toContain("shared prefix");
});
