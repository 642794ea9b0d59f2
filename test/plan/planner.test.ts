import { describe, expect, test } from "bun:test";
import { cpuClasses, cpuCosts } from "../../src/attention/families/cpu.ts";
import { cudaCosts } from "../../src/attention/families/cuda.ts";
import { hopper } from "../../src/attention/families/hopper.ts";
import { tiledClasses } from "../../src/attention/families/tiled-classes.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { OptionError, PlanError } from "../../src/errors.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { pagesLayout } from "../../src/kv/layout.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";
import { checkPlan } from "../../src/plan/check.ts";
import { defaultCosts, worthSharing } from "../../src/plan/cost.ts";
import type { PlannerOptions } from "../../src/plan/options.ts";
import { Planner } from "../../src/plan/planner.ts";
import { recordsOf } from "../../src/plan/record.ts";
import { classFor } from "../../src/plan/traits.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { randomBatch, randomOptions } from "./support.ts";

/** Decodes of 16-bit heads of 128. */
const plainHeads = {
  headDim: 128,
  valueDim: 128,
  kvElementBytes: 2,
  keysChange: false,
  valuesChange: false,
  keysWiden: false,
  valuesWiden: false,
  turnedPairs: 0,
  masked: false,
  keyPositions: false,
  plain: true,
  tokenScales: false,
  scalesRows: false,
  rowWords: 0,
  queryDim: 0,
  multipliesOutputs: false,
  keysInTwo: false,
  valuePages: false,
  shortSteps: false,
};

const options: PlannerOptions = {
  queryHeads: 32,
  kvHeads: 8,
  valueDim: 128,
  processors: 2,
  causal: true,
  classes: cpuClasses,
};

/** A batch of pages: `queries[r]` new tokens of `keys[r]` in all. */
function pagedBatch(queries: number[], keys: number[]) {
  const queryIndptr = new Int32Array(queries.length + 1);
  queries.forEach((count, r) => (queryIndptr[r + 1] = queryIndptr[r] + count));
  const slots = Int32Array.from(keys, (_, r) => r);
  const layout = pagesLayout(16, queryIndptr, slots, Int32Array.from(keys));
  return createBatch({ queryLengths: queries, kvLengths: keys, layout });
}

test("a plan is written where it is asked for, and where it does not fit, elsewhere", () => {
  const planner = new Planner(options);
  const batches = [
    pagedBatch([1, 40], [700, 80]),
    pagedBatch(Array(200).fill(1), Array(200).fill(9)),
  ];
  for (const batch of batches) {
    const { sections, sectionInts } = planner.plan(batch);
    const expected = sections.slice(0, sectionInts);
    for (const ints of [16, sectionInts >> 1, 1 << 16]) {
      const into = new Int32Array(ints).fill(-1);
      const plan = planner.plan(batch, into);
      expect(plan.sections === into).toBe(ints === 1 << 16);
      expect(plan.sections.subarray(0, plan.sectionInts)).toEqual(expected);
    }
  }
});

describe("decode", () => {
  test("one long request keeps every processor busy with equal stretches", () => {
    const single = { ...options, queryHeads: 4, kvHeads: 1, processors: 8 };
    const batch = pagedBatch([1], [64_000]);
    const plan = new Planner(single).plan(batch);
    const lengths = recordsOf(plan).map(({ kvStart, kvEnd }) => kvEnd - kvStart);
    expect(lengths.length).toBe(8 * cpuClasses[0].blocksPerProcessor);
    expect(Math.max(...lengths) / Math.min(...lengths)).toBeLessThan(1.1);
    expect(plan.mergeCount).toBe(1);
    checkPlan(plan, batch, single);
  });

  test("little work for many processors is cut into the smallest pieces", () => {
    const many = { ...options, processors: 132 };
    const batch = pagedBatch([1], [1024]);
    const plan = new Planner(many).plan(batch);
    const lengths = recordsOf(plan).map(({ kvStart, kvEnd }) => kvEnd - kvStart);
    expect(lengths).toEqual(new Array(64).fill(defaultCosts.leastKeys));
    checkPlan(plan, batch, many);
  });

  test("requests of one length are cut into pieces of one length", () => {
    const classes = tiledClasses({
      ...plainHeads,
      sharedBytesPerBlock: 232_448,
      sharedBytesPerProcessor: 233_472,
    });
    const gpu = { ...options, processors: 132, costs: cudaCosts("bf16"), classes };
    // Tiles of 9 to 16 requests are few: a block has a processor for itself.
    for (const [requests, keys, piece, few] of [
      [1, 8192, 256, false],
      [4, 8192, 1024, false],
      [16, 1024, 1024, true],
      [64, 1024, 1024, false],
    ] as const) {
      const lengths = new Array<number>(requests).fill(keys);
      const batch = pagedBatch(new Array<number>(requests).fill(1), lengths);
      const plan = new Planner(gpu).plan(batch);
      const pieces = recordsOf(plan).map(({ kvStart, kvEnd }) => kvEnd - kvStart);
      expect(new Set(pieces)).toEqual(new Set([piece]));
      expect(plan.launches[0].few).toBe(few);
      checkPlan(plan, batch, gpu);
    }
  });

  test("pairs of blocks share the keys of up to as many requests as processors, which stay whole", () => {
    const heads = { queryHeads: 64, kvHeads: 1, headDim: 128, valueDim: 128, causal: true };
    const options = resolveOptions({ ...heads, dtype: "bf16" });
    const offer = hopper.offer(architectureFacts("sm_90a"), options);
    if (offer instanceof OptionError) throw offer;
    const gpu = { ...heads, processors: 132, classes: offer.classes, costs: offer.costs };
    const at = offer.classes.findIndex(({ name }) => name === "hopper.tile64");
    for (const [requests, few] of [
      [44, false],
      [45, true],
      [64, true],
      [132, true],
      [133, false],
    ] as const) {
      const batch = pagedBatch(new Array(requests).fill(1), new Array(requests).fill(4096));
      const plan = new Planner(gpu).plan(batch);
      expect({ requests, few: plan.launches[at].few }).toEqual({ requests, few });
      if (few) expect(plan.mergeCount).toBe(0);
      checkPlan(plan, batch, gpu);
    }
    // One that is longer than most is cut.
    const lengths = new Array<number>(64).fill(1000).with(0, 20_000);
    const batch = pagedBatch(new Array(64).fill(1), lengths);
    const plan = new Planner(gpu).plan(batch);
    expect(plan.mergeCount).toBe(1);
    checkPlan(plan, batch, gpu);
  });

  test("few tiles are cut where no head has processors of its own", () => {
    // 8 heads do not divide an A100's processors.
    const classes = tiledClasses({
      ...plainHeads,
      sharedBytesPerBlock: 166_912,
      sharedBytesPerProcessor: 167_936,
    });
    const gpu = { ...options, processors: 108, costs: cudaCosts("bf16"), classes };
    const lengths = new Array<number>(12).fill(1000).with(0, 60_000);
    const batch = pagedBatch(new Array<number>(12).fill(1), lengths);
    const plan = new Planner(gpu).plan(batch);
    const pieces = recordsOf(plan).map(({ kvStart, kvEnd }) => kvEnd - kvStart);
    expect(Math.max(...pieces)).toBeLessThan(6000);
    checkPlan(plan, batch, gpu);
  });

  test("short requests are not cut", () => {
    const plan = new Planner(options).plan(pagedBatch([1, 1, 1], [17, 30, 64]));
    expect(plan.mergeCount).toBe(0);
    expect(plan.workspaceBytes).toBe(0);
    expect(plan.recordCount).toBe(3 * 8);
  });

  test("keys outside the window are in no record", () => {
    const plan = new Planner({ ...options, windowLeft: 100 }).plan(pagedBatch([1], [5000]));
    for (const { kvStart, kvEnd } of recordsOf(plan)) {
      expect([kvStart, kvEnd]).toEqual([4899, 5000]);
    }
  });
});

describe("prefill", () => {
  test("no record lies beyond the diagonal, and the longest come first", () => {
    const batch = pagedBatch([512], [512]);
    const records = recordsOf(new Planner(options).plan(batch));
    let last = Infinity;
    for (const { rowStart, rowCount, kvEnd } of records) {
      const lastToken = Math.floor((rowStart + rowCount - 1) / 4);
      expect(kvEnd).toBeLessThanOrEqual(lastToken + 1);
      expect(kvEnd).toBeLessThanOrEqual(last + 16);
      last = kvEnd;
    }
  });

  test("one short prompt over long keys is cut for balance, many are not", () => {
    const wide = { ...options, queryHeads: 1, kvHeads: 1, processors: 16 };
    const lone = new Planner(wide).plan(pagedBatch([32], [40_000]));
    expect(lone.mergeCount).toBeGreaterThan(0);
    const many = pagedBatch(new Array(400).fill(64), new Array(400).fill(4000));
    expect(new Planner(wide).plan(many).mergeCount).toBe(0);
  });

  test("the smallest class that holds the rows is taken", () => {
    expect(classFor(cpuClasses, 1)).toBe(0);
    expect(classFor(cpuClasses, cpuClasses[0].queryTile)).toBe(0);
    expect(classFor(cpuClasses, cpuClasses[0].queryTile + 1)).toBe(1);
    expect(classFor(cpuClasses, 1e6)).toBe(1);
  });
});

describe("a graph", () => {
  const graph = { maxBatch: 8, maxQueryTokens: 16, maxColumns: 32, buckets: [2, 4, 8] };
  const fixed = { ...options, graph };

  test("fixes sections and grids by bucket, whatever the lengths", () => {
    const planner = new Planner(fixed);
    forSeeds(200, (random: Random) => {
      const requests = random.integer(3, 4);
      const keys = Array.from({ length: requests }, () => random.integer(1, 512));
      const queries = keys.map((length) => Math.min(length, random.integer(0, 4)));
      const first = planner.plan(pagedBatch([1, 1, 1], [1, 2, 3]));
      const shape = [first.offsets, first.launches.map(({ grid }) => grid), first.mergeGrid];
      const before = JSON.stringify([...shape, first.partialCapacity, first.workspaceBytes]);
      const batch = pagedBatch(queries, keys);
      const plan = planner.plan(batch);
      const { offsets, mergeGrid, partialCapacity, workspaceBytes } = plan;
      const grids = plan.launches.map(({ grid }) => grid);
      const after = JSON.stringify([offsets, grids, mergeGrid, partialCapacity, workspaceBytes]);
      expect(after).toBe(before);
      expect(plan.bucket).toBe(4);
      expect(plan.partialRows).toBeLessThanOrEqual(plan.partialCapacity);
      for (const { recordCount, grid } of plan.launches) {
        expect(recordCount).toBeLessThanOrEqual(grid);
      }
      checkPlan(plan, batch, fixed);
    });
  });

  test("refuses what is over its sizes, and changes nothing", () => {
    const planner = new Planner(fixed);
    const plan = planner.plan(pagedBatch([1, 1], [5, 6]));
    const { generation, sectionInts } = plan;
    const before = plan.sections.slice(0, sectionInts);
    for (const [batch, what] of [
      [pagedBatch(new Array(9).fill(1), new Array(9).fill(5)), "maxBatch 9"],
      [pagedBatch([17], [17]), "maxQueryTokens 17"],
      [pagedBatch([1], [513]), "maxColumns 33"],
    ] as const) {
      expect(() => planner.plan(batch)).toThrow(PlanError);
      expect(() => planner.plan(batch)).toThrow(what);
    }
    expect(plan.generation).toBe(generation);
    expect(plan.sections.slice(0, sectionInts)).toEqual(before);
  });

  test("of short queries refuses longer ones", () => {
    const planner = new Planner({ ...options, graph: { ...graph, maxQueryLength: 2 } });
    planner.plan(pagedBatch([2, 1], [5, 6]));
    expect(() => planner.plan(pagedBatch([3, 1], [5, 6]))).toThrow("maxQueryLength 3");
    const wrong = { ...graph, maxQueryLength: 17 };
    expect(() => new Planner({ ...options, graph: wrong })).toThrow("graph.maxQueryLength must be");
  });

  test("of short queries has no more records than its bucket's tokens need", () => {
    const gridOf = (maxQueryLength: number) => {
      const own = { ...graph, maxQueryTokens: 64, maxQueryLength };
      return new Planner({ ...options, graph: own }).plan(pagedBatch([1], [5])).launches[0].grid;
    };
    expect(gridOf(1)).toBeLessThan(gridOf(64));
    expect(gridOf(32)).toBe(gridOf(64));
  });

  test("random batches within the sizes fit", () => {
    forSeeds(1000, (random) => {
      const loose = { maxBatch: 8, maxQueryTokens: 400, maxColumns: 4000 };
      const drawn = randomOptions(random);
      const batch = randomBatch(random, { ...drawn, graph: loose });
      const { queryIndptr, requestCount } = batch;
      let maxQueryLength = 1;
      for (let r = 0; r < requestCount; r++)
        maxQueryLength = Math.max(maxQueryLength, queryIndptr[r + 1] - queryIndptr[r]);
      const graph = random.chance(0.5) ? loose : { ...loose, maxQueryLength };
      const own = { ...drawn, graph };
      if (batch.layout.levels.some(({ columns }) => columns !== null)) {
        expect(() => new Planner(own).plan(batch)).toThrow(PlanError);
        return;
      }
      const plan = new Planner(own).plan(batch);
      for (const { recordCount, grid } of plan.launches) {
        expect(recordCount).toBeLessThanOrEqual(grid);
      }
      expect(plan.mergeCount).toBeLessThanOrEqual(plan.mergeGrid);
      checkPlan(plan, batch, own);
    });
  });
});

test("device lengths keep every key and call none full", () => {
  const plan = new Planner({ ...options, windowLeft: 10, deviceLengths: true }).plan(
    pagedBatch([3], [400]),
  );
  const records = recordsOf(plan);
  expect(Math.min(...records.map(({ kvStart }) => kvStart))).toBe(0);
  expect(Math.max(...records.map(({ kvEnd }) => kvEnd))).toBe(400);
  for (const { fullStart, fullEnd } of records) expect(fullEnd).toBe(fullStart);
});

test("several levels are refused under batchInvariant", () => {
  forSeeds(50, (random) => {
    const own = { ...randomOptions(random), batchInvariant: true };
    const batch = randomBatch(random, own);
    const plan = () => new Planner(own).plan(batch);
    if (batch.layout.levels.length > 1) expect(plan).toThrow(OptionError);
    else plan();
  });
});

test("a prefix is shared when reads saved outweigh merges", () => {
  expect(worthSharing(defaultCosts, 4096, 8, 8, 4)).toBe(true);
  expect(worthSharing(defaultCosts, 16, 2, 2, 8)).toBe(false);
  expect(worthSharing(cpuCosts(2), 256, 8, 8, 4)).toBe(false);
  expect(worthSharing(defaultCosts, 4096, 1, 1, 4)).toBe(false);
  expect(worthSharing(defaultCosts, 0, 8, 8, 4)).toBe(false);
});

test("bad planner options name the option", () => {
  expect(() => new Planner({ ...options, queryHeads: 30 })).toThrow("queryHeads must be");
  expect(() => new Planner({ ...options, processors: 0 })).toThrow("processors must be");
  expect(() => new Planner({ ...options, classes: [] })).toThrow("classes must be");
  const graph = { maxBatch: 4, maxQueryTokens: NaN, maxColumns: 1 };
  expect(() => new Planner({ ...options, graph })).toThrow("graph.maxQueryTokens must be");
});
