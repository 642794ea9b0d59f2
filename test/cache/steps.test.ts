import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { DisposedError, FlashbunError, PlanError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { caseOf } from "../support/cases.ts";
import { World } from "../support/world.ts";

const shape = { layers: 2, queryHeads: 2, kvHeads: 2, headDim: 16, dtype: "f32" } as const;
let device: Device;
beforeAll(async () => {
  device = await Device.open("cpu", { threads: 2 });
});
afterAll(() => device[Symbol.asyncDispose]());

function cacheOf(): PagedCache {
  return PagedCache.create(device, { ...shape, pages: 64, pageSize: 16 });
}

function reserve(cache: PagedCache, sequences: Sequence[], counts: number[]): Batch {
  const batch = cache.reserve(sequences, counts);
  if (!batch.ok) throw batch.error;
  return batch;
}

function noise(tokens: number, seed: number): Tensor {
  return Tensor.randomNormal(device, [tokens, 2, 16], "f32", { seed });
}

/** What the layers of a step are made of, and where their outputs go. */
interface Loop {
  cache: PagedCache;
  attention: Attention;
  /** Where the loop lets the other run. */
  pause: "before append" | "before run" | "after run";
}

/** Serves one request for three steps, and lets others run between its layers. */
async function serve({ cache, attention, pause }: Loop, id: number): Promise<string> {
  const sequence = cache.sequence();
  const outputs: string[] = [];
  for (const count of [10, 1, 1]) {
    const batch = reserve(cache, [sequence], [count]);
    attention.plan(batch);
    for (const layer of [0, 1]) {
      const seed = 1000 * id + 10 * sequence.length + layer;
      using k = noise(count, seed);
      using q = noise(count, seed + 5);
      using out = Tensor.empty(device, [count, 2, 16], "f32");
      if (pause === "before append") await Bun.sleep(0);
      cache.append({ layer, batch, k, v: k });
      if (pause === "before run") await Bun.sleep(0);
      attention.run({ layer, batch, q, cache, out });
      await device.stream.done();
      outputs.push(out.toBytes().toHex());
    }
    expect(batch.tokenCount).toBe(count);
  }
  return outputs.join(" ");
}

describe("two loops that share a cache and an attention object", () => {
  test.each(["before append", "before run", "after run"] as const)(
    "work or are refused when they turn %s, and are never mixed",
    async (pause) => {
      using attention = Attention.createSync(device, { ...shape, causal: true });
      using cache = cacheOf();
      const loop = { cache, attention, pause };
      const alone = [await serve(loop, 1), await serve(loop, 2)];
      using shared = cacheOf();
      const both = { ...loop, cache: shared };
      const mixed = await Promise.allSettled([serve(both, 1), serve(both, 2)]);
      mixed.forEach((result, i) => {
        if (result.status === "fulfilled") expect(result.value).toBe(alone[i]);
        else expect(result.reason).toBeInstanceOf(FlashbunError);
      });
      expect(mixed.some(({ status }) => status === "fulfilled")).toBe(true);
    },
  );
});

test("a step that another one followed is refused wherever its batch goes", () => {
  using attention = Attention.createSync(device, { ...shape, causal: true });
  using cache = cacheOf();
  const index = cache.prefixIndex();
  const sequences = [cache.sequence(), cache.sequence()];
  const first = reserve(cache, sequences, [2, 2]);
  cache.markWritten(first);
  attention.plan(first);
  cache.markWritten(reserve(cache, sequences, [2, 2]));
  using k = noise(4, 1);
  using out = Tensor.zeros(device, [4, 2, 16], "f32");
  for (const use of [
    () => cache.append({ layer: 0, batch: first, k, v: k }),
    () => cache.sync(first, device.stream),
    () => cache.sharePrefixes(first, sequences, () => true),
    () => cache.rollback(first),
    () => cache.markWritten(first),
    () => attention.plan(first),
    () => attention.run({ q: k, cache, out }),
    () => attention.run({ q: k, cache, out, batch: first }),
  ]) {
    expect(use).toThrow(PlanError);
    expect(use).toThrow(/stale/);
  }
  expect(index.stats.pages).toBe(0);
});

test("a run of a batch that was not planned last is refused", () => {
  using attention = Attention.createSync(device, { ...shape, causal: true });
  using cache = cacheOf();
  using other = cacheOf();
  const batches = [cache, other].map((each) => reserve(each, [each.sequence()], [1]));
  batches.forEach((batch, i) => [cache, other][i].markWritten(batch));
  using q = noise(1, 1);
  using out = Tensor.zeros(device, [1, 2, 16], "f32");
  attention.plan(batches[0]);
  attention.plan(batches[1]);
  const run = () => attention.run({ layer: 0, batch: batches[0], q, cache, out });
  expect(run).toThrow("not the one that was planned last");
  attention.run({ layer: 0, batch: batches[1], q, cache: other, out });
});

test("a forgotten append is found by the run of its layer, and by the next reserve", () => {
  using attention = Attention.createSync(device, { ...shape, causal: true });
  using cache = cacheOf();
  const sequence = cache.sequence();
  const batch = reserve(cache, [sequence], [3]);
  attention.plan(batch);
  using k = noise(3, 1);
  using out = Tensor.zeros(device, [3, 2, 16], "f32");
  cache.append({ layer: 0, batch, k, v: k });
  attention.run({ layer: 0, q: k, cache, out });
  expect(() => attention.run({ layer: 1, q: k, cache, out })).toThrow(
    "layer 1 does not hold the step's new tokens",
  );
  expect(() => cache.reserve([sequence], [1])).toThrow(/3 tokens that not every layer.*rollback/);
  cache.append({ layer: 1, batch, k, v: k });
  attention.run({ layer: 1, q: k, cache, out });
  expect(cache.reserve([sequence], [1]).ok).toBe(true);
});

test("a replay writes the layers that were captured, and no others", () => {
  const graph = { maxBatch: 1, maxQueryTokens: 1, maxColumns: 4 };
  using attention = Attention.createSync(device, { ...shape, causal: true, graph });
  using cache = cacheOf();
  const sequence = cache.sequence();
  using k = noise(1, 1);
  using out = Tensor.zeros(device, [1, 2, 16], "f32");
  const run = (batch: Batch, layers: number[]) => {
    for (const layer of layers) {
      cache.append({ layer, batch, k, v: k });
      attention.run({ layer, q: k, cache, out });
    }
  };
  const capture = (layers: number[]) => {
    const batch = reserve(cache, [sequence], [1]);
    attention.plan(batch);
    run(batch, [0, 1]);
    return device.capture(device.stream, () => run(batch, layers));
  };
  using whole = capture([0, 1]);
  using half = capture([1]);
  attention.plan(reserve(cache, [sequence], [1]));
  whole.replay(device.stream);
  const batch = reserve(cache, [sequence], [1]);
  expect(() => whole.replay(device.stream)).toThrow(PlanError);
  attention.plan(batch);
  half.replay(device.stream);
  expect(() => cache.reserve([sequence], [1])).toThrow(/1 tokens that not every layer/);
  cache.rollback(batch);
  expect(() => half.replay(device.stream)).toThrow(/stale/);
  expect(sequence.length).toBe(3);
});

test("a captured append takes what a replay of all its tokens and requests needs", () => {
  using cache = cacheOf();
  const sequences = [cache.sequence(), cache.sequence()];
  const [few, k] = [noise(1, 1), noise(4, 1)];
  const kScale = Tensor.from(device, [1, 1], [1, 2], "f32");
  const step = (counts: number[]) => {
    const batch = cache.reserve(sequences.slice(0, counts.length), counts, { padTo: 4 });
    if (!batch.ok) throw batch.error;
    return batch;
  };
  const capture = (batch: Batch, tensors: object) =>
    device.capture(device.stream, () => {
      for (const layer of [0, 1]) cache.append({ layer, batch, k, v: k, ...tensors });
    });
  const batch = step([1]);
  for (const layer of [0, 1]) cache.append({ layer, batch, k: few, v: few });
  expect(() => capture(batch, { k: few })).toThrow("k must be a tensor [4 or more");
  using recorded = capture(batch, { kScale });
  step([4]);
  recorded.replay(device.stream);
  step([1, 1]);
  expect(() => recorded.replay(device.stream)).toThrow("kScale must be [2 or more, 2]");
  cache.rollback(cache.pool.lastBatch!);
  const last = step([4]);
  for (const layer of [0, 1]) cache.append({ layer, batch: last, k, v: k });
  for (const name of ["kScale", "vScale"]) {
    const scale = Tensor.from(device, [2], [1], "f32");
    using scaled = capture(last, { [name]: scale });
    scale[Symbol.dispose]();
    expect(() => scaled.replay(device.stream)).toThrow(DisposedError);
  }
});

test("what was appended before a step failed is right after it is rolled back", () => {
  using world = new World(device, caseOf("failed", { kvHeads: 2, headDim: 32, pageSize: 5 }), {
    pages: 60,
  });
  const base = world.create();
  world.step([base], [13]);
  const forks = [base, world.fork(base), world.fork(base)];
  for (const counts of [
    [1, 1, 1],
    [9, 0, 4],
    [2, 12, 1],
  ]) {
    const tokens = counts.reduce((sum, count) => sum + count);
    const batch = reserve(world.cache, forks, counts);
    using k = Tensor.randomNormal(device, [tokens, 2, 32], "f32", { seed: tokens });
    world.cache.append({ layer: 0, batch, k, v: k });
    world.cache.rollback(batch);
    expect(forks.every((fork) => fork.length === world.sequences.get(fork)!.k.length / 64)).toBe(
      true,
    );
    world.step(forks, [1, 2, 1]);
  }
});
