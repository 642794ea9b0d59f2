import { expect, test } from "bun:test";
import { join } from "node:path";
import { recordsOf } from "../../src/plan/check.ts";
import { drawPlan, planTrace, timelineOf } from "../../src/plan/draw.ts";
import { exampleDrawing, examplePlan, exampleProcessors } from "./example.ts";

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

test("titles are escaped, and a plan of nothing is drawn too", () => {
  expect(drawPlan(examplePlan(), { ...options, title: "a < b & c" })).toContain(
    "a &#60; b &#38; c",
  );
  const nothing = { ...examplePlan(), launches: [], mergeCount: 0 };
  expect(drawPlan(nothing, options)).not.toContain("NaN");
});
