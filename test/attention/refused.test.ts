import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { Attention } from "../../src/attention/attention.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import { Device } from "../../src/device/device.ts";
import { DisposedError, OptionError, OutOfPagesError } from "../../src/errors.ts";
import { type Batch, createBatch } from "../../src/kv/batch.ts";
import { raggedLayout } from "../../src/kv/layout.ts";
import { userPages } from "../../src/kv/user-pages.ts";
import { Tensor } from "../../src/tensor/tensor.ts";

const shape = { queryHeads: 4, kvHeads: 2, headDim: 16, dtype: "f32" } as const;
const storage = { ...shape, layers: 1, pages: 4, pageSize: 4 };
const llama3 = { kind: "llama3", factor: 8, lowFrequencyFactor: 1, highFrequencyFactor: 4 };
const yarn = { kind: "yarn", factor: 8, originalPositions: 4096 };
const longrope = {
  kind: "longrope",
  factor: 8,
  originalPositions: 4096,
  lengthTokens: 8192,
  shortFactors: new Array<number>(8).fill(1),
  longFactors: new Array<number>(7).fill(2),
};

let device: Device;
beforeAll(async () => {
  device = await Device.open("cpu", { threads: 1 });
});
afterAll(() => device[Symbol.asyncDispose]());

function zeros(...dims: number[]): Tensor {
  return Tensor.zeros(device, dims, "f32");
}

/** A step of `tokens` new tokens in a fresh cache. */
function stepOf(cache: PagedCache, ...tokens: number[]): Batch {
  const batch = cache.reserve(
    tokens.map(() => cache.sequence()),
    tokens,
  );
  if (!batch.ok) throw batch.error;
  return batch;
}

describe("options within options are named", () => {
  test.each([
    [{ rope: { theta: -1 } }, "rope.theta must be a finite number above 0 (got -1)"],
    [{ rope: { base: 2 } }, "rope.base must be one of the options theta, dim"],
    [{ rope: { dim: 32 } }, "rope.dim must be an integer from 2 to 16 (got 32)"],
    [{ rope: { dim: 3 } }, "rope.dim must be even (got 3)"],
    [{ rope: 1 }, "rope must be an object { theta"],
    [{ rope: { scaling: { kind: "ntk", factor: 2 } } }, "rope.scaling.kind must be one of linear"],
    [{ rope: { scaling: {} } }, "rope.scaling.kind must be one of linear"],
    [{ rope: { scaling: 2 } }, "rope.scaling must be an object { kind, factor }"],
    [{ rope: { scaling: { ...yarn, betaMost: 2 } } }, "rope.scaling.betaMost must be one of the"],
    [{ rope: { scaling: { ...yarn, factor: 0 } } }, "rope.scaling.factor must be a finite number"],
    [{ rope: { scaling: { ...yarn, betaSlow: 40 } } }, "rope.scaling.betaSlow must be at most"],
    [{ rope: { scaling: yarn, theta: 1 } }, "rope.theta must be above 1 with yarn (got 1)"],
    [{ rope: { scaling: { kind: "yarn", factor: 2 } } }, "rope.scaling.originalPositions must be"],
    [
      { rope: { scaling: { ...yarn, kind: "dynamic" } } },
      "rope.scaling.lengthTokens must be an int",
    ],
    [{ rope: { scaling: longrope } }, 'rope.scaling.longFactors must be 8 (got "7 numbers")'],
    [
      { rope: { scaling: { ...longrope, longFactors: [1, 0] } } },
      "rope.scaling.longFactors[1] must be a finite number above 0 (got 0)",
    ],
    [{ rope: { scaling: { kind: "linear" } } }, "rope.scaling.factor must be a finite number"],
    [{ rope: { scaling: { kind: "linear", factor: NaN } } }, "rope.scaling.factor must be"],
    [{ rope: { scaling: llama3 } }, "rope.scaling.originalPositions must be"],
    [
      { rope: { scaling: { ...llama3, originalPositions: 8192, highFrequencyFactor: 1 } } },
      "rope.scaling.highFrequencyFactor must be a number above lowFrequencyFactor (1) (got 1)",
    ],
    [
      { graph: { maxBatch: 0, maxQueryTokens: 1, maxColumns: 1 } },
      "graph.maxBatch must be an integer from 1 to 2147483647 (got 0)",
    ],
    [{ graph: { maxBatch: 1, maxQueryTokens: 1 } }, "graph.maxColumns must be"],
    [{ fastAccumulation: true }, "fastAccumulation must be false, but for fp8 queries (got true)"],
    [{ dtype: "f8e4m3", fastAccumulation: 1 }, "fastAccumulation must be"],
    [
      { graph: { maxBatch: 4, maxQueryTokens: 4, maxColumns: 1, buckets: [1, -2] } },
      "graph.buckets[1] must be an integer from 1 to 2147483647 (got -2)",
    ],
  ])("attention %j", (over, message) => {
    const create = () => Attention.createSync(device, { ...shape, ...over } as never);
    expect(create).toThrow(OptionError);
    expect(create).toThrow(message);
  });

  const plane = { name: "latent", heads: 1, dim: 16, dtype: "f32" };
  test.each([
    [{ planes: 3 }, "planes must be a list of"],
    [{ planes: [null] }, "planes[0] must be an object"],
    [{ planes: [{ ...plane, dim: NaN }] }, "planes[0].dim must be an integer"],
    [{ planes: [{ ...plane, dtype: "f64" }] }, "planes[0].dtype must be one of"],
    [{ planes: [plane, plane] }, "planes must be named once"],
    [{ planes: [{ name: "latent" }] }, "planes[0].heads must be"],
    [{ groups: [{ layers: [0], pages: -1 }] }, "groups[0].pages must be an integer"],
    [{ groups: [{ layers: 0, pages: 1 }] }, "groups[0].layers must be a list"],
    [{ groups: [{ layers: [0, 0], pages: 1 }] }, "groups must be each layer in one group"],
    [{ groups: [] }, "groups must be all 1 layers"],
    [{ storage: 3 }, "storage must be a function"],
  ])("cache %j", (over, message) => {
    const create = () => PagedCache.create(device, { ...storage, ...over } as never);
    expect(create).toThrow(OptionError);
    expect(create).toThrow(message);
  });
});

test("storage of pages of as many tokens as heads has to say its order", () => {
  const pages = zeros(4, 4, 4, 16);
  const create = (view: Tensor, layout?: "NHD" | "HND") =>
    PagedCache.create(device, { ...storage, kvHeads: 4, layout, storage: () => view });
  const swapped = pages.permute(0, 2, 1, 3);
  for (const [view, layout] of [
    [pages, "NHD"],
    [swapped, "HND"],
    [swapped, undefined],
  ] as const) {
    create(view, layout)[Symbol.dispose]();
  }
  expect(() => create(pages)).toThrow("storage(0, key) must be of a known order");
  expect(() => create(pages, "HND")).toThrow(/^storage\(0, key\) must be/);
  expect(() => create(swapped, "NHD")).toThrow(/^storage\(0, key\) must be/);
});

test("what is no batch is refused, a step that did not fit with its own error", () => {
  using cache = PagedCache.create(device, storage);
  using attention = Attention.createSync(device, shape);
  const sequence = cache.sequence();
  const tooLong = cache.reserve([sequence], [17]) as Batch;
  const [k, v] = [zeros(17, 2, 16), zeros(17, 2, 16)];
  for (const use of [
    () => attention.plan(tooLong),
    () => cache.append({ layer: 0, batch: tooLong, k, v }),
  ]) {
    expect(use).toThrow(OutOfPagesError);
  }
  for (const batch of [undefined, null, {}, 5] as unknown as Batch[]) {
    expect(() => attention.plan(batch)).toThrow("batch must be a batch");
    expect(() => cache.append({ layer: 0, batch, k, v })).toThrow("batch must be a batch");
  }
  expect(() => createBatch({ queryLengths: [1] } as never)).toThrow("layout must be a layout");
  expect(attention.lastPlan).toBeUndefined();
  expect(sequence.length).toBe(0);
});

test("what is no tensor is refused by its name", () => {
  using cache = PagedCache.create(device, storage);
  using attention = Attention.createSync(device, shape);
  const batch = stepOf(cache, 3);
  const good = { q: zeros(3, 4, 16), out: zeros(3, 4, 16), cache };
  attention.plan(batch);
  for (const wrong of [new Float32Array(192), 5, null, {}] as never[]) {
    expect(() => attention.run({ ...good, q: wrong })).toThrow("q must be a tensor");
    // null is the same as left out.
    if (wrong !== null)
      expect(() => attention.run({ ...good, lse: wrong })).toThrow("lse must be a tensor");
    expect(() => cache.append({ layer: 0, batch, k: wrong, v: wrong })).toThrow(/^k must be/);
    expect(() => attend(good.q, wrong, wrong)).toThrow("k must be a tensor");
  }
  expect(() => attention.run({ out: good.out, cache } as never)).toThrow("q must be a tensor");
});

test("names that nobody knows are refused, with the one that was meant", () => {
  using cache = PagedCache.create(device, storage);
  using attention = Attention.createSync(device, shape);
  const batch = stepOf(cache, 3);
  const rows = { k: zeros(3, 2, 16), v: zeros(3, 2, 16) };
  const good = { q: zeros(3, 4, 16), out: zeros(3, 4, 16), cache };
  const run = (over: object) => attention.run({ ...good, ...over } as never);
  const lists = { queryIndptr: [0, 1], indptr: [0, 1], indices: [0], pageSize: 4, pageCount: 4 };
  const cases: [() => void, string][] = [
    [() => run({ mask: rows.k }), "Fix: write maskBits, or remove it."],
    [() => run({ kvLenghts: rows.k }), "Fix: write kvLengths, or remove it."],
    [() => run({ lsee: rows.k }), "Fix: write lse, or remove it."],
    [() => run({ zebra: rows.k }), "Fix: remove or rename it."],
    [() => userPages({ ...lists, kvLength: [1] } as never), "Fix: write kvLengths, or remove"],
    [() => Attention.createSync(device, { ...shape, softcap: 5 } as never), "write softCap,"],
    [() => Attention.createSync(device, { ...shape, window: 5 } as never), "write windowLeft,"],
  ];
  attention.plan(batch);
  cache.append({ layer: 0, batch, ...rows });
  for (const [use, sentence] of cases) expect(use).toThrow(sentence);
  // Looked at before the first step of a layer.
  using fresh = PagedCache.create(device, storage);
  const other = stepOf(fresh, 3);
  const wrong: [object, string][] = [
    [{ kscale: 1 }, "Fix: write kScale, or remove it."],
    [{ planes: { keys: rows.k } }, "planes.keys must be one of the options key"],
  ];
  for (const [over, sentence] of wrong)
    expect(() => fresh.append({ layer: 0, batch: other, ...rows, ...over } as never)).toThrow(
      sentence,
    );
});

describe("scales that leave a request or a token without one are refused", () => {
  const few: [string, number[]][] = [
    ["requests", [1, 2]],
    ["pages", [3, 4, 2]],
    ["tokens per page", [4, 3, 2]],
    ["heads", [4, 4, 1]],
  ];
  test.each(few)("too few %s of a cache", (_, dims) => {
    using cache = PagedCache.create(device, { ...storage, dtype: "f8e4m3" });
    using attention = Attention.createSync(device, { ...shape, kvDtype: "f8e4m3" });
    const batch = stepOf(cache, 3, 1);
    const [k, v, scale] = [zeros(4, 2, 16), zeros(4, 2, 16), zeros(...dims)];
    for (const name of ["kScale", "vScale"]) {
      const append = () => cache.append({ layer: 0, batch, k, v, [name]: scale });
      expect(append).toThrow(OptionError);
      expect(append).toThrow(`${name} must be`);
      attention.plan(batch);
      const tensors = { q: zeros(4, 4, 16), out: zeros(4, 4, 16), cache };
      expect(() => attention.run({ ...tensors, [name]: scale })).toThrow(`${name} must be`);
    }
  });

  test("a row for each token in two axes, which are by request", () => {
    using attention = Attention.createSync(device, shape);
    const layout = raggedLayout([0, 1, 2], [0, 3, 5]);
    attention.plan(createBatch({ queryLengths: [1, 1], layout }));
    const [keys, queries] = [zeros(5, 2, 16), zeros(2, 4, 16)];
    const run = (...dims: number[]) =>
      attention.run({
        q: queries,
        out: queries.to("f32"),
        k: keys,
        v: keys,
        kScale: zeros(...dims),
      });
    expect(() => run(5, 2)).toThrow("kScale must be [2, 2], or [1, 5, 2] by token");
    for (const dims of [
      [1, 5, 2],
      [2, 2],
      [4, 2],
    ])
      run(...dims);
  });

  test("too few tokens of ragged keys", () => {
    using attention = Attention.createSync(device, shape);
    const layout = raggedLayout([0, 1], [0, 5]);
    attention.plan(createBatch({ queryLengths: [1], layout }));
    const tensors = { q: zeros(1, 4, 16), out: zeros(1, 4, 16), k: zeros(5, 2, 16) };
    const run = (tokens: number) => () =>
      attention.run({ ...tensors, v: tensors.k, kScale: zeros(1, tokens, 2) });
    expect(run(4)).toThrow("kScale must be [1 or more, 5 or more, 2]");
    run(5)();
  });
});

test("what was bound for a smaller step is looked at again for a larger one", () => {
  using attention = Attention.createSync(device, {
    ...shape,
    causal: true,
    mask: "all",
    deviceLengths: true,
  });
  using cache = PagedCache.create(device, { ...storage, pages: 64 });
  using q = zeros(20, 4, 16);
  using long = zeros(40, 4, 16);
  using k = zeros(40, 2, 16);
  using kvLengths = Tensor.zeros(device, [3], "i32");
  using maskBits = Tensor.zeros(device, [40], "u8");
  using maskIndptr = Tensor.zeros(device, [8], "i32");
  const bound = { cache, kvLengths, maskBits, maskIndptr };
  const run = (tokens: number[], rows = q) => {
    const batch = stepOf(cache, ...tokens);
    cache.append({ layer: 0, batch, k, v: k });
    attention.plan(batch);
    attention.run({ q: rows, out: rows, ...bound });
  };
  run([3, 5]);
  run([1, 1]);
  expect(() => run([21])).toThrow("q must be [21 or more, 4, 16]");
  run([2, 2]);
  expect(() => run([1, 1, 1, 1])).toThrow("kvLengths must be a contiguous i32 tensor of 4");
  run([2, 2]);
  // As many bits as the squares of the queries: 40 bytes hold 17 queries of one request.
  run([17], long);
  expect(() => run([18], long)).toThrow("maskBits must be a contiguous u8 tensor of 41");
  run([9, 8], long);
});

test("new tokens are looked at again for a larger step, and once they are disposed", () => {
  using cache = PagedCache.create(device, storage);
  const [k, v] = [zeros(3, 2, 16), zeros(9, 2, 16)];
  const append = (tokens: number, source = k) => {
    const batch = stepOf(cache, tokens);
    try {
      cache.append({ layer: 0, batch, k: source, v });
    } finally {
      cache.rollback(batch);
    }
  };
  append(2);
  append(3);
  expect(() => append(4)).toThrow("k must be a tensor [4 or more, 2, 16]");
  append(4, v);
  append(1);
  k[Symbol.dispose]();
  expect(() => append(1)).toThrow(DisposedError);
});
