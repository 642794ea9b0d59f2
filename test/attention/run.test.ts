import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import type { Graph } from "../../src/device/graph.ts";
import { DisposedError, OptionError, PlanError } from "../../src/errors.ts";
import { createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { type Case, caseOf } from "../support/cases.ts";
import { indptrOf, poisoned } from "../support/numbers.ts";
import { type HostRequest, Rig } from "../support/rig.ts";
import { targetsHere } from "../support/targets.ts";
import { raggedTensors } from "../support/world.ts";

const shape = { queryHeads: 4, kvHeads: 2, headDim: 32, pageSize: 0 } as const;

/**
 * Requests of the case's lengths; the same seed gives the same numbers, whatever the lengths after.
 */
function requestsOf(rig: Rig): HostRequest[] {
  const { queryLengths, kvLengths, headDim, valueDim } = rig.c;
  return kvLengths.map((keys, r) => {
    const [k, v] = [rig.rows(keys, headDim), rig.rows(keys, valueDim)];
    return { q: rig.queries(queryLengths[r]), k, v };
  });
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}

function raggedBatch(queryLengths: number[], kvLengths: number[]) {
  const layout = raggedLayout(indptrOf(queryLengths), indptrOf(kvLengths));
  return createBatch({ queryLengths, kvLengths, layout });
}

describe.each(await targetsHere())("runs on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(3);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test.each([
    ["decode", [1, 1, 1, 1], [90, 20, 3000, 1], [50, 20, 2100, 0], undefined],
    ["verify", [5, 5, 5], [60, 33, 9], [58, 30, 7], [3, 2, 0]],
    ["prefill", [40, 17], [70, 17], [41, 17], [40, 9]],
    ["fewer queries", [8, 3], [50, 40], undefined, [2, 3]],
  ])("lengths known only on the device: %s", (_, queryLengths, kvLengths, kv, queries) => {
    for (const over of [{}, { windowLeft: 9, alibi: true }, { causal: false, softCap: 9 }]) {
      const c = caseOf("clamps", { ...shape, queryLengths, kvLengths, ...over });
      using rig = new Rig(device, c, { deviceLengths: true });
      const requests = requestsOf(rig);
      // What lies past a clamp is poison: nothing may read it.
      const past = requests.map((request, r) => {
        const [k, v] = [request.k.slice(), request.v.slice()];
        k.fill(NaN, (kv?.[r] ?? kvLengths[r]) * 64);
        v.fill(NaN, (kv?.[r] ?? kvLengths[r]) * 64);
        return { ...request, k, v };
      });
      const { k, v } = raggedTensors(rig, past);
      rig.check(raggedBatch(queryLengths, kvLengths), requests, { k, v }, { kv, queries });
    }
  });

  test("an output in the place of its queries has the bits of one apart", () => {
    const cases: [string, number[], number[], Partial<Case>][] = [
      ["decode", [1, 1], [90, 7], {}],
      ["split decode", [1], [3000], {}],
      ["prefill", [40, 3], [70, 17], { causal: false }],
      ["rows attended again", [40, 3], [70, 17], { notFinite: true }],
      ["wide rows attended again", [5, 3], [70, 17], { notFinite: true, headDim: 512 }],
    ];
    for (const [name, queryLengths, kvLengths, over] of cases) {
      const c = { ...shape, queryLengths, kvLengths, outDtype: "bf16", dtype: "bf16", ...over };
      using rig = new Rig(device, caseOf(name, { ...c, kvDtype: "bf16" } as Partial<Case>));
      const { queryHeads } = rig.c;
      const { k, v } = raggedTensors(rig, requestsOf(rig));
      const dims = [sum(queryLengths), queryHeads, rig.c.headDim];
      using q = Tensor.randomNormal(device, dims, rig.c.dtype, { seed: 3 });
      using out = poisoned(device, dims, rig.c.dtype);
      rig.attention.plan(raggedBatch(queryLengths, kvLengths));
      rig.attention.run({ q, k, v, out });
      // Warps that share the columns of a row do not wait for each other.
      if (device.kind === "cuda" && rig.c.headDim > 256) {
        expect(() => rig.attention.run({ q, k, v, out: q })).toThrow(/out must be memory apart/);
        continue;
      }
      rig.attention.run({ q, k, v, out: q });
      expect(q.toBytes(), name).toEqual(out.toBytes());
    }
  });

  test.each(["e", "2"] as const)("the LSE of one key with logit 0 is 0 in base %s", (lseBase) => {
    for (const queries of [1, 40]) {
      using rig = new Rig(device, caseOf("zero", { ...shape, lseBase, causal: false }));
      const { dtype, kvDtype, outDtype } = rig.c;
      using q = Tensor.zeros(device, [queries, 4, 32], dtype);
      using k = Tensor.randomNormal(device, [1, 2, 32], kvDtype, { seed: 1 });
      using out = Tensor.zeros(device, [queries, 4, 32], outDtype);
      using lse = poisoned(device, [queries, 4], "f32");
      rig.attention.plan(raggedBatch([queries], [1]));
      rig.attention.run({ q, k, v: k, out, lse });
      expect(lse.toFloat64Array()).toEqual(new Float64Array(queries * 4));
    }
  });

  test("the same batch gives the same bits each time", () => {
    const lengths = { queryLengths: [1, 30, 1], kvLengths: [2500, 300, 77] };
    using rig = new Rig(device, caseOf("again", { ...shape, ...lengths, kvDtype: "bf16" }));
    const requests = requestsOf(rig);
    const { k, v } = raggedTensors(rig, requests);
    const batch = raggedBatch(lengths.queryLengths, lengths.kvLengths);
    const first = rig.check(batch, requests, { k, v });
    for (let i = 0; i < 3; i++) expect(rig.check(batch, requests, { k, v })).toEqual(first);
  });

  test("a batch-invariant row has the same bits alone and among neighbours", async () => {
    const others: [number, number][] = [
      [1, 40],
      [20, 20],
      [1, 5000],
    ];
    await using single = await target.open(1);
    for (const [queries, keys] of [
      [1, 1500],
      [3, 700],
      [70, 200],
    ]) {
      const run = (where: Device, neighbours: [number, number][]) => {
        const queryLengths = [queries, ...neighbours.map(([count]) => count)];
        const kvLengths = [keys, ...neighbours.map(([, count]) => count)];
        const lengths = { queryLengths, kvLengths, batchInvariant: true };
        using rig = new Rig(where, caseOf("invariant", { ...shape, ...lengths, dtype: "bf16" }));
        const requests = requestsOf(rig);
        const { k, v } = raggedTensors(rig, requests);
        const bytes = rig.check(raggedBatch(queryLengths, kvLengths), requests, { k, v });
        return bytes.slice(0, queries * 4 * 32 * 2);
      };
      const alone = run(device, []);
      for (let count = 1; count <= others.length; count++)
        expect(run(device, others.slice(0, count))).toEqual(alone);
      expect(run(single, others)).toEqual(alone);
    }
  });

  test("a batch-invariant token has the same bits in a decode and in a chunk", () => {
    const c = caseOf("chunks", { ...shape, kvDtype: "bf16", batchInvariant: true });
    using rig = new Rig(device, c);
    const [tokens, keys, row] = [70, 900, 4 * 32];
    const [q, k, v] = [rig.queries(tokens), rig.rows(keys, 32), rig.rows(keys, 32)];
    const tensors = raggedTensors(rig, [{ q, k, v }]);
    const last = (count: number) => {
      const request = { q: q.slice((tokens - count) * row), k, v };
      return rig.check(raggedBatch([count], [keys]), [request], tensors).slice(-4 * row);
    };
    for (const count of [2, 17, 33, 70]) expect(last(count)).toEqual(last(1));
  });

  test("a replayed graph gives the bits of eager runs", () => {
    const graph = { maxBatch: 4, maxQueryTokens: 4, maxQueryLength: 1, maxColumns: 64 };
    const dtype = target.kind === "cpu" ? "f32" : "bf16";
    const { queryHeads, kvHeads, headDim } = shape;
    const options = { queryHeads, kvHeads, headDim, dtype } as const;
    using eager = Attention.createSync(device, { ...options, causal: true, graph });
    using captured = Attention.createSync(device, { ...options, causal: true, graph });
    const cacheOptions = { ...options, layers: 1, pages: 100, pageSize: 16 };
    using cache = PagedCache.create(device, cacheOptions);
    using eagerCache = PagedCache.create(device, cacheOptions);
    const sequences = [0, 1, 2, 3].map(() => cache.sequence());
    const eagerSequences = [0, 1, 2, 3].map(() => eagerCache.sequence());
    using q = Tensor.zeros(device, [4, queryHeads, headDim], dtype);
    using k = Tensor.zeros(device, [4, kvHeads, headDim], dtype);
    using out = Tensor.zeros(device, [4, queryHeads, headDim], dtype);
    using lse = Tensor.zeros(device, [4, queryHeads], "f32");
    const { stream } = device;
    const noise = (tokens: number, heads: number, seed: number) =>
      Tensor.randomNormal(device, [tokens, heads, headDim], dtype, { seed });
    const reserve = (from: PagedCache, all: Sequence[], counts: number[]) => {
      const batch = from.reserve(all, counts, { padTo: Math.max(4, sum(counts)) });
      if (!batch.ok) throw batch.error;
      return batch;
    };
    using history = noise(959, kvHeads, 99);
    for (const [from, all] of [
      [cache, sequences],
      [eagerCache, eagerSequences],
    ] as const) {
      const batch = reserve(from, all, [40, 3, 900, 16]);
      from.append({ layer: 0, batch, k: history, v: history });
    }
    let recorded: Graph | undefined;
    for (let step = 0; step < 20; step++) {
      // Three requests replay the graph of four.
      const count = step % 5 === 3 ? 3 : 4;
      const [batch, eagerBatch] = [
        reserve(cache, sequences.slice(0, count), [1, 1, 1, 1].slice(0, count)),
        reserve(eagerCache, eagerSequences.slice(0, count), [1, 1, 1, 1].slice(0, count)),
      ];
      q.copyFrom(noise(4, queryHeads, 2 * step));
      k.copyFrom(noise(4, kvHeads, 2 * step + 1));
      captured.plan(batch);
      if (recorded === undefined) {
        cache.append({ layer: 0, batch, k, v: k });
        captured.run({ q, cache, out, lse });
        recorded = device.capture(stream, () => {
          cache.append({ layer: 0, batch, k, v: k });
          captured.run({ q, cache, out, lse });
        });
      } else {
        recorded.replay(stream);
      }
      const read = () => [out.slice(0, 0, count).toBytes(), lse.slice(0, 0, count).toBytes()];
      const bits = read();
      eager.plan(eagerBatch);
      eagerCache.append({ layer: 0, batch: eagerBatch, k, v: k });
      eager.run({ q, cache: eagerCache, out, lse });
      expect(bits).toEqual(read());
    }
    // A stale plan is found before anything is launched.
    if (!cache.reserve(sequences, [1, 1, 1, 1]).ok) throw new Error("out of pages");
    expect(() => recorded!.replay(stream)).toThrow(PlanError);
    recorded![Symbol.dispose]();
  });
});

describe("refused, with nothing changed", () => {
  const { queryHeads, kvHeads, headDim } = shape;
  const options = { queryHeads, kvHeads, headDim, dtype: "f32" } as const;

  test("runs without a fresh plan and after disposal", async () => {
    await using device = await Device.open("cpu");
    const attention = Attention.createSync(device, options);
    using cache = PagedCache.create(device, { ...options, layers: 1, pages: 9, pageSize: 4 });
    const sequence = cache.sequence();
    using q = Tensor.zeros(device, [2, 4, 32], "f32");
    using out = Tensor.zeros(device, [2, 4, 32], "f32");
    expect(() => attention.run({ q, out, cache })).toThrow(/no batch was planned.*Fix/);
    const batch = cache.reserve([sequence], [2]);
    if (!batch.ok) throw batch.error;
    attention.plan(batch);
    cache.markWritten(batch);
    cache.reserve([sequence], [1]);
    expect(() => attention.run({ q, out, cache })).toThrow(/stale/);
    attention[Symbol.dispose]();
    expect(() => attention.plan(batch)).toThrow(DisposedError);
    expect(out.toFloat64Array().every((x) => x === 0)).toBe(true);
  });

  test("tensors of wrong shapes, dtypes and strides, each by its name", async () => {
    await using device = await Device.open("cpu");
    using attention = Attention.createSync(device, { ...options, deviceLengths: true });
    attention.plan(raggedBatch([2], [5]));
    const make = (...dims: number[]) => Tensor.zeros(device, dims, "f32");
    const good = { q: make(2, 4, 32), out: make(2, 4, 32), k: make(5, 2, 32), v: make(5, 2, 32) };
    attention.run(good);
    const bad: [object, RegExp][] = [
      [{ q: make(1, 4, 32) }, /^q must be/],
      [{ q: make(2, 32, 4).permute(0, 2, 1) }, /^q must be/],
      [{ q: Tensor.zeros(device, [2, 4, 32], "bf16") }, /^q must be f32/],
      [{ out: make(2, 4, 16) }, /^out must be/],
      [{ k: make(4, 2, 32) }, /^k must be/],
      [{ v: make(5, 2, 31) }, /^v must be/],
      [{ k: undefined }, /^cache must be/],
      [{ lse: make(2, 2) }, /^lse must be/],
      [{ lse: make(4, 2) }, /^lse must be a contiguous f32 tensor \[2 or more, 4\]/],
      [{ lse: make(8) }, /^lse must be/],
      [{ sinkLogits: make(4) }, /^sinkLogits must be left out/],
      [{ alibiSlopes: make(4) }, /^alibiSlopes must be left out/],
      [{ maskBits: make(4) }, /^maskBits must be left out/],
      [{ kScale: make(3) }, /^kScale must be/],
      [{ kvLengths: make(1) }, /^kvLengths must be/],
      [{ queryLengths: Tensor.zeros(device, [0], "i32") }, /^queryLengths must be/],
    ];
    for (const [over, message] of bad) {
      expect(() => attention.run({ ...good, ...over })).toThrow(OptionError);
      expect(() => attention.run({ ...good, ...over })).toThrow(message);
    }
    const gone = make(2, 4, 32);
    gone[Symbol.dispose]();
    expect(() => attention.run({ ...good, q: gone })).toThrow(DisposedError);
  });

  test("outputs that overlap what is read, or themselves", async () => {
    await using device = await Device.open("cpu");
    using attention = Attention.createSync(device, options);
    attention.plan(raggedBatch([2], [2]));
    // Rows of queries, keys, values and outputs are columns of one matrix.
    using all = Tensor.zeros(device, [3, 12, 32], "f32");
    const columns = (first: number, count: number, row = 0) =>
      all.slice(0, row, row + 2).slice(1, first, first + count);
    const good = { q: columns(0, 4), k: columns(4, 2), v: columns(6, 2) };
    attention.run({ ...good, out: columns(8, 4) });
    attention.run({ ...good, out: columns(0, 4) });
    const wrong: [Tensor, string][] = [
      [columns(0, 4, 1), "out must be memory apart from q"],
      [columns(1, 4), "out must be memory apart from q"],
      [columns(5, 4), "out must be memory apart from k"],
      [columns(7, 4), "out must be memory apart from v"],
    ];
    for (const [out, sentence] of wrong)
      expect(() => attention.run({ ...good, out })).toThrow(sentence);
    const { address } = all;
    const twice = { strides: [0, 32, 1] };
    const out = Tensor.fromPointer(device, address + 4 * 8 * 32, [2, 4, 32], "f32", twice);
    expect(() => attention.run({ ...good, out })).toThrow(/^out must be of elements that each/);
    using lse = all.select(0, 0).reshape(384).slice(0, 0, 8).reshape(2, 4);
    const run = () => attention.run({ ...good, out: columns(8, 4), lse });
    expect(run).toThrow("lse must be memory apart from q");
  });

  test("slopes and sinks for more heads than there are", async () => {
    await using device = await Device.open("cpu");
    using attention = Attention.createSync(device, { ...options, sinks: true });
    attention.plan(raggedBatch([2], [2]));
    const make = (...dims: number[]) => Tensor.zeros(device, dims, "f32");
    const tensors = {
      q: make(2, 4, 32),
      out: make(2, 4, 32),
      k: make(2, 2, 32),
      v: make(2, 2, 32),
    };
    const run = (count: number) => attention.run({ ...tensors, sinkLogits: make(count) });
    run(4);
    expect(() => run(8)).toThrow("sinkLogits must be an f32 tensor [4]");
  });

  test("a run that is refused halfway leaves nothing of itself to the next", async () => {
    await using device = await Device.open("cpu");
    using attention = Attention.createSync(device, options);
    using cache = PagedCache.create(device, { ...options, layers: 2, pages: 9, pageSize: 4 });
    const batch = cache.reserve([cache.sequence()], [2]);
    if (!batch.ok) throw batch.error;
    const noise = (heads: number, seed: number) =>
      Tensor.randomNormal(device, [2, heads, 32], "f32", { seed });
    for (const layer of [0, 1])
      cache.append({ layer, batch, k: noise(2, layer), v: noise(2, layer + 7) });
    attention.plan(batch);
    using out = Tensor.zeros(device, [2, 4, 32], "f32");
    const good = { q: noise(4, 20), out, cache, layer: 1 };
    attention.run(good);
    const bytes = out.toBytes();
    const sinkLogits = Tensor.zeros(device, [4], "f32");
    const bad = { ...good, q: noise(4, 21), layer: 0, sinkLogits };
    expect(() => attention.run(bad)).toThrow(/^sinkLogits must be left out/);
    attention.run(good);
    expect(out.toBytes()).toEqual(bytes);
  });

  test("ragged layouts that leave the tensors, dense and sparse", async () => {
    await using device = await Device.open("cpu");
    using attention = Attention.createSync(device, options);
    const make = (tokens: number, heads: number) =>
      Tensor.zeros(device, [tokens, heads, 32], "f32");
    const { tokenMaskLayout } = await import("../../src/kv/sparse-layout.ts");
    const mask = [1, 1, 1, 1, 1];
    const layout = tokenMaskLayout({ queryIndptr: [0, 1], kvIndptr: [0, 5], mask });
    attention.plan(createBatch({ queryLengths: [1], kvLengths: [5], layout }));
    const tensors = { q: make(1, 4), out: make(1, 4), v: make(5, 2) };
    attention.run({ ...tensors, k: make(5, 2) });
    expect(() => attention.run({ ...tensors, k: make(4, 2) })).toThrow(/^k must be/);
  });
});
