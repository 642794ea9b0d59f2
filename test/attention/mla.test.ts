import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { mla } from "../../src/attention/families/mla.ts";
import { type AttentionOptions, resolveOptions } from "../../src/attention/options.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Device } from "../../src/device/device.ts";
import type { Graph } from "../../src/device/graph.ts";
import { OptionError } from "../../src/errors.ts";
import { architectureFacts } from "../../src/jit/architectures.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { blockMaskLayout } from "../../src/kv/sparse-layout.ts";
import { worthSharing } from "../../src/plan/cost.ts";
import { Planner } from "../../src/plan/planner.ts";
import { decode } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { concatenate, indptrOf, poisoned } from "../support/numbers.ts";
import { type HostRequest, optionsOf, Rig } from "../support/rig.ts";
import { sweepCases } from "../support/deep.ts";
import { gpuTarget } from "../support/targets.ts";
import { warmUp } from "../support/warm.ts";
import { raggedTensors, runCase, World } from "../support/world.ts";

const shape = { kvHeads: 1, headDim: 576, valueDim: 512, dtype: "bf16", latent: true } as const;

function latentCase(name: string, over: Partial<Case>): Case {
  return caseOf(name, { ...shape, pageSize: 64, scale: 1 / Math.sqrt(192), ...over });
}

const lengths = { queryLengths: [1, 1, 1, 1, 1], kvLengths: [1, 64, 65, 200, 127] };

/** Blocks of few rows, of which products are turned around, and of 64. */
const rows = [12, 20, 40];

/** So many keys are split, on four multiprocessors: more where two blocks share them. */
const splitKeys = (queryHeads: number) => (queryHeads < 33 ? 2200 : queryHeads < 65 ? 1000 : 1200);

/** Each varies one thing: heads, new tokens, pages, dtypes, what a record leaves behind. */
const cases: readonly Case[] = [
  ...[1, 16, 17, 32, 33, 64, 100, 128].map((queryHeads) =>
    latentCase(`${queryHeads} heads`, { ...lengths, queryHeads, seed: queryHeads }),
  ),
  latentCase("256 heads are two records", { ...lengths, queryHeads: 256 }),
  ...[2, 3, 4, 5, 6, 7, 8].map((count) =>
    latentCase(`${count} new tokens`, {
      queryHeads: count < 4 ? 8 : 16,
      queryLengths: [count, 1, count],
      kvLengths: [count, 70, 130 + count],
    }),
  ),
  latentCase("2 new tokens of 128 heads", {
    queryHeads: 128,
    queryLengths: [2, 2],
    kvLengths: [65, 130],
  }),
  latentCase("a prompt", { queryHeads: 16, queryLengths: [70], kvLengths: [90] }),
  ...rows.flatMap((queryHeads) => {
    const over = { ...lengths, queryHeads };
    const few = (name: string, more: Partial<Case>) =>
      latentCase(`${name}, ${queryHeads} heads`, { ...over, ...more });
    return [
      ...[1, 5, 16, 48, 128].map((pageSize) => few(`pages of ${pageSize}`, { pageSize })),
      ...[64, 5].map((pageSize) =>
        few(`strided pages of ${pageSize}`, { pageSize, storage: "strided" }),
      ),
      few("pages between others", { storage: "combined" }),
      few("ragged", { pageSize: 0 }),
      few("f16", { dtype: "f16", kvDtype: "f16", outDtype: "f16" }),
      few("outputs in f32", { outDtype: "f32" }),
      few("split rows", { queryLengths: [1], kvLengths: [splitKeys(queryHeads)] }),
      few("sinks, base 2", { sinks: true, lseBase: "2" }),
      few("raw states", { sinks: true, finalize: false }),
      few("scales by request", { scales: "request" }),
      few("a negative scale", { scale: -0.1 }),
      few("large logits", { scale: 3 }),
    ];
  }),
  ...[1, 16].map((pageSize) =>
    latentCase(`pages of ${pageSize}, 128 heads`, { ...lengths, queryHeads: 128, pageSize }),
  ),
  latentCase("ragged, 128 heads", { ...lengths, queryHeads: 128, pageSize: 0 }),
  latentCase("not causal", {
    queryHeads: 16,
    causal: false,
    queryLengths: [3, 5],
    kvLengths: [100, 5],
  }),
  latentCase("ragged, more queries than keys", {
    queryHeads: 128,
    pageSize: 0,
    queryLengths: [3, 1, 1],
    kvLengths: [1, 0, 130],
  }),
  latentCase("empty requests", {
    queryHeads: 16,
    queryLengths: [0, 1, 0],
    kvLengths: [0, 66, 3],
  }),
  latentCase("outputs in f32, 128 heads", { ...lengths, queryHeads: 128, outDtype: "f32" }),
  ...[16, 128].flatMap((queryHeads) => [
    latentCase(`outputs in fp8, ${queryHeads} heads`, {
      ...lengths,
      queryHeads,
      outDtype: "f8e4m3",
      outScale: 0.02,
    }),
    latentCase(`outputs in fp8, split rows, ${queryHeads} heads`, {
      queryHeads,
      outDtype: "f8e5m2",
      queryLengths: [1],
      kvLengths: [splitKeys(queryHeads)],
    }),
  ]),
  latentCase("split rows, 128 heads", {
    queryHeads: 128,
    queryLengths: [1],
    kvLengths: [splitKeys(128)],
  }),
  ...[16, 20, 40].flatMap((queryHeads) => {
    const fp8 = { ...lengths, queryHeads, kvDtype: "f8e4m3", tokenScales: false } as const;
    return [
      ...[64, 1, 16, 128].map((pageSize) =>
        latentCase(`fp8 in pages of ${pageSize}, ${queryHeads} heads`, { ...fp8, pageSize }),
      ),
      latentCase(`fp8, ragged, f16, ${queryHeads} heads`, { ...fp8, pageSize: 0, dtype: "f16" }),
      latentCase(`fp8, scales by request, ${queryHeads} heads`, { ...fp8, scales: "request" }),
      ...[64, 5, 0].map((pageSize) =>
        latentCase(`fp8, scales by token in pages of ${pageSize}, ${queryHeads} heads`, {
          ...lengths,
          queryHeads,
          pageSize,
          kvDtype: "f8e4m3",
          scales: "token",
        }),
      ),
    ];
  }),
  ...[64, 5].map((pageSize) =>
    latentCase(`fp8 in pages of ${pageSize}, 100 heads`, {
      ...lengths,
      queryHeads: 100,
      pageSize,
      kvDtype: "f8e4m3",
    }),
  ),
  ...[12, 64, 128].flatMap((queryHeads) =>
    [64, 5, 128, 0].map((pageSize) =>
      latentCase(`a rope piece of its own in pages of ${pageSize}, ${queryHeads} heads`, {
        ...lengths,
        queryHeads,
        pageSize,
        keyTail: true,
      }),
    ),
  ),
  latentCase("a rope piece of its own, in f16", {
    ...lengths,
    queryHeads: 20,
    dtype: "f16",
    kvDtype: "f16",
    keyTail: true,
  }),
  latentCase("batch-invariant", {
    queryHeads: 128,
    batchInvariant: true,
    queryLengths: [1, 1, 2],
    kvLengths: [600, 3, 70],
  }),
];

const target = gpuTarget();
const opened = await target?.open(1);
const able = opened?.properties.computeMajor === 9;

describe.if(able)(`latent attention on ${target?.name}`, () => {
  const device: Device = opened!;
  beforeAll(async () => {
    await warmUp(device, cases.map(optionsOf));
  }, 600_000);
  afterAll(() => device[Symbol.asyncDispose]());

  test.each(cases.map((c) => [c.name, c] as const))("%s", (_, c) => {
    runCase(device, c);
  });

  // Weights that f32 takes for 0 make NaN of an infinite value, and the oracle's infinity.
  const moderate = cases.filter(({ scale }) => scale < 1);
  sweepCases("NaN and infinities", moderate, 12, (c, seed) => {
    runCase(device, { ...c, seed, notFinite: true });
  });

  test.each([12, 32, 64])("ragged keys in columns of %d", (blockColumns) => {
    const c = latentCase("columns", {
      queryHeads: 16,
      pageSize: 0,
      queryLengths: [5, 1],
      kvLengths: [300, 250],
    });
    using rig = new Rig(device, c);
    const keeps = (request: number, column: number) => (request + column) % 3 !== 1;
    const indptr = [0];
    const indices: number[] = [];
    for (const [request, keys] of c.kvLengths.entries()) {
      for (let column = 0; column * blockColumns < keys; column++)
        if (keeps(request, column)) indices.push(column);
      indptr.push(indices.length);
    }
    const layout = blockMaskLayout({
      queryIndptr: indptrOf(c.queryLengths),
      kvIndptr: indptrOf(c.kvLengths),
      blockRows: 16,
      blockColumns,
      indptr,
      indices,
    });
    const requests = c.kvLengths.map((keys, request): HostRequest => {
      const q = rig.queries(c.queryLengths[request]);
      const k = rig.rows(keys, c.headDim, q);
      const visible = (_: number, __: number, key: number) =>
        keeps(request, Math.floor(key / blockColumns));
      return { q, k, v: rig.values(keys, k), visible };
    });
    const { k, v } = raggedTensors(rig, requests);
    const { queryLengths, kvLengths } = c;
    rig.check(createBatch({ queryLengths, kvLengths, layout }), requests, { k, v });
    const launched = rig.attention.lastPlan!.launches.filter(({ grid }) => grid > 0);
    expect(launched.map(({ kernelClass }) => kernelClass)).toContain("mla.rows128");
    k[Symbol.dispose]();
    v[Symbol.dispose]();
  });

  test("queries whose heads lie apart", () => {
    const c = latentCase("strides", { queryHeads: 20, pageSize: 0, queryLengths: [2, 1] });
    using rig = new Rig(device, { ...c, kvLengths: [70, 3] });
    const numbers = [2, 1].map((count) => rig.queries(count));
    const requests = [70, 3].map((keys, r): HostRequest => {
      const k = rig.rows(keys, c.headDim, numbers[r]);
      return { q: numbers[r], k, v: rig.values(keys, k) };
    });
    const { k, v } = raggedTensors(rig, requests);
    using room = Tensor.zeros(device, [20, 4, 584], c.dtype);
    const q = room.permute(1, 0, 2).slice(0, 0, 3).slice(2, 8, 584);
    using dense = rig.upload(concatenate(numbers), c.dtype, 20, 576);
    q.copyFrom(dense);
    const layout = raggedLayout([0, 2, 3], [0, 70, 73]);
    const batch = createBatch({ queryLengths: [2, 1], kvLengths: [70, 3], layout });
    rig.check(batch, requests, { k, v, q });
    k[Symbol.dispose]();
    v[Symbol.dispose]();
  });

  // Scores are products of f16 there: a row's power of two must change nothing.
  test("fp8 keys take queries of any size", async () => {
    const [heads, keys] = [16, 70];
    using k = Tensor.randomNormal(device, [keys, 1, 576], "f8e4m3", { seed: 1 });
    const v = k.slice(2, 0, 512);
    const numbers = Float32Array.from({ length: heads * 576 }, (_, i) => ((i * 37) % 251) / 64 - 2);
    const outputs: Uint8Array<ArrayBuffer>[] = [];
    for (const power of [0, 90, -90]) {
      const own = { queryHeads: heads, kvDtype: "f8e4m3", scale: 0.05 * 2 ** -power } as const;
      using attention = await Attention.create(device, { ...options, ...own });
      using q = Tensor.from(
        device,
        numbers.map((x) => x * 2 ** power),
        [1, heads, 576],
        "bf16",
      );
      using out = poisoned(device, [1, heads, 512], "bf16");
      const layout = raggedLayout([0, 1], [0, keys]);
      attention.plan(createBatch({ queryLengths: [1], kvLengths: [keys], layout }));
      attention.run({ q, k, v, out });
      outputs.push(out.toBytes());
    }
    expect(decode("bf16", outputs[0]).every(Number.isFinite)).toBe(true);
    expect(outputs[1]).toEqual(outputs[0]);
    expect(outputs[2]).toEqual(outputs[0]);
  });

  test("a captured graph gives the bits of the calls", async () => {
    const { kvHeads, headDim, valueDim, dtype } = shape;
    const graph = { maxBatch: 3, maxQueryTokens: 3, maxQueryLength: 1, maxColumns: 16 };
    const own = { ...optionsOf(latentCase("graph", { queryHeads: 128, outDtype: dtype })), graph };
    using captured = await Attention.create(device, own);
    using direct = await Attention.create(device, own);
    const planes = [{ name: "latent", heads: kvHeads, dim: headDim, dtype }];
    using cache = PagedCache.create(device, {
      layers: 1,
      kvHeads,
      headDim,
      dtype,
      pages: 40,
      pageSize: 64,
      planes,
    });
    const sequences = [cache.sequence(), cache.sequence(), cache.sequence()];
    const grow = (counts: number[], seed: number) => {
      const batch = cache.reserve(sequences, counts);
      if (!batch.ok) throw batch.error;
      const tokens = counts.reduce((sum, count) => sum + count);
      using latent = Tensor.randomNormal(device, [tokens, 1, headDim], dtype, { seed });
      cache.append({ layer: 0, batch, planes: { latent } });
      return batch;
    };
    grow([700, 63, 1], 1);
    using q = Tensor.empty(device, [3, 128, headDim], dtype);
    using out = poisoned(device, [3, 128, valueDim], dtype);
    let recorded: Graph | undefined;
    for (let step = 0; step < 4; step++) {
      using noise = Tensor.randomNormal(device, q.shape, dtype, { seed: 10 + step });
      q.copyFrom(noise);
      const batch = grow([1, 1, 1], 20 + step);
      captured.plan(batch);
      if (recorded === undefined) {
        captured.run({ q, cache, out });
        recorded = device.capture(device.stream, () => captured.run({ q, cache, out }));
      }
      recorded.replay(device.stream);
      const bits = out.toBytes();
      direct.plan(batch);
      direct.run({ q, cache, out });
      expect(bits).toEqual(out.toBytes());
      expect(decode(dtype, bits).every(Number.isFinite)).toBe(true);
    }
    recorded![Symbol.dispose]();
  });

  test("requests share a prefix as a level of its own", () => {
    using world = new World(device, latentCase("levels", { queryHeads: 16 }), { pages: 40 });
    const first = world.create();
    world.step([first], [130]);
    const others = [first, world.fork(first), world.fork(first)];
    world.step(others, [1, 2, 1]);
    world.step(others, [1, 1, 1], { share: true });
  });
});

const options: AttentionOptions = {
  queryHeads: 128,
  kvHeads: 1,
  headDim: 576,
  valueDim: 512,
  dtype: "bf16",
  keyPlane: "latent",
  valuePlane: "latent",
};

test("a prefix is shared where rows wait for keys", () => {
  for (const queryHeads of [16, 128]) {
    const offer = mla.offer(
      architectureFacts("sm_90a"),
      resolveOptions({ ...options, queryHeads }),
    );
    if (offer instanceof OptionError) throw offer;
    const shared = (tokens: number) => worthSharing(offer.costs, tokens, 32, 32, queryHeads);
    expect([shared(1000), shared(8192)]).toEqual([false, queryHeads === 16]);
  }
});

test("two blocks that share keys make pieces twice as long, one makes them no longer", () => {
  const resolved = resolveOptions({ ...options, queryHeads: 16 });
  const offer = mla.offer(architectureFacts("sm_90a"), resolved);
  if (offer instanceof OptionError) throw offer;
  const planner = new Planner({ ...resolved, ...offer, processors: 132 });
  const piecesOf = (queries: number) => {
    const layout = raggedLayout([0, queries], [0, 8192]);
    const batch = createBatch({ queryLengths: [queries], kvLengths: [8192], layout });
    const { launches } = planner.plan(batch);
    return launches.flatMap(({ kernelClass, recordCount }) =>
      recordCount > 0 ? [[kernelClass, recordCount]] : [],
    );
  };
  expect(piecesOf(1)).toEqual([["mla.rows16", 32]]);
  expect(piecesOf(4)).toEqual([["mla.rows64", 64]]);
});

test("what the family leaves to others", () => {
  const offer = (over: Partial<AttentionOptions>, architecture = "sm_90a") =>
    mla.offer(architectureFacts(architecture), resolveOptions({ ...options, ...over }));
  expect(offer({})).not.toBeInstanceOf(OptionError);
  expect(offer({ kvDtype: "f8e4m3" })).not.toBeInstanceOf(OptionError);
  for (const architecture of ["sm_80", "sm_89", "sm_100a", "sm_120a"])
    expect(offer({}, architecture)).toBeInstanceOf(OptionError);
  const others: Partial<AttentionOptions>[] = [
    { headDim: 512 },
    { valueDim: 576 },
    { kvHeads: 2 },
    { valuePlane: "value" },
    { dtype: "f32" },
    { kvDtype: "f8e5m2" },
    { windowLeft: 100 },
    { mask: "tail" },
    { rope: { theta: 1e4 } },
    { tokenScales: true },
    { deviceLengths: true },
    { softCap: 30 },
  ];
  for (const over of others) expect(offer(over), Object.keys(over)[0]).toBeInstanceOf(OptionError);
});
