import { afterAll, beforeAll, describe, expect, spyOn, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { appendPages } from "../../src/cache/append-pages.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { OptionError, OutOfMemoryError, PlanError } from "../../src/errors.ts";
import type { ReserveOptions } from "../../src/kv/reserve.ts";
import type { Sequence } from "../../src/kv/sequence.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { caseOf } from "../support/cases.ts";
import type { Random } from "../support/random.ts";
import { deviceTargets } from "../support/targets.ts";
import { World } from "../support/world.ts";

const shape = { kvHeads: 1, headDim: 16, dtype: "bf16", pageSize: 4, pages: 16 } as const;

/** Positions of a step: of drafts of trees, all over the place, or left out. */
function positionsOf(random: Random, lengths: number[], counts: number[]): ReserveOptions {
  const kind = random.pick(["none", "tree", "any"]);
  if (kind === "none") return {};
  const positions = lengths.flatMap((length, i) =>
    Array.from({ length: counts[i] }, (_, draft) =>
      kind === "tree" ? length + (draft >> 1) : random.integer(0, length + 4),
    ),
  );
  return { positions };
}

describe.each(await deviceTargets())("keys' positions on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  const cacheOf = (over: object = {}) =>
    PagedCache.create(device, { ...shape, layers: 1, ...over });
  const kept = (cache: PagedCache) => [...cache.keyPositions(0)!.toFloat64Array()];
  const grow = (cache: PagedCache, sequence: Sequence, count: number, positions?: number[]) => {
    const batch = cache.reserve([sequence], [count], { positions });
    if (!batch.ok) throw batch.error;
    using k = Tensor.zeros(device, [count, 1, 16], "bf16");
    cache.append({ layer: 0, batch, k, v: k });
    return batch;
  };

  test("stay with them over forks, drafts, cuts and shared prefixes", () => {
    const rope = { theta: 1e4, interleaved: false };
    const c = caseOf("positions", {
      windowLeft: 30,
      rope,
      keyPositions: true,
      pageSize: 4,
      seed: 7,
    });
    using world = new World(device, c, { pages: 200 });
    const { random } = world.rig;
    const sequences = [world.create(), world.create()];
    for (let step = 0; step < (device.kind === "cpu" ? 80 : 25); step++) {
      const some = sequences.filter(() => random.chance(0.7));
      if (some.length === 0) continue;
      const counts = some.map(() => random.integer(1, 7));
      const lengths = some.map(({ length }) => length);
      // The first steps are given none: until then nothing is kept.
      const given = step < 8 ? {} : positionsOf(random, lengths, counts);
      const queries = counts.map((count) => world.rig.queries(count));
      const batch = world.grow(some, counts, queries, given);
      if (random.chance(0.3)) world.cache.sharePrefixes(batch, some, () => true);
      world.rig.check(batch, world.requests(some, queries), { cache: world.cache });
      for (const [i, sequence] of some.entries()) {
        const accepted = Array.from({ length: counts[i] }, (_, draft) => draft);
        if (random.chance(0.4))
          world.compact(
            sequence,
            counts[i],
            accepted.filter(() => random.chance(0.6)),
          );
        else if (random.chance(0.2)) world.truncate(sequence, random.integer(0, sequence.length));
      }
      if (random.chance(0.2) && sequences.length < 4)
        sequences.push(world.fork(random.pick(sequences)));
    }
    expect(world.cache.keyPositions(0)).toBeDefined();
  });

  test("are kept from the first that is no place on, or from the start", () => {
    using late = cacheOf();
    const sequence = late.sequence();
    grow(late, sequence, 2);
    grow(late, sequence, 2, [2, 3]);
    expect([late.keyPositions(0), late.memoryStats().positionBytes]).toEqual([undefined, 0]);
    grow(late, sequence, 3, [4, 9, 4]);
    const page = sequence.pages()[1];
    expect(kept(late).slice(4 * page, 4 * page + 3)).toEqual([4, 9, 4]);
    expect(late.memoryStats().positionBytes).toBe(4 * 16 * 4);
    using early = cacheOf({ keyPositions: true });
    const other = early.sequence();
    grow(early, other, 3);
    other.compact([0, 2]);
    const [first] = other.pages();
    grow(early, other, 1);
    expect(kept(early).slice(4 * first, 4 * first + 3)).toEqual([0, 2, 2]);
  });

  test("are written for kernels of one's own, and given back with their step", () => {
    using cache = cacheOf();
    const sequence = cache.sequence();
    const reserve = (positions: number[]) => {
      const batch = cache.reserve([sequence], [positions.length], { positions });
      if (!batch.ok) throw batch.error;
      return batch;
    };
    cache.markWritten(reserve([5, 6]));
    const [page] = sequence.pages();
    expect(kept(cache).slice(4 * page, 4 * page + 2)).toEqual([5, 6]);
    const batch = reserve([3]);
    expect([...batch.plainLengths!.subarray(0, 1)]).toEqual([0]);
    cache.rollback(batch);
    sequence.truncate(0);
    expect(grow(cache, sequence, 3).plainLengths).toBeNull();
    expect(kept(cache).slice(4 * page, 4 * page + 3)).toEqual([0, 1, 2]);
  });

  test("that find no memory leave the planes that move as they were", () => {
    const groups = [
      { layers: [0], pages: 16 },
      { layers: [1], pages: 16, windowLeft: 40 },
    ];
    using cache = cacheOf({ layers: 2, groups });
    const sequence = cache.sequence();
    using k = Tensor.zeros(device, [3, 1, 16], "bf16");
    const planesMoved = (positions?: number[]) => {
      const batch = cache.reserve([sequence], [3], { positions });
      if (!batch.ok) throw batch.error;
      for (const layer of [0, 1]) cache.append({ layer, batch, k, v: k });
      sequence.compact([0, 2]);
      const launch = spyOn(device, "launch");
      try {
        const next = cache.reserve([sequence], [1]);
        if (!next.ok) throw next.error;
        for (const layer of [0, 1]) cache.append({ layer, batch: next, k, v: k });
        const moves = launch.mock.calls.filter(([, { name }]) => name === "copy_tokens");
        return moves.map(([, , , grid]) => grid);
      } finally {
        launch.mockRestore();
      }
    };
    expect(planesMoved()).toEqual([2, 2]);
    const alloc = device.alloc.bind(device);
    let tables = 0;
    const failing = spyOn(device, "alloc").mockImplementation((bytes, label, ...rest) => {
      if (label === "page copy table" && ++tables === 2)
        throw new OutOfMemoryError(bytes, 0, "no memory");
      return alloc(bytes, label, ...rest);
    });
    const { length } = sequence;
    expect(() => cache.reserve([sequence], [2], { positions: [7, 8] })).toThrow(OutOfMemoryError);
    failing.mockRestore();
    expect(tables).toBe(2);
    expect(sequence.length).toBe(length);
    expect(cache.keyPositions(0)).toBeUndefined();
    expect(planesMoved()).toEqual([2, 2]);
    expect(planesMoved([7, 8, 9])).toEqual([3, 3]);
    // The last of the three, moved from place 8 to 7.
    expect(kept(cache)[4 * sequence.pages()[1] + 3]).toBe(9);
  });

  test("keep keys out of a prefix index, and in a window's pages", () => {
    using cache = cacheOf();
    const sequence = cache.sequence();
    grow(cache, sequence, 4);
    grow(cache, sequence, 4, [4, 4, 5, 5]);
    const index = cache.prefixIndex();
    const tokens = Int32Array.from({ length: 8 }, (_, i) => i);
    expect(() => index.insert(tokens, sequence)).toThrow(/at most 5: keys from there on stand at/);
    expect(index.insert(tokens.subarray(0, 4), sequence)).toBe(1);
    sequence.compact([0, 2]);
    grow(cache, sequence, 2);
    expect(index.insert(tokens, sequence)).toBe(1);
    using windowed = cacheOf({ groups: [{ layers: [0], pages: 16, windowLeft: 4 }] });
    const long = windowed.sequence();
    grow(windowed, long, 16);
    grow(windowed, long, 4, [16, 16, 17, 17]);
    expect([...long.pages()].map((id) => id >= 0)).toEqual([false, false, false, true, true]);
    expect(() => grow(windowed, long, 1, [9])).toThrow(
      /positions\[0\] must be .* or more: page gr/,
    );
    for (let step = 0; step < 12; step++) grow(windowed, long, 1);
    // The page of the drafts stays, and all behind it.
    expect(long.pages().filter((id) => id < 0).length).toBe(4);
  });

  test("that kernels were not made for are refused", async () => {
    using cache = cacheOf();
    const options = { queryHeads: 1, ...shape, layers: 1, causal: true } as const;
    const { pages: _, pageSize: __, ...attentionShape } = options;
    await using attention = await Attention.create(device, attentionShape);
    const batch = grow(cache, cache.sequence(), 3, [0, 0, 1]);
    if (device.kind === "cpu") attention.plan(batch);
    else
      expect(() => attention.plan(batch)).toThrow(/create the attention with { keyPositions: true/);
    await using clamped = await Attention.create(device, {
      ...attentionShape,
      deviceLengths: true,
    });
    expect(() => clamped.plan(batch)).toThrow(/not used with deviceLengths/);
  });

  test("are replayed where they were captured", async () => {
    const graph = { maxBatch: 1, maxQueryTokens: 4, maxColumns: 16 };
    const options = { queryHeads: 1, kvHeads: 1, headDim: 16, dtype: "bf16", graph } as const;
    await using attention = await Attention.create(device, {
      ...options,
      causal: true,
      keyPositions: true,
    });
    using k = Tensor.randomNormal(device, [4, 1, 16], "bf16", { seed: 3 });
    const results = [true, false].map((captured) => {
      using cache = cacheOf({ keyPositions: true });
      using out = Tensor.zeros(device, [4, 1, 16], "bf16");
      const sequence = cache.sequence();
      const next = (positions?: number[]) => {
        const batch = cache.reserve([sequence], [3], { padTo: 4, positions });
        if (!batch.ok) throw batch.error;
        attention.plan(batch);
        return batch;
      };
      const body = () => {
        const batch = cache.pool.lastBatch!;
        cache.append({ layer: 0, batch, k, v: k });
        attention.run({ q: k, cache, out });
      };
      next();
      body();
      if (!captured) {
        next([3, 3, 4]);
        body();
        return out.toBytes().toHex();
      }
      using recorded = device.capture(device.stream, body);
      next([3, 3, 4]);
      recorded.replay(device.stream);
      return out.toBytes().toHex();
    });
    expect(results[0]).toBe(results[1]);
    using late = cacheOf();
    const sequence = late.sequence();
    const reserve = (positions?: number[]) => {
      const batch = late.reserve([sequence], [3], { padTo: 4, positions });
      if (!batch.ok) throw batch.error;
      return batch;
    };
    const first = reserve();
    late.append({ layer: 0, batch: first, k, v: k });
    using recorded = device.capture(device.stream, () =>
      late.append({ layer: 0, batch: first, k, v: k }),
    );
    reserve([3, 3, 4]);
    expect(() => recorded.replay(device.stream)).toThrow(PlanError);
  });

  test("go into pages of the caller", () => {
    using rows = Tensor.zeros(device, [3, 1, 16], "bf16");
    using pages = Tensor.zeros(device, [4, 4, 1, 16], "bf16");
    using keyPositions = Tensor.zeros(device, [4, 4], "i32");
    using slotMapping = Tensor.from(device, [5, -1, 6], [3], "i32");
    using newPositions = Tensor.from(device, [9, 8, 7], [3], "i32");
    const given = { planes: [{ rows, pages }], slotMapping, keyPositions };
    appendPages({ ...given, newPositions });
    expect([...keyPositions.toFloat64Array()].slice(4, 8)).toEqual([0, 9, 7, 0]);
    appendPages(given);
    expect([...keyPositions.toFloat64Array()].slice(4, 8)).toEqual([0, -1, -1, 0]);
    const { keyPositions: _, ...without } = { ...given, newPositions };
    expect(() => appendPages(without)).toThrow(OptionError);
    using few = Tensor.zeros(device, [3, 4], "i32");
    expect(() => appendPages({ ...given, keyPositions: few })).toThrow(
      /a dense i32 tensor \[4, 4\]/,
    );
  });
});
