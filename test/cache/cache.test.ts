import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { FlashbunError } from "../../src/errors.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { caseOf } from "../support/cases.ts";
import { concatenate, normals, poisoned } from "../support/numbers.ts";
import { seeded } from "../support/random.ts";
import { Rig } from "../support/rig.ts";
import { targetsHere } from "../support/targets.ts";
import { World } from "../support/world.ts";

const none: Float64Array = new Float64Array(0);
const shape = { queryHeads: 6, kvHeads: 2, headDim: 32, pageSize: 5, kvDtype: "bf16" } as const;

describe.each(await targetsHere())("a paged cache on $name", (target) => {
  let device: Device;
  beforeAll(async () => {
    device = await target.open(2);
  });
  afterAll(async () => {
    await device[Symbol.asyncDispose]();
  });

  test("decodes step by step over page ends", () => {
    using world = new World(device, caseOf("steps", shape), { pages: 20 });
    const sequences = [world.create(), world.create()];
    world.step(sequences, [4, 7]);
    for (let i = 0; i < 12; i++) world.step(sequences, [1, i % 3]);
  });

  test("forks write their own last page", () => {
    using world = new World(device, caseOf("fork", { ...shape, storage: "HND" }), { pages: 40 });
    const first = world.create();
    world.step([first], [13]);
    const second = world.fork(first);
    const third = world.fork(first);
    world.step([second], [1]);
    world.step([first, third], [3, 2]);
    world.step([first, second, third], [1, 9, 1]);
    world.free(first);
    world.step([third, second], [4, 1]);
  });

  test("levels of shared prefixes give what whole sequences give", () => {
    for (const over of [
      {},
      { kvHeads: 1, sinks: true, alibi: true, windowLeft: 40 },
      { mask: "tail", causal: false, kvDtype: "f16", scales: "token" } as const,
      { mask: "all", scales: "head", lseBase: "2" } as const,
      { finalize: false, rope: { dim: 16, interleaved: false, theta: 1e4 } },
    ]) {
      const c = caseOf("cascade", { ...shape, ...over, seed: 3 });
      using world = new World(device, c, { pages: 120 });
      const base = world.create();
      world.step([base], [52]);
      const forks = [base, world.fork(base), world.fork(base), world.fork(base)];
      world.step(forks, [1, 6, 2, 1]);
      const loner = world.create();
      world.step([loner], [17]);
      world.step([...forks, loner], [1, 1, 1, 1, 1], { share: true });
      world.step([loner, ...forks], [3, 1, 20, 1, 0], { share: true });
    }
  });

  test("levels of a prefix as long as a step's split rows", () => {
    const c = caseOf("long cascade", { ...shape, pageSize: 16, headDim: 64, kvDtype: "f8e4m3" });
    using world = new World(device, c, { pages: 300 });
    const base = world.create();
    world.grow([base], [3000]);
    const forks = [base];
    for (let i = 0; i < 7; i++) forks.push(world.fork(base));
    world.step(forks, [1, 1, 4, 1, 1, 1, 2, 1], { share: true });
  });

  test("compact keeps the accepted drafts, truncate the head", () => {
    using world = new World(device, caseOf("drafts", { ...shape, seed: 9 }), { pages: 40 });
    const tree = world.create();
    const fork = (world.step([tree], [8]), world.fork(tree));
    world.step([tree, fork], [6, 4]);
    world.compact(tree, 6, [0, 2, 5]);
    world.compact(fork, 4, []);
    world.step([tree, fork], [1, 2]);
    world.step([tree], [7]);
    world.compact(tree, 7, [1, 2, 3, 6]);
    world.truncate(fork, 3);
    world.step([fork, tree], [5, 1]);
  });

  test("scales by request meet shared levels rightly, or are refused", () => {
    using world = new World(device, caseOf("both", { ...shape, scales: "request" }), { pages: 60 });
    const base = world.create();
    world.step([base], [52]);
    try {
      world.step([base, world.fork(base), world.fork(base)], [1, 1, 1], { share: true });
    } catch (error) {
      expect(error).toBeInstanceOf(FlashbunError);
    }
  });

  test("hundreds of sequences in a step, padded", () => {
    const c = caseOf("many", { ...shape, headDim: 16, queryHeads: 4 });
    using world = new World(device, c, { pages: 4000 });
    const sequences = Array.from({ length: 300 }, () => world.create());
    world.grow(
      sequences,
      sequences.map((_, i) => (i * 7) % 60),
    );
    const counts = sequences.map((_, i) => (i % 50 === 0 ? 9 : i % 11 === 0 ? 0 : 1));
    world.step(sequences, counts, { padTo: 512 });
  });

  test("layers of a full and of a window group share sequences, not pages", () => {
    const c = caseOf("groups", { ...shape, kvDtype: "f32" });
    const { kvHeads, headDim, pageSize } = shape;
    using full = new Rig(device, c);
    using local = new Rig(device, { ...c, windowLeft: 6 });
    using cache = PagedCache.create(device, {
      layers: 3,
      kvHeads,
      headDim,
      dtype: full.c.kvDtype,
      pages: 1,
      pageSize,
      combined: true,
      layout: "HND",
      groups: [
        { layers: [0, 2], pages: 30 },
        { layers: [1], pages: 7, windowLeft: 6 },
      ],
    });
    const sequences = [cache.sequence(), cache.sequence()];
    const held = [0, 1, 2].map(() => sequences.map(() => ({ k: none, v: none })));
    for (const counts of [[11, 2], ...Array.from({ length: 15 }, (_, i) => [1, i % 3])]) {
      const batch = cache.reserve(sequences, counts);
      if (!batch.ok) throw batch.error;
      const queries = counts.map((count) => full.queries(count));
      for (let layer = 0; layer < 3; layer++) {
        const k = counts.map((count) => full.rows(count, headDim));
        const v = counts.map((count) => full.rows(count, headDim));
        using keys = full.upload(concatenate(k), "f32", kvHeads, headDim);
        using values = full.upload(concatenate(v), "f32", kvHeads, headDim);
        cache.append({ layer, batch, k: keys, v: values });
        held[layer].forEach((rows, i) => {
          rows.k = concatenate([rows.k, k[i]]);
          rows.v = concatenate([rows.v, v[i]]);
        });
      }
      for (const [layer, rig] of [full, local, full].entries()) {
        const requests = held[layer].map((rows, i) => ({ q: queries[i], ...rows }));
        rig.check(batch, requests, { cache, layer });
      }
    }
    expect(sequences[0].pages(1)[0]).toBe(-1);
    expect(sequences[0].pages(0)[0]).toBeGreaterThanOrEqual(0);
  });

  test("a window group frees pages and still sees its window", () => {
    const c = caseOf("window", { ...shape, windowLeft: 11 });
    using world = new World(device, c, { pages: 12, windowLeft: 11 });
    const sequences = [world.create(), world.create()];
    world.step(sequences, [9, 3]);
    for (let i = 0; i < 40; i++) world.step(sequences, [1, i % 4]);
    expect(sequences[0].pages()[0]).toBe(-1);
    expect(sequences[0].length).toBe(49);
  });
});

describe("append", () => {
  const dtypes: DType[] = ["f32", "f16", "bf16", "f8e4m3", "f8e5m2"];
  const { kvHeads, headDim, pageSize } = shape;
  const tokens = 23;

  test.each(dtypes)("rounds once to %s, from every float", async (dtype) => {
    await using device = await Device.open("cpu");
    for (const source of ["f32", "f16", "bf16"] as const) {
      using cache = PagedCache.create(device, {
        layers: 2,
        kvHeads,
        headDim,
        valueDim: 16,
        dtype,
        pages: 8,
        pageSize,
      });
      using sequence = cache.sequence();
      const batch = cache.reserve([sequence], [tokens]);
      if (!batch.ok) throw batch.error;
      const random = seeded(4);
      const wide = (dim: number) =>
        normals(random, tokens * kvHeads * dim, source).map(
          (x) => x * 2 ** random.integer(-20, 12),
        );
      const numbers = { key: roundTo(source, wide(headDim)), value: roundTo(source, wide(16)) };
      const tensor = (data: Float64Array, dim: number) =>
        Tensor.from(device, data, [tokens, kvHeads, dim], source);
      using k = tensor(numbers.key, headDim);
      using v = tensor(numbers.value, 16);
      cache.append({ layer: 1, batch, k, v });
      for (const [plane, dim] of [
        ["key", headDim],
        ["value", 16],
      ] as const) {
        const held = readRows(cache, plane, sequence.pages(), dim);
        expect(held).toEqual(roundTo(dtype, numbers[plane]));
      }
    }
  });

  test.each(["tensor", "head", "request", "token"])(
    "divides by scales by %s before it rounds to fp8",
    async (kind) => {
      await using device = await Device.open("cpu");
      using cache = PagedCache.create(device, {
        layers: 1,
        kvHeads,
        headDim,
        dtype: "f8e4m3",
        pages: 8,
        pageSize,
        layout: "HND",
      });
      using other = cache.sequence();
      using sequence = cache.sequence();
      const batch = cache.reserve([other, sequence], [3, tokens], { padTo: 30 });
      if (!batch.ok) throw batch.error;
      const random = seeded(6);
      const data = normals(random, (3 + tokens) * kvHeads * headDim, "f32").map((x) => x * 300);
      using k = Tensor.from(device, data, [3 + tokens, kvHeads, headDim], "f32");
      const shapes: Record<string, number[]> = {
        tensor: [1],
        head: [kvHeads],
        request: [2, kvHeads],
        token: [8, pageSize, kvHeads],
      };
      // Powers of two: dividing by them is exact, so that one rounding is left.
      const count = shapes[kind].reduce((product, size) => product * size, 1);
      const scales = Float64Array.from({ length: count }, () => 2 ** random.integer(-3, 4));
      using scale = Tensor.from(device, scales, shapes[kind], "f32");
      cache.append({ layer: 0, batch, k, v: k, kScale: scale });
      const pages = sequence.pages();
      const scaleOf = (token: number, head: number) => {
        const place = pages[Math.floor(token / pageSize)] * pageSize + (token % pageSize);
        const at = { tensor: 0, head, request: kvHeads + head, token: place * kvHeads + head }[
          kind
        ];
        return scales[at];
      };
      const rows = data.subarray(3 * kvHeads * headDim);
      const divided = Float64Array.from(rows, (x, i) => {
        const row = Math.floor(i / headDim);
        return Math.fround(x) / scaleOf(Math.floor(row / kvHeads), row % kvHeads);
      });
      expect(readRows(cache, "key", pages, headDim)).toEqual(roundTo("f8e4m3", divided));
      const plain = roundTo("f8e4m3", rows.map(Math.fround));
      expect(readRows(cache, "value", pages, headDim)).toEqual(plain);
    },
  );

  test("writes its own tokens and nothing else, past padding and strides", async () => {
    await using device = await Device.open("cpu", { threads: 3 });
    using storage = poisoned(device, [6, kvHeads, pageSize + 2, headDim + 8], "bf16");
    const view = storage
      .permute(0, 2, 1, 3)
      .slice(1, 1, pageSize + 1)
      .slice(3, 4, headDim + 4);
    using cache = PagedCache.create(device, {
      layers: 1,
      kvHeads,
      headDim,
      dtype: "bf16",
      pages: 6,
      pageSize,
      planes: [{ name: "latent", heads: kvHeads, dim: headDim, dtype: "bf16" }],
      storage: () => view,
    });
    using sequence = cache.sequence();
    const batch = cache.reserve([sequence], [13], { padTo: 16 });
    if (!batch.ok) throw batch.error;
    // Every other head of a wider tensor: strided sources.
    using source = Tensor.randomNormal(device, [13, 2 * kvHeads, headDim], "bf16", { seed: 2 });
    const latent = Tensor.fromPointer(device, source.address, [13, kvHeads, headDim], "bf16", {
      strides: [2 * kvHeads * headDim, 2 * headDim, 1],
    });
    cache.append({ layer: 0, batch, planes: { latent } });
    const held = readRows(cache, "latent", sequence.pages(), headDim);
    expect<Float64Array>(held.slice(0, 13 * kvHeads * headDim)).toEqual(latent.toFloat64Array());
    const all = storage.toFloat64Array();
    const written = all.filter((x) => !Number.isNaN(x)).length;
    expect(written).toBe(13 * kvHeads * headDim);
  });

  /** Rows of a sequence's tokens as the cache's last layer holds them; NaN rows at the end go. */
  function readRows(cache: PagedCache, plane: string, pages: Int32Array, dim: number) {
    const all = cache.plane(cache.options.layers - 1, plane).toFloat64Array();
    const row = kvHeads * dim;
    const count = plane === "latent" ? 13 : tokens;
    const rows = new Float64Array(count * row);
    for (let token = 0; token < count; token++) {
      const place = pages[Math.floor(token / pageSize)] * pageSize + (token % pageSize);
      rows.set(all.subarray(place * row, (place + 1) * row), token * row);
    }
    return rows;
  }
});
