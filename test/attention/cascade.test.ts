import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import type { AttentionOptions } from "../../src/attention/options.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Graph } from "../../src/device/graph.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { indptrOf, poisoned } from "../support/numbers.ts";
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
const prefixGraph = { ...graph, maxQueryLength: 1, sharedPrefix: true };
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

  test("one launch in graphs for shared prefixes", () => {
    const c = named("sizes of graphs");
    expect(launched(c, { graph: prefixGraph })).toEqual(["hopper.cascade64"]);
    expect(launched({ ...c, deviceLengths: true }, { graph: prefixGraph })).toHaveLength(2);
  });

  test("requests without keys have zeros there, too", async () => {
    const heads = { queryHeads: 16, kvHeads: 8, headDim: 128, dtype: "bf16" } as const;
    using attention = await Attention.create(device, { ...heads, graph: prefixGraph });
    const kvLengths = [0, 70, 0];
    const queryLengths = kvLengths.map(() => 1);
    const layout = raggedLayout(indptrOf(queryLengths), indptrOf(kvLengths));
    attention.plan(createBatch({ queryLengths, kvLengths, layout }));
    using q = Tensor.randomNormal(device, [16, 16, 128], "bf16", { seed: 1 });
    using k = Tensor.randomNormal(device, [70, 8, 128], "bf16", { seed: 2 });
    using out = poisoned(device, [...q.shape], "bf16");
    attention.run({ q, k, v: k, out });
    const zeros = kvLengths
      .map((_, row) => out.slice(0, row, row + 1).toFloat64Array())
      .map((values) => values.every((x) => x === 0));
    expect(zeros).toEqual([true, false, true]);
  });

  test("a captured step is right for other requests, prefixes and lengths", async () => {
    const heads = { queryHeads: 16, kvHeads: 8, headDim: 128, dtype: "bf16" } as const;
    using cache = PagedCache.create(device, { layers: 1, ...heads, pages: 120, pageSize: 16 });
    using attention = await Attention.create(device, {
      ...heads,
      causal: true,
      graph: prefixGraph,
    });
    using plain = await Attention.create(device, { ...heads, causal: true });
    const noise = (tokens: number, count: number, seed: number) =>
      Tensor.randomNormal(device, [tokens, count, 128], "bf16", { seed });
    const grow = (sequences: Sequence[], tokens: number, padTo = sequences.length * tokens) => {
      const counts = sequences.map(() => tokens);
      const batch = cache.reserve(sequences, counts, tokens === 1 ? { padTo } : {});
      if (!batch.ok) throw batch.error;
      using k = noise(batch.paddedTokens, 8, tokens);
      using v = noise(batch.paddedTokens, 8, 100 + tokens);
      cache.append({ layer: 0, batch, k, v });
      return batch;
    };
    using q = noise(16, 16, 1);
    const [out, expected] = [0, 1].map(() => Tensor.zeros(device, q.shape, "bf16"));
    let graph: Graph | undefined;
    // Few tokens and many, of one prefix and of none.
    for (const [count, prefix] of [
      [12, 48],
      [16, 480],
      [9, 160],
      [10, 0],
    ]) {
      const parent = cache.sequence();
      grow([parent], prefix + 1);
      const all = Array.from({ length: count }, () => parent.fork());
      grow(all, 5);
      const batch = grow(all, 1, 16);
      expect(cache.sharePrefixes(batch, all, () => true)).toBe(prefix > 0);
      attention.plan(batch);
      const body = () => attention.run({ layer: 0, q, cache, out });
      if (graph === undefined) {
        body();
        graph = device.capture(device.stream, body);
      }
      graph.replay(device.stream);
      plain.plan(batch);
      plain.run({ layer: 0, q, cache, out: expected });
      const [got, wanted] = [out, expected].map((each) => each.slice(0, 0, count).toFloat64Array());
      expect(got.some((value, i) => !(Math.abs(value - wanted[i]) <= 0.02))).toBe(false);
      for (const each of [...all, parent]) each.free();
    }
    graph?.[Symbol.dispose]();
  });

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
