import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import type { AttentionOptions } from "../../src/attention/options.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { optionsOf } from "../support/rig.ts";
import { gpuTarget } from "../support/targets.ts";
import { warmUp } from "../support/warm.ts";
import { World } from "../support/world.ts";

const prefix = 150;
/** Tokens of their own; eight heads of each request are the rows of more than one tile. */
const own = [1, 8, 15, 2, 9, 16, 3, 10, 101];
const shape = {
  dtype: "bf16",
  headDim: 128,
  valueDim: 128,
  queryHeads: 16,
  queryLengths: own.map(() => 1),
  kvLengths: own.map((tokens) => prefix + tokens),
} as const;

function named(name: string, over: Partial<Case> = {}): Case {
  const { queryLengths, kvLengths } = shape;
  return caseOf(name, {
    ...shape,
    queryLengths: [...queryLengths],
    kvLengths: [...kvLengths],
    ...over,
  });
}

const cases = [
  named("bf16, pages of 16"),
  named("f16", { dtype: "f16", outDtype: "f32" }),
  named("pages of 5, sinks", { pageSize: 5, sinks: true }),
  named("pages of 64", { pageSize: 64, storage: "HND", causal: false }),
  named("raw state of base 2", { finalize: false, lseBase: "2", storage: "strided" }),
  named("scales by head", { scales: "head", scale: -0.05 }),
  named("NaN and infinities", { notFinite: true }),
];
const graph = { maxBatch: 16, maxQueryTokens: 16, maxColumns: 64 };
/** What keeps to launches by rows. */
const others: [Case, Partial<AttentionOptions>][] = [
  [named("a window", { windowLeft: 200 }), {}],
  [named("lengths that only the device knows", { deviceLengths: true }), {}],
  [named("sizes of graphs"), { graph }],
];

const wanted = new RegExp(process.env["FLASHBUN_TEST_CASES"] ?? "");
const chosen = cases.filter(({ name }) => wanted.test(name));
const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor === 9;

describe.if(able)(`Hopper cascades on ${target?.name}`, () => {
  const device = opened!;
  beforeAll(() => warmUp(device, chosen.map(optionsOf)), 600_000);
  afterAll(() => device[Symbol.asyncDispose]());

  /** The classes that a step launches, whose requests share a prefix. */
  function launched(c: Case, attention: Partial<AttentionOptions> = {}): string[] {
    using world = new World(device, c, { pages: 120, attention });
    const parent = world.create();
    world.grow([parent], [prefix]);
    const all = own.map(() => world.fork(parent));
    world.grow(
      all,
      own.map((tokens) => tokens - 1),
    );
    world.step(all, c.queryLengths, { share: true });
    const { launches } = world.rig.attention.lastPlan!;
    const records = launches.filter(({ recordCount }) => recordCount > 0);
    return records.map(({ kernelClass }) => kernelClass);
  }

  test.each(chosen.map((c) => [c.name, c] as const))(
    "one launch: %s",
    (_, c) => {
      expect(launched(c)).toEqual(["hopper.cascade64"]);
    },
    300_000,
  );

  test.each(others.map(([c, attention]) => [c.name, c, attention] as const))(
    "a launch for each class: %s",
    (_, c, attention) => {
      const names = launched(c, attention);
      expect(names).toHaveLength(2);
      expect(names[0]).toBe("cuda.decode8");
    },
    300_000,
  );
});
