import { expect, test } from "bun:test";
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { hopper } from "../../src/attention/families/hopper.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { OptionError } from "../../src/errors.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";
import { checkPlan } from "../../src/plan/check.ts";
import { Planner } from "../../src/plan/planner.ts";
import { placesOf } from "../../src/plan/traits.ts";
import { pagedBatch } from "./example.ts";

const heads = { queryHeads: 32, kvHeads: 8, headDim: 128, valueDim: 128 } as const;
const offer = hopper.offer(
  architectureFacts("sm_90a"),
  resolveOptions({ ...heads, dtype: "bf16", causal: true }),
);
if (offer instanceof OptionError) throw offer;
const { classes, costs } = offer;
const shape = { ...heads, causal: true, processors: 132 };
const most = placesOf(classes.at(-1)!, shape.processors);

/** Decodes of so many keys, and a prompt. */
function stepOf(decodes: number, prompt: number, keys: number): Batch {
  const ones = new Array<number>(decodes).fill(1);
  const chunks = prompt > 0 ? [prompt] : [];
  return pagedBatch([...ones, ...chunks], [...ones.map(() => keys), ...chunks]);
}

/** What the last class's launch takes at once, of its records. */
function largest(decodes: number, prompt: number, keys = 4096): { atOnce: number; grid: number } {
  const batch = stepOf(decodes, prompt, keys);
  const { itemsAtOnce, grid } = new Planner({ ...shape, classes, costs })
    .plan(batch)
    .launches.at(-1)!;
  return { atOnce: itemsAtOnce, grid };
}

test("a prompt beside many decodes takes its part of the processors, and ends with them", () => {
  const { atOnce, grid } = largest(60, 2048);
  expect(grid).toBeGreaterThan(most);
  // On an H200 the prompt alone takes 74 us, the decodes 239.
  expect(atOnce).toBeGreaterThanOrEqual(Math.floor((most * 74) / 239));
  expect(atOnce).toBeLessThan(most / 2);
  // Twice the decodes leave it half as long.
  expect(largest(120, 2048).atOnce).toBeLessThanOrEqual(Math.ceil(atOnce / 2) + 1);
});

test("beside a longer prompt all blocks run at once, and leave few processors idle", () => {
  for (const [decodes, prompt, keys] of [
    [12, 2048, 4096],
    [4, 2048, 4096],
    [12, 1024, 4096],
    [30, 2048, 4096],
    [8, 1024, 1024],
  ]) {
    const batch = stepOf(decodes, prompt, keys);
    const plan = new Planner({ ...shape, classes, costs }).plan(batch);
    const used = plan.launches.map(({ itemsAtOnce }, c) => {
      const { cluster, blocksPerProcessor } = classes[c];
      return (itemsAtOnce * cluster) / blocksPerProcessor;
    });
    const sum = used.reduce((all, each) => all + each);
    expect(sum).toBeLessThanOrEqual(shape.processors);
    expect(sum).toBeGreaterThan(0.95 * shape.processors);
    checkPlan(plan, batch, { ...shape, classes, costs });
  }
});

test("launches that compute share their part of the processors by what they compute", () => {
  const slow = classes.map((row) => ({ ...row, rowsPerKey: 60 }));
  const ones = new Array<number>(60).fill(1);
  const batch = pagedBatch([...ones, 1024, 30], [...ones.map(() => 4096), 1024, 2000]);
  const { launches } = new Planner({ ...shape, classes: slow, costs }).plan(batch);
  const [rows128, rows256] = ["hopper.tile128", "hopper.tile256"].map(
    (name) => launches.find(({ kernelClass }) => kernelClass === name)!.itemsAtOnce,
  );
  expect(rows128 + 2 * rows256).toBeLessThan(shape.processors / 2);
  expect(rows128).toBeLessThan(rows256);
  expect(rows128).toBeGreaterThan(2);
});

test("decodes beside it run in small blocks, which are few alone", () => {
  for (const [prompt, few] of [
    [0, true],
    [512, false],
  ] as const) {
    const { launches } = new Planner({ ...shape, classes, costs }).plan(stepOf(12, prompt, 4096));
    expect(launches[0].few).toBe(few);
  }
});

test("it takes all of them where it is alone, or much longer than the others, or short", () => {
  for (const [decodes, prompt, keys] of [
    [0, 2048, 4096],
    [16, 8192, 4096],
    [60, 2048, 128],
    [60, 65, 4096],
  ]) {
    const { atOnce, grid } = largest(decodes, prompt, keys);
    expect({ decodes, prompt, atOnce }).toEqual({ decodes, prompt, atOnce: grid });
  }
});

test("graphs and classes that run in turn are not divided", () => {
  const batch = stepOf(60, 2048, 4096);
  const graph = { maxBatch: 64, maxQueryTokens: 4096, maxColumns: 512 };
  for (const options of [
    { ...shape, classes, costs, graph },
    { ...shape, classes: cpuClasses },
  ])
    for (const { itemsAtOnce, grid } of new Planner(options).plan(batch).launches)
      expect(itemsAtOnce).toBe(grid);
});
