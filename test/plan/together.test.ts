import { describe, expect, test } from "bun:test";
import { hopper } from "../../src/attention/families/hopper.ts";
import { offerOf } from "../../src/attention/families/resolve.ts";
import { type AttentionOptions, resolveOptions } from "../../src/attention/options.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { createLevel } from "../../src/kv/layout.ts";
import { checkPlan } from "../../src/plan/check.ts";
import type { PlannerOptions } from "../../src/plan/options.ts";
import { Planner } from "../../src/plan/planner.ts";
import { forSeeds } from "../support/random.ts";

const shape = { queryHeads: 32, kvHeads: 8, headDim: 128, causal: true } as const;
type Over = Partial<AttentionOptions>;

function plannerFor(over: Over = {}, more: Partial<PlannerOptions> = {}): PlannerOptions {
  const options = resolveOptions({ ...shape, dtype: "bf16", ...over });
  const offer = offerOf([hopper], architectureFacts("sm_90a"), options);
  const { queryHeads, kvHeads, valueDim, causal } = options;
  const { classes, costs } = offer;
  // Those of an H200.
  return { queryHeads, kvHeads, valueDim, causal, processors: 132, classes, costs, ...more };
}

/** Steps of so many tokens for each request, which share a prefix. */
function sharing(requests: number, prefix: number, own: number, tokens = 1): Batch {
  const [shared, rest] = [createLevel(1), createLevel(requests)];
  Object.assign(shared, { rowCount: 1, requestRows: 1 });
  shared.queryIndptr[1] = requests * tokens;
  shared.kvLengths[0] = prefix;
  Object.assign(rest, { rowCount: requests, requestRows: requests });
  for (let r = 0; r < requests; r++) {
    rest.queryIndptr[r + 1] = (r + 1) * tokens;
    rest.requests[r] = rest.slots[r] = r;
  }
  rest.kvLengths.fill(own);
  rest.positionStarts.fill(prefix);
  const all = (value: number) => new Array<number>(requests).fill(value);
  const layout = { blockSize: 16, contiguous: false, levels: [shared, rest] };
  return createBatch({ queryLengths: all(tokens), kvLengths: all(prefix + own), layout });
}

/** The classes that a step's plan launches. */
function launchedBy(batch: Batch, options: PlannerOptions): string {
  const plan = new Planner(options).plan(batch);
  if (batch.layout.levels[0].kvLengths[0] < 9000) checkPlan(plan, batch, options);
  const launched = plan.launches.filter(({ recordCount }) => recordCount > 0);
  return launched.map(({ kernelClass }) => kernelClass.replace(/^\w+\./, "")).join(", ");
}

/** Requests, tokens of the prefix and own keys, and what an H200 was fastest with. */
const measured = [
  [64, 8192, 256, "cascade64"],
  [64, 8192, 128, "cascade64"],
  [64, 1024, 128, "cascade64"],
  [64, 4096, 1024, "cascade64"],
  [64, 32_768, 128, "cascade128"],
  [32, 16_384, 128, "cascade64"],
  [16, 8192, 128, "cascade64"],
  [16, 32_768, 128, "cascade64"],
  [8, 8192, 128, "cascade64"],
  [4, 8192, 128, "cascade64"],
  [128, 8192, 256, "cascade64"],
] as const;

describe("a step of a shared prefix and own keys", () => {
  test.each(measured)("of %d requests, %d and %d keys is %s", (requests, prefix, own, launched) => {
    for (const dtype of ["bf16", "f16"] as const)
      expect(launchedBy(sharing(requests, prefix, own), plannerFor({ dtype }))).toBe(launched);
  });

  test("covers every visible key once by tiles of 128 rows, too", () => {
    const options = plannerFor();
    const classes = options.classes.filter(({ name }) => name !== "hopper.cascade64");
    expect(launchedBy(sharing(64, 8192, 128), { ...options, classes })).toBe("cascade128");
  });

  test("is two launches where smaller tiles would cost more than a launch", () => {
    // Four times as many rows as a tile of 256 has keep the tensor cores busy.
    expect(launchedBy(sharing(64, 131_072, 128), plannerFor())).toBe("decode8, tile256");
  });

  test("of one class is one launch anyway", () => {
    expect(launchedBy(sharing(2, 1024, 128), plannerFor())).toBe("decode8");
  });

  test("goes by rows where nothing else is known", () => {
    const step = sharing(64, 1024, 128);
    const graph = { maxBatch: 64, maxQueryTokens: 64, maxColumns: 128 };
    const byRows = "decode8, tile256";
    expect(launchedBy(step, plannerFor({ graph }, { graph }))).toBe(byRows);
    expect(launchedBy(step, plannerFor({ deviceLengths: true }))).toBe(byRows);
    expect(launchedBy(step, plannerFor({}, { deviceLengths: true }))).toBe(byRows);
    expect(launchedBy(step, plannerFor({}, { windowLeft: 4096 }))).toBe(byRows);
    expect(launchedBy(step, plannerFor({}, { graph }))).toBe(byRows);
    expect(launchedBy(sharing(32, 1024, 128, 2), plannerFor())).toBe(byRows);
    expect(launchedBy(step, plannerFor({ headDim: 96 }))).toBe(byRows);
    expect(launchedBy(step, plannerFor({ softCap: 30 }))).toBe(byRows);
    expect(launchedBy(step, plannerFor({ kvDtype: "f8e4m3" }))).toBe(byRows);
    const invariant = plannerFor({ batchInvariant: true });
    expect(invariant.classes.some(({ together }) => together)).toBe(false);
  });

  test("in one launch covers every visible key once, whatever the heads and lengths", () => {
    forSeeds(200, (random) => {
      const kvHeads = random.integer(1, 9);
      const group = random.integer(4, 16);
      const requests = random.integer(Math.ceil(65 / group), Math.floor(256 / group));
      const heads = plannerFor({ kvHeads, queryHeads: kvHeads * group });
      const options = { ...heads, processors: random.pick([8, 33, 132]) };
      const batch = sharing(requests, 16 * random.integer(1, 12), random.integer(1, 90));
      expect(launchedBy(batch, options)).toBe("cascade64");
    });
  });

  test("in a graph for such steps has its one launch and stays within its bounds", () => {
    forSeeds(200, (random) => {
      const maxBatch = random.integer(2, 80);
      const kvHeads = random.pick([1, 2, 8]);
      const maxQueryLength = random.integer(1, 3);
      const sizes = { maxBatch, maxQueryTokens: maxBatch * maxQueryLength, maxQueryLength };
      const graph = { ...sizes, maxColumns: 80, sharedPrefix: true };
      const heads = { kvHeads, queryHeads: kvHeads * random.integer(1, 16) };
      const options = plannerFor({ ...heads, graph }, { graph });
      const processors = random.pick([8, 33, 132]);
      const requests = random.integer(2, maxBatch);
      const tokens = random.integer(1, maxQueryLength);
      const [prefix, own] = [16 * random.integer(1, 60), random.integer(tokens, 300)];
      const batch = sharing(requests, prefix, own, tokens);
      const plan = new Planner({ ...options, processors }).plan(batch);
      checkPlan(plan, batch, { ...options, processors });
      expect(plan.launches.map(({ kernelClass }) => kernelClass)).toEqual(["hopper.cascade64"]);
      expect(plan.launches[0].recordCount).toBeLessThanOrEqual(plan.launches[0].grid);
      expect(plan.partialRows).toBeLessThanOrEqual(plan.partialCapacity);
      expect(plan.sectionInts).toBeLessThanOrEqual(plan.capacityInts);
    });
  });

  test("in a graph of other kernels has the classes of a request and of a prefix", () => {
    const graph = { maxBatch: 64, maxQueryTokens: 64, maxQueryLength: 1, maxColumns: 128 };
    const classesFor = (over: Over, sharedPrefix = true) =>
      plannerFor({ ...over, graph: { ...graph, sharedPrefix } }).classes.map(({ name }) => name);
    expect(classesFor({}, false)).toEqual(["cuda.decode8"]);
    expect(classesFor({ headDim: 64 })).toEqual(["cuda.decode8", "hopper.tile192"]);
    expect(classesFor({ softCap: 30 })).toEqual(["cuda.decode8", "hopper.tile256"]);
    expect(classesFor({ deviceLengths: true })).toEqual(["cuda.decode8", "hopper.tile256"]);
    expect(classesFor({ batchInvariant: true })).not.toContain("hopper.cascade64");
  });

  test("asks for no workspace of its own", () => {
    const options = plannerFor();
    const classes = options.classes.filter(({ together }) => together === undefined);
    const batch = sharing(16, 64, 16);
    const bound = new Planner({ ...options, classes }).plan(batch).boundBytes;
    expect(new Planner(options).plan(batch).boundBytes).toBe(bound);
  });
});
