import { describe, expect, test } from "bun:test";
import { cpuClasses } from "../../src/attention/families/cpu.ts";
import { PlanError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { checkPlan } from "../../src/plan/check.ts";
import { coverageOf } from "../../src/plan/coverage.ts";
import type { PlannerOptions } from "../../src/plan/options.ts";
import type { Plan } from "../../src/plan/plan.ts";
import { Planner } from "../../src/plan/planner.ts";
import { Ranges } from "../../src/plan/ranges.ts";
import { type PlanRecord, recordsOf } from "../../src/plan/record.ts";
import type { Visible } from "../../src/variant/variant.ts";
import { forSeeds, type Random } from "../support/random.ts";
import { pagedBatch } from "./example.ts";
import { randomBatch, randomOptions } from "./support.ts";

/** Whether a query at a position sees a key of its request. */
type Predicate = (request: number, query: number, key: number) => boolean;

/** A mask by definition, and the ranges that a variant would give of it. */
interface Mask {
  sees: Predicate;
  visible: Visible;
}

/** Ranges by looking at every pair: keys that any query of a tile sees, full where all do. */
function bruteForce(sees: Predicate): Visible {
  return ({ request, queryStart, queryEnd, kvLength }, ranges) => {
    for (let key = 0; key < kvLength; key++) {
      let count = 0;
      for (let query = queryStart; query < queryEnd; query++)
        count += Number(sees(request, query, key));
      if (count > 0) ranges.add(key, key + 1, count === queryEnd - queryStart);
    }
  };
}

/** Masks of several shapes, with ranges found by looking, or given loosely by hand. */
function randomMask(random: Random): Mask {
  const [a, b] = [random.integer(1, 9), random.integer(1, 80)];
  const noise = random.integer(0, 1 << 30);
  const sees = random.pick<Predicate>([
    (_, query, key) => key <= query,
    (_, query, key) => key < a || (key <= query && key > query - b),
    (request, query, key) => key <= query || key < a * b - request,
    (_, query, key) => Math.floor(query / b) === Math.floor(key / b),
    (request, query, key) => (query - key + request) % (a + 1) === 0,
    (_, query, key) => ((Math.floor(query / 16) * 31 + Math.floor(key / b)) * 7919 + noise) % 5 < 2,
    (_, query, key) => ((query * 31 + key) * 7919 + noise) % 101 === 0,
    () => false,
    () => true,
  ]);
  const exact = bruteForce(sees);
  // Looser ranges are allowed: nothing full, and more keys than any query sees.
  const loose: Visible = (tile, ranges) => {
    const found: number[] = [];
    exact(tile, { add: (start) => void found.push(start) });
    for (const key of found) ranges.add(key - 3, key + a, false);
  };
  return { sees, visible: random.chance(0.3) ? loose : exact };
}

function keyPosition(plan: Plan, batch: Batch, record: PlanRecord, kept: number): number {
  const { blockSize } = batch.layout;
  if (record.columnOffset < 0) return record.positionStart + kept;
  const at = plan.offsets.columns + record.columnOffset + Math.floor(kept / blockSize);
  const column = plan.sections[at] >> 1;
  return record.positionStart + column * blockSize + (kept % blockSize);
}

/** Positions that a layout row keeps. */
function keptPositions(batch: Batch, l: number, row: number): number[] {
  const { columns, columnIndptr, kvLengths, positionStarts } = batch.layout.levels[l];
  const { blockSize } = batch.layout;
  return Array.from({ length: kvLengths[row] }, (_, kept) => {
    if (columns === null) return positionStarts[row] + kept;
    const column = columns[columnIndptr![row] + Math.floor(kept / blockSize)] >> 1;
    return positionStarts[row] + column * blockSize + (kept % blockSize);
  });
}

/** What the plan visits, and calls full, by "unit row level position", against the mask. */
function compare(plan: Plan, batch: Batch, options: PlannerOptions, { sees }: Mask): void {
  const { causal = false, windowLeft = -1, kvHeads } = options;
  const visited = new Map<string, boolean>();
  const records = recordsOf(plan);
  const allowed = (token: number, position: number) => {
    const query = batch.positions[token];
    if (causal && position > query) return false;
    if (windowLeft >= 0 && position < query - windowLeft) return false;
    return sees(batch.tokenRequests[token], query, position);
  };
  for (const record of records) {
    for (let row = record.rowStart; row < record.rowStart + record.rowCount; row++) {
      const token = Math.floor(row / record.queryHeadCount);
      for (let kept = record.kvStart; kept < record.kvEnd; kept++) {
        const position = keyPosition(plan, batch, record, kept);
        const name = `${record.kvHead} ${row} ${record.level} ${position}`;
        if (visited.has(name)) throw new Error(`${name} is visited twice`);
        const full = kept >= record.fullStart && kept < record.fullEnd;
        if (full && !allowed(token, position)) throw new Error(`${name} is no full key`);
        visited.set(name, full);
      }
    }
  }
  const heads = records[0]?.queryHeadCount ?? 1;
  batch.layout.levels.forEach((level, l) => {
    for (let r = 0; r < level.requestRows; r++) {
      for (let unit = 0; unit < options.queryHeads / heads; unit++) {
        const kvHead = Math.floor((unit * heads * kvHeads) / options.queryHeads);
        const positions = keptPositions(batch, l, level.perHead ? r * kvHeads + kvHead : r);
        for (
          let row = level.queryIndptr[r] * heads;
          row < level.queryIndptr[r + 1] * heads;
          row++
        ) {
          for (const position of positions) {
            if (!allowed(Math.floor(row / heads), position)) continue;
            const name = `${unit} ${row} ${l} ${position}`;
            if (!visited.has(name)) throw new Error(`${name} is not visited`);
          }
        }
      }
    }
  });
}

test("plans narrowed by 4,000 random masks visit every visible key once, and are proven", () => {
  let lists = 0;
  forSeeds(4000, (random) => {
    const mask = randomMask(random);
    const options = {
      ...randomOptions(random),
      visible: mask.visible,
      hookMasks: true,
      batchInvariant: random.chance(0.15),
    };
    const batch = randomBatch(random, options, options.batchInvariant);
    const plan = new Planner(options).plan(batch);
    checkPlan(plan, batch, options);
    if (batch.tokenCount <= 40) compare(plan, batch, options, mask);
    const own = batch.layout.levels.reduce((sum, { columns }) => sum + (columns?.length ?? 0), 0);
    lists += Number(recordsOf(plan).some(({ columnOffset }) => columnOffset >= own && own >= 0));
  });
  expect(lists).toBeGreaterThan(200);
}, 300_000);

test("without visible() a variant's mask leaves nothing full", () => {
  forSeeds(300, (random) => {
    const options = { ...randomOptions(random), hookMasks: true };
    const batch = randomBatch(random, options);
    const plan = new Planner(options).plan(batch);
    checkPlan(plan, batch, options);
    for (const { fullStart, fullEnd } of recordsOf(plan)) expect(fullStart).toBe(fullEnd);
  });
});

const shape = { queryHeads: 8, kvHeads: 2, valueDim: 128 };
const { classes } = randomOptionsOnce();

function randomOptionsOnce(): PlannerOptions {
  let found: PlannerOptions | undefined;
  forSeeds(1, (random) => (found = randomOptions(random)));
  return found!;
}

/** Four sinks and a window of 64. */
const sinksAndWindow: Visible = ({ queryStart, queryEnd }, ranges) => {
  ranges.add(0, 4, true);
  ranges.add(queryStart - 63, queryEnd, queryEnd - queryStart === 1);
};

describe("under a graph", () => {
  const graph = { maxBatch: 4, maxQueryTokens: 4, maxColumns: 1024 };
  const base = { ...shape, processors: 4, causal: true, classes, graph, hookMasks: true };

  test("lists have a place of their own, whose address stays", () => {
    const options = { ...base, visible: sinksAndWindow };
    const planner = new Planner(options);
    let places = "";
    for (const keys of [
      [9000, 70, 3],
      [16000, 5000, 4000],
      [1, 2, 3],
    ]) {
      const batch = pagedBatch(
        keys.map(() => 1),
        keys,
      );
      const plan = planner.plan(batch);
      checkPlan(plan, batch, options);
      const now = JSON.stringify([plan.offsets, plan.capacityInts]);
      if (places !== "") expect(now).toBe(places);
      places = now;
      for (const { kvStart, kvEnd } of recordsOf(plan)) expect(kvEnd - kvStart).toBeLessThan(90);
    }
  });

  test("tiles whose lists find no room get the hull of their ranges", () => {
    const comb: Visible = ({ kvLength }, ranges) => {
      for (let key = 0; key < kvLength; key += 32) ranges.add(key, key + 16, true);
    };
    const options = {
      ...base,
      graph: { ...graph, maxBatch: 600, maxColumns: 16384 },
      visible: comb,
    };
    const keys = new Array(600).fill(16000);
    const batch = pagedBatch(new Array(4).fill(1).concat(new Array(596).fill(0)), keys);
    const many = { ...options, graph: { ...options.graph, maxQueryTokens: 600 } };
    checkPlan(new Planner(options).plan(batch), batch, options);
    const wide = pagedBatch(new Array(600).fill(1), keys);
    const plan = new Planner(many).plan(wide);
    const lists = recordsOf(plan).filter(({ columnOffset }) => columnOffset >= 0).length;
    expect(lists).toBeGreaterThan(0);
    expect(lists).toBeLessThan(recordsOf(plan).length);
    expect(plan.sectionInts).toBeLessThanOrEqual(plan.capacityInts);
  });
});

test("lengths known only on the device narrow nothing", () => {
  const never: Visible = () => {
    throw new Error("visible() is not asked");
  };
  const options = { ...shape, processors: 4, classes, deviceLengths: true, hookMasks: true };
  const batch = pagedBatch([1, 3], [500, 40]);
  const [narrow, plain] = [{ ...options, visible: never }, options].map((each) =>
    recordsOf(new Planner(each).plan(batch)),
  );
  expect(narrow).toEqual(plain);
});

test("batch-invariant pieces under a mask do not depend on neighbours", () => {
  forSeeds(300, (random) => {
    const mask = randomMask(random);
    const options = {
      ...randomOptions(random),
      batchInvariant: true,
      hookMasks: true,
      visible: mask.visible,
    };
    const keys = random.integer(30, 400);
    const kvTile = options.classes.at(-1)!.kvTile;
    const plan = new Planner(options).plan(pagedBatch([random.integer(1, 30)], [keys]));
    for (const { columnOffset, kvStart } of recordsOf(plan)) {
      expect(columnOffset).toBe(-1);
      expect(kvStart % kvTile).toBe(0);
    }
  });
});

test("narrowing makes no garbage once warm", async () => {
  const { heapStats } = await import("bun:jsc");
  const options = { ...shape, processors: 3, causal: true, classes, hookMasks: true };
  const planner = new Planner({ ...options, visible: sinksAndWindow });
  const batch = pagedBatch([...new Array(63).fill(1), 300], new Array(64).fill(2000));
  for (let i = 0; i < 2000; i++) planner.plan(batch);
  Bun.gc(true);
  const before = heapStats();
  for (let i = 0; i < 2000; i++) planner.plan(batch);
  const after = heapStats();
  expect(after.objectCount - before.objectCount).toBeLessThan(100);
  expect(after.heapSize - before.heapSize).toBeLessThan(64 * 1024);
});

test("of several full runs the longest is called full", () => {
  const runs: Visible = (_, ranges) => {
    ranges.add(0, 40, true);
    ranges.add(41, 300, true);
    ranges.add(301, 400, true);
  };
  const options = { ...shape, processors: 1, classes, batchInvariant: true, visible: runs };
  const [record] = recordsOf(new Planner(options).plan(pagedBatch([1], [500])));
  expect(record).toMatchObject({ kvStart: 0, kvEnd: 400, fullStart: 41, fullEnd: 300 });
});

/**
 * Pairs in the blocks of 128 x 128 where any pair is seen: what FlexAttention's block mask keeps.
 */
function blockMaskPairs(sees: Predicate, tokens: number): number {
  let pairs = 0;
  for (let query = 0; query < tokens; query += 128) {
    for (let key = 0; key < tokens; key += 128) {
      let some = false;
      for (let q = query; q < query + 128 && !some; q++)
        for (let k = key; k < key + 128 && !some; k++) some = sees(0, q, k);
      if (some) pairs += 128 * 128;
    }
  }
  return pairs;
}

test.each<[string, Predicate]>([
  ["causal", (_, query, key) => key <= query],
  ["window with sinks", (_, q, k) => k <= q && (k < 4 || k > q - 256)],
  ["prefix-LM", (_, query, key) => key < 300 || key <= query],
  ["documents", (_, query, key) => Math.floor(query / 400) === Math.floor(key / 400)],
  ["dilated", (_, query, key) => key <= query && Math.floor((query - key) / 128) % 4 === 0],
  ["blocks", (_, q, k) => (Math.floor(q / 128) * 5 + Math.floor(k / 128) * 3) % 7 < 2],
])("%s: no more pairs than a block mask of 128 x 128 keeps", (_, sees) => {
  const tokens = 2048;
  const batch = pagedBatch([tokens], [tokens]);
  const options = { ...shape, processors: 8, classes: cpuClasses, hookMasks: true };
  const planner = new Planner({ ...options, visible: bruteForce(sees) });
  const { all, planned } = coverageOf(planner.plan(batch), batch);
  expect(all).toBe(8 * tokens * tokens);
  expect(planned / 8).toBeLessThanOrEqual(blockMaskPairs(sees, tokens));
});

describe("ranges", () => {
  test("that fall back, or are no whole numbers, are refused", () => {
    const ranges = new Ranges();
    for (const [start, end] of [
      [4, 9],
      [NaN, 30],
      [20, NaN],
      [20.5, 30],
    ]) {
      ranges.clear(100);
      ranges.add(10, 20, true);
      expect(() => ranges.add(start, end, true)).toThrow(PlanError);
    }
  });

  test("combine as sets of positions do", () => {
    forSeeds(2000, (random) => {
      const make = () => {
        const ranges = new Ranges();
        const marks = new Int8Array(40);
        ranges.clear(40);
        for (let at = -2; at < 50;) {
          const end = at + random.integer(0, 6);
          const full = random.chance(0.5);
          ranges.add(at, end, full);
          for (let i = Math.max(at, 0); i < Math.min(end, 40); i++) marks[i] ||= full ? 2 : 1;
          at = Math.max(at, end - random.integer(0, 2)) + random.integer(0, 5);
        }
        return { ranges, marks };
      };
      const [a, b] = [make(), make()];
      for (const both of [true, false]) {
        const result = new Ranges();
        result.combine(a.ranges, b.ranges, both);
        const marks = new Int8Array(40);
        const { data, length } = result.list;
        for (let i = 0; i < length; i++) {
          if (i > 0) expect(data[3 * i]).toBeGreaterThanOrEqual(data[3 * i - 2]);
          marks.fill(data[3 * i + 2] + 1, data[3 * i], data[3 * i + 1]);
        }
        const expected = a.marks.map((mark, i) => {
          const inside = both ? mark > 0 && b.marks[i] > 0 : mark > 0 || b.marks[i] > 0;
          return inside ? (mark === 2 && b.marks[i] === 2 ? 2 : 1) : 0;
        });
        expect([...marks]).toEqual([...expected]);
      }
    });
  });
});
