import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { offerOf } from "../../src/attention/families/resolve.ts";
import { families } from "../../src/attention/families/table.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { defineCudaVariant, defineVariant } from "../../src/variant/define.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { type LibraryCase, libraryCases } from "../support/library.ts";
import { projectionCases } from "../support/projections.ts";
import { optionsOf } from "../support/rig.ts";
import { sweepCases } from "../support/deep.ts";
import { gpuTarget } from "../support/targets.ts";
import { warmUp } from "../support/warm.ts";
import { indptrOf, normals, poisoned } from "../support/numbers.ts";
import { oracle } from "../support/oracle.ts";
import { seeded } from "../support/random.ts";
import { Rig } from "../support/rig.ts";
import { raggedTensors, runCase, World } from "../support/world.ts";

/** Tiles of 256 rows and their rests, beside requests that go to smaller tiles. */
const lengths = { queryLengths: [150, 1, 70, 0, 40], kvLengths: [150, 60, 333, 9, 40] };
const shape = { ...lengths, headDim: 128, dtype: "bf16", pageSize: 0, queryHeads: 4 } as const;

function many(name: string, over: Partial<Case>): Case {
  return caseOf(name, { ...shape, ...over });
}

/** Each varies one thing around a batch whose rows fill tiles, end within them and begin in one. */
function cases(): Case[] {
  const dims = [64, 96, 128].flatMap((headDim) =>
    (["bf16", "f16"] as const).map((dtype) => many(`${dtype}, dim ${headDim}`, { headDim, dtype })),
  );
  // Of more keys prompts are in larger tiles.
  dims.push(many("bf16, dim 64, long", { headDim: 64, queryLengths: [200], kvLengths: [1100] }));
  const groups = [1, 3, 5, 8, 16].map((group) =>
    many(`group ${group}`, {
      queryHeads: 2 * group,
      pageSize: 16,
      seed: group,
      queryLengths: [Math.ceil(400 / group), 3],
      kvLengths: [Math.ceil(900 / group), 300],
    }),
  );
  const pages = [1, 5, 8, 16, 24, 64, 128].flatMap((pageSize) =>
    [true, false].map((causal) =>
      many(`pages of ${pageSize}, ${causal ? "causal" : "full"}`, {
        pageSize,
        causal,
        seed: pageSize,
        storage: pageSize === 16 ? "HND" : pageSize === 64 ? "strided" : "NHD",
      }),
    ),
  );
  const long = { queryHeads: 2, queryLengths: [90], kvLengths: [1500], pageSize: 16 };
  const options: [string, Partial<Case>][] = [
    ["not causal", { causal: false }],
    ["window 0", { windowLeft: 0 }],
    ["window 10", { windowLeft: 10, pageSize: 16 }],
    ["window 150", { windowLeft: 150, pageSize: 64 }],
    ["window 100, not causal", { windowLeft: 100, causal: false }],
    ["sinks", { sinks: true }],
    ["raw state of base 2", { sinks: true, finalize: false, lseBase: "2" }],
    ["a negative scale", { scale: -0.05 }],
    ["batch invariant", { batchInvariant: true, pageSize: 16 }],
    ["batch invariant, a window", { batchInvariant: true, windowLeft: 90, pageSize: 5 }],
    ["batch invariant, dim 192", { batchInvariant: true, headDim: 192 }],
    ["a scale of large logits", { scale: 3, causal: false }],
    ["large logits in f16", { scale: 3, dtype: "f16", kvDtype: "f16", outDtype: "f16" }],
    ["f32 out", { outDtype: "f32" }],
    ["fp8 out", { outDtype: "f8e4m3", outScale: 0.02 }],
    ["fp8 out of e5m2, split rows", { ...long, outDtype: "f8e5m2", pageSize: 16 }],
    ["scales by head", { scales: "head" }],
    ["scales by request", { scales: "request", pageSize: 16 }],
    ["more queries than keys", { queryLengths: [300, 90], kvLengths: [100, 0] }],
    ["split rows", { queryHeads: 2, queryLengths: [90], kvLengths: [3000], pageSize: 16 }],
    ["short prompts", { queryLengths: [150, 0, 200], kvLengths: [150, 9, 333] }],
    ["short prompts, more queries than keys", { queryLengths: [300, 150], kvLengths: [100, 0] }],
    ["split rows of a window", { queryLengths: [100], kvLengths: [2000], windowLeft: 1500 }],
    ["keys of 192, values of 128", { headDim: 192, valueDim: 128 }],
    ["dim 192", { headDim: 192, pageSize: 16 }],
    ["dim 256", { headDim: 256, pageSize: 64 }],
    ["dim 256 in f16", { headDim: 256, dtype: "f16" }],
    ...wideHeads(),
    ["a soft cap", { softCap: 5 }],
    ["a soft cap, split rows, f16", { ...long, softCap: 20, dtype: "f16" }],
    ["a soft cap of dim 256", { softCap: 5, headDim: 256, pageSize: 64 }],
    ["ALiBi", { alibi: true }],
    ["ALiBi, not causal, dim 64", { alibi: true, causal: false, headDim: 64, pageSize: 16 }],
    ["ALiBi, a soft cap, sinks", { alibi: true, softCap: 8, sinks: true, windowLeft: 90 }],
    ["ALiBi of large logits", { alibi: true, scale: 3, causal: false }],
    ["a mask over all keys", { mask: "all", causal: false, pageSize: 16 }],
    ["a mask over all keys, causal", { mask: "all", headDim: 64 }],
    ["a mask over the tail", { mask: "tail", causal: false }],
    ["a mask over the tail, split rows", { ...long, mask: "tail", alibi: true }],
    ["scales by token", { scales: "token", pageSize: 16 }],
    ["scales by token, ragged", { scales: "token", headDim: 96 }],
    ["scales by token, ALiBi", { scales: "token", alibi: true, pageSize: 5, scale: -0.1 }],
    ["scales by token, f16", { scales: "token", dtype: "f16", pageSize: 16 }],
    ["scales by token, f16, split rows", { ...long, scales: "token", dtype: "f16" }],
  ];
  const hooked = variants.map(({ name, over, ...variant }) =>
    many(name, { headDim: 64, pageSize: 16, ...over, variant }),
  );
  const list = [...options, ...changing(long)].map(([name, over]) => many(name, over));
  return [...dims, ...groups, ...pages, ...list, ...hooked];
}

const isProjection = (each: LibraryCase) => projectionCases.includes(each);
const variants: LibraryCase[] = [
  // The library's own norm is of heads of 32; projections go to the tiled kernels.
  ...libraryCases.filter((each) => !each.name.startsWith("QK norm") && !isProjection(each)),
  {
    name: "normalised queries",
    variant: defineVariant({
      name: "normalised queries",
      query: (x, { head }) => x.mul(x.mul(x).sum().add(1e-6).rsqrt()).mul(head.add(5).toF32()),
    }),
  },
  {
    name: "normalised queries and keys",
    variant: defineVariant({
      name: "normalised queries and keys",
      query: (x) => x.mul(x.mul(x).sum().add(1e-6).rsqrt()).mul(8),
      key: (x, { key }) => x.mul(x.mul(x).sum().add(1e-6).rsqrt()).mul(key.and(3).add(3).toF32()),
    }),
  },
  {
    name: "hooks in CUDA",
    variant: defineCudaVariant({
      name: "written",
      hooks: ["logits", "mask"],
      source: `
        FB_DEVICE float logits(const fb_attention_params& p, const RowInputs& row,
                               const KeyInputs& key, float x) {
            return x + 0.25f * float((row.query + key.key) % 3);
        }
        FB_DEVICE bool mask(const fb_attention_params& p, const RowInputs& row,
                            const KeyInputs& key) {
            return (key.key + row.head) % 5 != 0;
        }`,
    }),
    meaning: () => ({
      softmax: true,
      logits: (x, { query }, { key }) => x + 0.25 * ((query + key) % 3),
      mask: ({ head }, { key }) => (key + head) % 5 !== 0,
    }),
  },
];

/** Heads of 512: one warpgroup scores, two share the columns of values. */
function wideHeads(): [string, Partial<Case>][] {
  const lengths = { queryLengths: [35, 1, 18, 0], kvLengths: [100, 60, 170, 9] };
  const wide = { ...lengths, headDim: 512, kvHeads: 1, scale: 0.04 };
  const cases: [string, Partial<Case>][] = [
    ["ragged", {}],
    ["pages of 16", { pageSize: 16, storage: "HND" }],
    ["scales by token, f16, pages of 64", { scales: "token", dtype: "f16", pageSize: 64 }],
    ["pages of 1, a window, sinks", { pageSize: 1, windowLeft: 40, sinks: true }],
    ["a window of 10, not causal", { pageSize: 64, windowLeft: 10, causal: false }],
    [
      "a soft cap, ALiBi, a mask, pages of 5",
      { softCap: 8, alibi: true, mask: "all", pageSize: 5 },
    ],
    [
      "large logits of a negative scale",
      { scale: -1, causal: false, finalize: false, pageSize: 16 },
    ],
    ["fp8 out, a base of 2", { outDtype: "f8e4m3", outScale: 0.02, lseBase: "2" }],
    ["split rows", { queryHeads: 2, queryLengths: [40], kvLengths: [700], pageSize: 16 }],
    ["batch invariant, a window", { batchInvariant: true, windowLeft: 90, outDtype: "f32" }],
    ["group 8", { queryHeads: 16, kvHeads: 2, queryLengths: [21, 3], kvLengths: [70, 90] }],
  ];
  return cases.map(([name, over]) => [`dim 512, ${name}`, { ...wide, ...over }]);
}

/** Keys and values that a warpgroup changes or turns on their way. */
function changing(long: Partial<Case>): [string, Partial<Case>][] {
  const turning = { dim: 128, interleaved: false, theta: 1e4 };
  const yarn = { kind: "yarn", factor: 4, originalPositions: 64, attentionFactor: 1.5 } as const;
  const fp8 = { kvDtype: "f8e4m3", pageSize: 16 } as const;
  const gathered256 = { ...fp8, headDim: 256, pageSize: 5, dtype: "f16" } as const;
  return [
    ["fp8 keys", { kvDtype: "f8e4m3", pageSize: 16 }],
    ["fp8 keys, ragged, not causal", { kvDtype: "f8e4m3", causal: false, scales: "head" }],
    ["fp8 keys of e5m2, dim 64", { kvDtype: "f8e5m2", headDim: 64, pageSize: 64 }],
    ["fp8 keys, large logits", { ...fp8, scale: 3 }],
    ["fp8 keys, scales by token", { kvDtype: "f8e4m3", scales: "token", pageSize: 16 }],
    ["fp8 keys, f16, scales by token", { ...fp8, scales: "token", dtype: "f16" }],
    ["fp8 keys, scales by request, a window", { ...fp8, scales: "request", windowLeft: 90 }],
    ["fp8 keys of 192, values of 128", { ...fp8, headDim: 192, valueDim: 128, windowLeft: 10 }],
    ["fp8 keys of dim 96, gathered", { kvDtype: "f8e5m2", headDim: 96, pageSize: 5 }],
    ["fp8 keys, split rows, a soft cap", { ...long, kvDtype: "f8e4m3", softCap: 20, alibi: true }],
    ["fp8 keys, strided pages", { ...fp8, storage: "strided" }],
    ...fp8Products(long),
    ["rope", { rope: turning }],
    ["rope, interleaved, pages", { rope: { ...turning, interleaved: true }, pageSize: 16 }],
    ["rope by YaRN", { rope: { ...turning, scaling: yarn } }],
    ["rope of some elements, dim 64", { rope: { ...turning, dim: 12 }, headDim: 64, pageSize: 5 }],
    ["rope, dim 96, ALiBi", { rope: { ...turning, dim: 96 }, headDim: 96, alibi: true }],
    ["rope, keys of 192", { ...fp8, rope: turning, headDim: 192, valueDim: 128, kvDtype: "bf16" }],
    ["rope, dim 192", { rope: turning, headDim: 192, pageSize: 16 }],
    ["fp8 keys of 192", { ...fp8, headDim: 192, scales: "token" }],
    ["fp8 keys of 256", { ...fp8, headDim: 256, scales: "token" }],
    ["fp8 keys of 256, gathered, a soft cap", { ...gathered256, softCap: 20, alibi: true }],
    ["rope, dim 256", { rope: { ...turning, dim: 256 }, headDim: 256, pageSize: 16 }],
    ["rope, fp8 keys of 256", { ...fp8, rope: turning, headDim: 256, windowLeft: 100 }],
    ["rope, fp8 keys of 192, a soft cap", { ...fp8, rope: turning, headDim: 192, softCap: 20 }],
    ["rope, fp8 keys, a window", { ...fp8, rope: turning, windowLeft: 100 }],
    ["rope in f16, split rows", { ...long, rope: { ...turning, dim: 64 }, dtype: "f16" }],
  ];
}

/** Queries, keys and values of fp8, multiplied as such. */
function fp8Products(long: Partial<Case>): [string, Partial<Case>][] {
  const fp8 = { dtype: "f8e4m3", kvDtype: "f8e4m3", outDtype: "bf16" } as const;
  const cases: [string, Partial<Case>][] = [
    ["plain", {}],
    ["not causal, scales by head", { causal: false, scales: "head", qScales: "head" }],
    ["pages of 16, scales by token and head", { pageSize: 16, qScales: "both" }],
    ["fast, pages of 5", { pageSize: 5, qScales: "token", fastAccumulation: true }],
    ["pages of 64, scales by request", { pageSize: 64, scales: "request", qScales: "tensor" }],
    ["strided pages, a window", { pageSize: 16, storage: "strided", windowLeft: 90 }],
    ["a window of 10, pages of 64", { pageSize: 64, windowLeft: 10, causal: false }],
    ["split rows", { ...long, qScales: "both", sinks: true }],
    ["a soft cap, ALiBi", { softCap: 8, alibi: true, qScales: "both", pageSize: 16 }],
    ["a mask over all keys", { mask: "all", causal: false, pageSize: 16 }],
    ["a raw state in f32", { finalize: false, outDtype: "f32", lseBase: "2", qScales: "token" }],
    ["fast, fp8 out", { outDtype: "f8e4m3", outScale: 0.02, fastAccumulation: true }],
    ["a negative scale", { scale: -0.05, qScales: "both" }],
    ["scales of all signs", { qScales: "signs", causal: false }],
    ["a scale of large logits", { scale: 3, causal: false }],
    ["fast, large logits, split rows", { ...long, scale: 0.7, fastAccumulation: true }],
    ["equal weights", { scale: 1e-4, causal: false, pageSize: 16 }],
    ["group 8", { queryHeads: 16, queryLengths: [50, 3], kvLengths: [120, 300] }],
  ];
  const wider: [string, Partial<Case>][] = [
    ["dim 64", { headDim: 64, pageSize: 16, qScales: "both" }],
    ["e5m2", { dtype: "f8e5m2", kvDtype: "f8e5m2", scales: "head", qScales: "token" }],
    ["beside bf16", { kvDtype: "bf16", qScales: "head", causal: false }],
    ["rope", { rope: { dim: 128, interleaved: false, theta: 1e4 }, qScales: "both" }],
    ["keys of 192, values of 128", { headDim: 192, valueDim: 128, alibi: true }],
  ];
  return [
    ...cases.map(([name, over]): [string, Partial<Case>] => [
      `fp8 products, ${name}`,
      { ...fp8, ...over },
    ]),
    ...wider.map(([name, over]): [string, Partial<Case>] => [
      `fp8 queries, ${name}`,
      { ...fp8, ...over },
    ]),
  ];
}

const clamped = [
  many("causal", { headDim: 64 }),
  many("full, ALiBi", { causal: false, alibi: true }),
  many("a window", { windowLeft: 60, headDim: 64 }),
  many("dim 512", { headDim: 512, queryHeads: 2, kvHeads: 1, scale: 0.04 }),
].map((c) => ({ ...c, pageSize: 16, queryLengths: [150, 70, 40], kvLengths: [150, 333, 400] }));

/** A request for each two processors: keys of most, and of one of them. */
const fewRequests: [string, [each: number, one: number], Partial<Case>][] = [
  ["of equal keys, 64 rows", [300, 300], { pageSize: 16, queryHeads: 64 }],
  ["one is cut, pages of 5", [200, 2500], { pageSize: 5, queryHeads: 40 }],
  ["one has a tile, pages of 64, a base of 2", [129, 20], { pageSize: 64, lseBase: "2" }],
  ["a window, sinks", [300, 70], { pageSize: 64, queryHeads: 48, windowLeft: 70, sinks: true }],
  ["large logits in f16", [200, 65], { pageSize: 16, queryHeads: 48, scale: 3, dtype: "f16" }],
  ["NaN and infinities", [200, 64], { pageSize: 16, queryHeads: 48, notFinite: true }],
];

/** Rows whose bits no neighbour may change: neither in the batch nor in the tile. */
const invariant = [
  many("causal", {}),
  many("f16, dim 64", { dtype: "f16", kvDtype: "f16", headDim: 64 }),
  many("a window", { windowLeft: 90 }),
  many("large logits", { scale: 1 }),
  many("a soft cap", { softCap: 20, scale: 1 }),
  many("fp8 keys", { kvDtype: "f8e4m3", scale: 1 }),
  many("dim 256", { headDim: 256, scale: 1 }),
  many("dim 512", { headDim: 512, queryHeads: 2, kvHeads: 1, scale: 1 }),
].map((c) => ({ ...c, batchInvariant: true, outDtype: "f32" as const }));

/** Steps of nothing but short prompts. */
const short = (
  [
    ["causal", {}],
    ["f16", { dtype: "f16" }],
    ["group 8, strided", { queryHeads: 8, kvHeads: 1, storage: "strided" }],
    ["a window, pages of 1", { windowLeft: 40, pageSize: 1 }],
    ["sinks, raw state of base 2", { sinks: true, finalize: false, lseBase: "2", pageSize: 64 }],
    ["scales by head, fp8 out", { scales: "head", outDtype: "f8e4m3", outScale: 0.02 }],
    ["large logits of a negative scale", { scale: -3, storage: "HND" }],
    ["split rows", { queryHeads: 2, queryLengths: [200], kvLengths: [1000] }],
  ] satisfies [string, Partial<Case>][]
).map(([name, over]) =>
  many(name, { queryLengths: [150, 0, 200], kvLengths: [150, 9, 333], pageSize: 16, ...over }),
);

const wanted = new RegExp(process.env["FLASHBUN_TEST_CASES"] ?? "");
const chosen = cases().filter(({ name }) => wanted.test(name));
const target = gpuTarget();
const opened = await target?.open(1);
const able = opened !== undefined && opened.properties.computeMajor === 9;

describe.if(able)(`Hopper attention on ${target?.name}`, () => {
  const device = opened!;
  beforeAll(() => {
    const options = clamped.map((c) => ({ ...optionsOf(c), deviceLengths: true }));
    return warmUp(device, [...[...chosen, ...short].map(optionsOf), ...options]);
  }, 600_000);
  afterAll(() => device[Symbol.asyncDispose]());

  test.each(chosen.map((c) => [c.name, c] as const))(
    "%s",
    (_, c) => {
      const { classes } = offerOf(families.cuda, device.properties, resolveOptions(optionsOf(c)));
      const { name } = classes.at(-1)!;
      const plain64 = /^b?f16, dim 64/.test(c.name);
      const least = c.headDim === 512 ? "tile64" : "tile128";
      const tile = c.batchInvariant ? least : plain64 ? "tile192" : "tile256";
      const products = c.fastAccumulation ? "fp8-fast." : "fp8.";
      expect(name).toBe(`hopper.${/^fp8 products/.test(c.name) ? products : ""}${tile}`);
      runCase(device, c);
    },
    300_000,
  );

  // Weights that f32 takes for 0 make NaN of an infinite value, and the oracle's infinity.
  const moderate = chosen.filter(({ scale }) => scale < 1);
  sweepCases("NaN and infinities", moderate, 12, (c, seed) => {
    runCase(device, { ...c, seed, notFinite: true });
  });

  test.each(short.map((c) => [c.name, c] as const))(
    "short prompts have blocks of their own: %s",
    (_, c) => {
      for (const notFinite of c.scale > -1 ? [false, true] : [false]) {
        using world = new World(device, { ...c, notFinite }, { pages: 600 });
        world.run();
        const used = world.rig.attention.lastPlan!.launches.filter(
          ({ recordCount }) => recordCount > 0,
        );
        expect(used.map(({ kernelClass }) => kernelClass)).toEqual(["hopper.short128"]);
      }
    },
    300_000,
  );

  test.each(clamped.map((c) => [c.name, c] as const))(
    "lengths that only the device knows: %s",
    (_, c) => {
      for (const kept of [
        {},
        { kv: [90, 333, 41] },
        { kv: [150, 200, 40], queries: [1, 33, 40] },
      ]) {
        using world = new World(device, c, { pages: 60, attention: { deviceLengths: true } });
        const sequences = c.kvLengths.map(() => world.create());
        const queries = c.queryLengths.map((count) => world.rig.queries(count));
        world.grow(
          sequences,
          c.kvLengths.map((length, i) => length - c.queryLengths[i]),
        );
        const batch = world.grow(sequences, c.queryLengths, queries);
        world.rig.check(batch, world.requests(sequences, queries), { cache: world.cache }, kept);
        const used = world.rig.attention.lastPlan!.launches.filter(({ grid }) => grid > 0);
        expect(used.at(-1)!.kernelClass).toMatch(/^hopper/);
      }
    },
    300_000,
  );

  test("sums of long rows of fp8 products lose little, and more by fast accumulation", () => {
    const [queries, keys, dim] = [70, 4096, 128];
    const random = seeded(5);
    const numbers = (count: number) => normals(random, count * dim, "f8e4m3");
    const [q, k] = [numbers(queries), numbers(keys)];
    // Above 0: what is cut off adds up.
    const v = roundTo(
      "f8e4m3",
      numbers(keys).map((x) => 1 + Math.abs(x)),
    );
    // As many heads, all alike, as leave rows cut in two: few tiles would be the same sums.
    const heads = Math.ceil(device.processors / 4);
    const tensor = (x: Float64Array) => {
      const alike = new Float64Array(heads * x.length);
      for (let i = 0; i < heads * x.length; i += dim) {
        const row = Math.floor(i / heads / dim) * dim;
        alike.set(x.subarray(row, row + dim), i);
      }
      return Tensor.from(device, alike, [x.length / dim, heads, dim], "f8e4m3");
    };
    const shape = { queryHeads: 1, kvHeads: 1, keyDim: dim, valueDim: dim };
    const exact = oracle({ ...shape, q: q.slice(0, 4 * dim), k, v });
    const [precise, fast] = [false, true].map((fastAccumulation) => {
      const options = { outDtype: "f32", fastAccumulation } as const;
      const actual = attend(tensor(q), tensor(k), tensor(v), options).out.toFloat64Array();
      const first = (i: number) => actual[Math.floor(i / dim) * heads * dim + (i % dim)];
      const errors = exact.out.map((x, i) => first(i) / x - 1);
      return Math.abs(errors.reduce((sum, x) => sum + x, 0)) / errors.length;
    });
    expect(precise).toBeLessThan(0.01);
    expect(fast).toBeLessThan(0.04);
    expect(fast).toBeGreaterThan(precise);
  }, 300_000);

  test.each(invariant.map((c) => [c.name, c] as const))(
    "a batch-invariant token has the same bits in every chunk and batch: %s",
    (_, c) => {
      using rig = new Rig(device, c);
      // One has more keys than a chunk of the plan.
      const keys = c.name === "causal" ? 2300 : 260;
      const [tokens, row] = [90, c.queryHeads * c.headDim];
      const [q, k, v] = [rig.queries(tokens), rig.rows(keys, c.headDim), rig.rows(keys, c.headDim)];
      const other = { q: rig.queries(40), k: rig.rows(70, c.headDim), v: rig.rows(70, c.headDim) };
      const lastOf = (count: number, beside: boolean) => {
        const own = { q: q.slice((tokens - count) * row), k, v };
        const requests = beside ? [other, own] : [own];
        const queryLengths = beside ? [40, count] : [count];
        const kvLengths = beside ? [70, keys] : [keys];
        const layout = raggedLayout(indptrOf(queryLengths), indptrOf(kvLengths));
        const batch = createBatch({ queryLengths, kvLengths, layout });
        const bytes = rig.check(batch, requests, raggedTensors(rig, requests));
        const used = rig.attention.lastPlan!.launches.filter(({ grid }) => grid > 0);
        const tile = c.headDim === 512 ? "hopper.tile64" : "hopper.tile128";
        expect(used.map(({ kernelClass }) => kernelClass)).toEqual([tile]);
        return bytes.slice(-bytes.length / batch.tokenCount);
      };
      const alone = lastOf(1, false);
      for (const count of [2, 17, 33, 70, 90]) expect(lastOf(count, false)).toEqual(alone);
      expect(lastOf(1, true)).toEqual(alone);
      expect(lastOf(50, true)).toEqual(alone);
    },
    300_000,
  );

  test.each(fewRequests)("pairs of blocks share the keys of few: %s", (_, [each, one], over) => {
    const kvLengths = new Array<number>(Math.floor(device.processors / 2)).fill(each).with(0, one);
    const queryLengths = kvLengths.map(() => (over.queryHeads === undefined ? 3 : 1));
    const c = many("few", { queryHeads: 16, kvHeads: 1, queryLengths, kvLengths, ...over });
    const { pageSize } = c;
    const pages = kvLengths.reduce((sum, length) => sum + Math.ceil(length / pageSize), 0);
    using world = new World(device, c, { pages });
    world.run();
    const plan = world.rig.attention.lastPlan!;
    const [{ kernelClass, few }] = plan.launches.filter(({ grid }) => grid > 0);
    expect({ kernelClass, few }).toEqual({ kernelClass: "hopper.tile64", few: true });
    if (each === one) expect(plan.mergeCount).toBe(0);
  });

  test.each([
    ["hopper.short128", true],
    ["hopper.tile256", false],
  ] as const)(
    "values before a window may be anything: %s",
    (kernelClass, causal) => {
      const c = many("window", {
        causal,
        queryLengths: [70],
        kvLengths: [333],
        windowLeft: 100,
        pageSize: 16,
      });
      using world = new World(device, c, { pages: 30 });
      const sequence = world.create();
      world.grow([sequence], [263]);
      const queries = [world.rig.queries(70)];
      const batch = world.grow([sequence], [70], queries);
      const hidden = 263 - 100;
      for (const [i, page] of sequence.pages().entries()) {
        const tokens = Math.min(c.pageSize, hidden - i * c.pageSize);
        if (tokens <= 0) break;
        const values = world.cache.plane(0, "value").select(0, page).slice(0, 0, tokens);
        using nan = poisoned(device, [...values.shape], c.kvDtype);
        values.copyFrom(nan);
      }
      world.rig.check(batch, world.requests([sequence], queries), { cache: world.cache });
      const used = world.rig.attention.lastPlan!.launches.filter(({ grid }) => grid > 0);
      expect(used.map((launch) => launch.kernelClass)).toEqual([kernelClass]);
    },
    300_000,
  );
});

if (opened !== undefined && !able) await opened[Symbol.asyncDispose]();
