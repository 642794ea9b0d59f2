import { describe, expect, test } from "bun:test";
import { Attention } from "../../src/attention/attention.ts";
import { normRopeAppend, type NormRopeAppendTensors } from "../../src/cache/norm-rope-append.ts";
import type { PagedCacheOptions } from "../../src/cache/options.ts";
import { PagedCache } from "../../src/cache/paged-cache.ts";
import type { Device } from "../../src/device/device.ts";
import { DisposedError, OptionError, PlanError } from "../../src/errors.ts";
import type { Batch } from "../../src/kv/batch.ts";
import { applyRope } from "../../src/ops/apply-rope.ts";
import { rmsNorm } from "../../src/ops/norm.ts";
import { Rope, ropeFrequencies, type RopeOptions } from "../../src/ops/rope.ts";
import { attentionFactorOf } from "../../src/ops/rope-scaling.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import type { PageOrder } from "../../src/tensor/page-order.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { rotate } from "../support/oracle.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";

/** Half a unit in the last place, relative; then half the distance of the smallest numbers. */
const roundings: Partial<Record<DType, [relative: number, least: number]>> = {
  f32: [1e-6, 0],
  f16: [2 ** -11, 2 ** -25],
  bf16: [2 ** -8, 0],
  f8e4m3: [2 ** -4, 2 ** -10],
  f8e5m2: [2 ** -3, 2 ** -17],
};
/** What an angle may be off. */
const angleError = { cpu: 1e-6, cuda: 1e-5 };

const yarn = { kind: "yarn", factor: 8, originalPositions: 512 } as const;

interface Case {
  /** New tokens of each request. */
  lengths: number[];
  queryHeads: number;
  kvHeads: number;
  headDim: number;
  valueDim: number;
  dtype: DType;
  cacheDtype: DType;
  options: RopeOptions;
  /** Which sides have weights, and of which type. */
  weights: ("q" | "k")[];
  weightDtype: DType;
  zeroCentered: boolean;
  /** Shapes of the scales of keys and values. */
  scales: "none" | "tensor" | "head" | "request";
  layout: PageOrder;
  padding: number;
  /** Queries go to a tensor of their own. */
  apart: boolean;
}

const plain: Case = {
  lengths: [3, 1, 5],
  queryHeads: 4,
  kvHeads: 2,
  headDim: 64,
  valueDim: 64,
  dtype: "bf16",
  cacheDtype: "bf16",
  options: { theta: 1e6 },
  weights: ["q", "k"],
  weightDtype: "bf16",
  zeroCentered: false,
  scales: "none",
  layout: "NHD",
  padding: 0,
  apart: false,
};

function numbersOf(random: Random, count: number, dtype: DType): Float64Array {
  return roundTo(
    dtype,
    Float64Array.from({ length: count }, () => random.normal()),
  );
}

/** A head's numbers in f64. */
function expected(
  x: Float64Array,
  weight: Float64Array | undefined,
  c: Case,
  position: number,
  turns: boolean,
): Float64Array {
  const y = x.slice();
  if (weight !== undefined) {
    const mean = x.reduce((sum, value) => sum + value ** 2, 0) / x.length;
    const offset = c.zeroCentered ? 1 : 0;
    for (let i = 0; i < x.length; i++)
      y[i] = (x[i] / Math.sqrt(mean + 1e-6)) * (weight[i] + offset);
  }
  if (!turns) return y;
  const { first = 0, interleaved = false, scaling } = c.options;
  const frequencies = ropeFrequencies(c.options, c.headDim);
  const rope = { frequencies, first, interleaved, factor: attentionFactorOf(scaling) };
  rotate(y, rope, () => position);
  return y;
}

function close(
  got: ArrayLike<number>,
  wanted: Float64Array,
  dtype: DType,
  c: Case,
  kind: Device["kind"],
) {
  const [relative, least] = roundings[dtype]!;
  const size = Math.max(...wanted.map(Math.abs));
  wanted.forEach((value, i) => {
    const most = Math.abs(value) * relative * 1.02 + least + size * 2 * angleError[kind];
    const off = Math.abs(got[i] - value);
    if (!(off <= most)) throw new Error(`${JSON.stringify(c)}: ${i}: ${off} > ${most}`);
  });
}

interface Made {
  cache: PagedCache;
  batch: Batch;
  tensors: NormRopeAppendTensors;
  host: { q: Float64Array; k: Float64Array; v: Float64Array };
  weights: { q?: Float64Array; k?: Float64Array };
  positions: Int32Array;
}

/** A step of a fresh cache; q, k and v are views of one product, with more behind each head. */
function make(
  device: Device,
  c: Case,
  random: Random,
  over: Partial<PagedCacheOptions> = {},
): Made {
  const { lengths, queryHeads, kvHeads, headDim, valueDim, dtype, layout } = c;
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  const cache = PagedCache.create(device, {
    layers: 2,
    kvHeads,
    headDim,
    valueDim,
    dtype: c.cacheDtype,
    pages: 24 + Math.ceil(tokens / 4),
    pageSize: 4,
    layout,
    ...over,
  });
  const batch = cache.reserve(
    lengths.map(() => cache.sequence()),
    lengths,
    over.keyPositions
      ? { positions: Int32Array.from({ length: tokens }, (_, i) => 7 * i + 2) }
      : { padTo: tokens + c.padding },
  );
  if (!batch.ok) throw batch.error;
  const heads = queryHeads + 2 * kvHeads;
  const dim = Math.max(headDim, valueDim) + random.pick([0, 8, 3]);
  const numbers = numbersOf(random, tokens * heads * dim, dtype);
  const all = Tensor.from(device, numbers, [tokens, heads, dim], dtype);
  const part = (from: number, to: number, width: number) =>
    all.slice(1, from, to).slice(2, 0, width);
  const q = part(0, queryHeads, headDim);
  const k = part(queryHeads, queryHeads + kvHeads, headDim);
  const v = part(queryHeads + kvHeads, heads, valueDim);
  const host = { q: q.toFloat64Array(), k: k.toFloat64Array(), v: v.toFloat64Array() };
  const positions = Int32Array.from({ length: tokens }, () => random.integer(0, 3000));
  const weights: Made["weights"] = {};
  const tensors: NormRopeAppendTensors = {
    layer: 1,
    batch,
    q,
    k,
    v,
    rope: Rope.create(device, headDim, c.options),
    positions: Tensor.from(device, positions, [tokens], "i32"),
    zeroCentered: c.zeroCentered,
  };
  for (const side of c.weights) {
    weights[side] = numbersOf(random, headDim, c.weightDtype);
    tensors[`${side}Weight`] = Tensor.from(device, weights[side], [headDim], c.weightDtype);
  }
  const shapes = { none: [], tensor: [1], head: [kvHeads], request: [lengths.length, kvHeads] };
  if (c.scales !== "none")
    for (const option of ["kScale", "vScale"] as const) {
      const shape = shapes[c.scales];
      const count = shape.reduce((a, b) => a * b, 1);
      const values = Array.from({ length: count }, () => Math.fround(0.25 + random.next()));
      tensors[option] = Tensor.from(device, values, shape, "f32");
    }
  if (c.apart) tensors.out = Tensor.zeros(device, [tokens, queryHeads, headDim], dtype);
  return { cache, batch, tensors, host, weights, positions };
}

function scaleAt(scale: Tensor | undefined, request: number, head: number): number {
  if (scale === undefined) return 1;
  const values = scale.toFloat64Array();
  if (scale.shape.length === 2) return values[request * scale.shape[1] + head];
  return values[values.length === 1 ? 0 : head];
}

/** Compares what lies in the queries and in the pages with f64. */
function check(device: Device, c: Case, { cache, batch, tensors, host, weights, positions }: Made) {
  const { queryHeads, kvHeads, headDim, valueDim } = c;
  const got = (tensors.out ?? tensors.q).toFloat64Array();
  const planes = ["key", "value"].map((name) => cache.plane(1, name));
  const pages = planes.map((plane) => plane.toFloat64Array());
  for (let token = 0; token < batch.tokenCount; token++) {
    const at = positions[token];
    for (let head = 0; head < queryHeads; head++) {
      const from = (token * queryHeads + head) * headDim;
      const row = host.q.subarray(from, from + headDim);
      close(got.subarray(from), expected(row, weights.q, c, at, true), c.dtype, c, device.kind);
    }
    const slot = batch.slotMappings[0][token];
    const request = batch.tokenRequests[token];
    for (let head = 0; head < kvHeads; head++)
      for (const [i, dim] of [headDim, valueDim].entries()) {
        const from = (token * kvHeads + head) * dim;
        const source = (i === 0 ? host.k : host.v).subarray(from, from + dim);
        const scale = scaleAt(i === 0 ? tensors.kScale : tensors.vScale, request, head);
        const weight = i === 0 ? weights.k : undefined;
        const row = expected(source, weight, c, at, i === 0).map((value) => value / scale);
        close(pages[i].subarray((slot * kvHeads + head) * dim), row, c.cacheDtype, c, device.kind);
      }
  }
}

function run(device: Device, over: Partial<Case>, random: Random): void {
  const c = { ...plain, ...over };
  const made = make(device, c, random);
  using cache = made.cache;
  const out = normRopeAppend(cache, made.tensors);
  expect(out).toBe(made.tensors.out ?? made.tensors.q);
  check(device, c, made);
  if (c.apart) expect(made.tensors.q.toFloat64Array()).toEqual(made.host.q);
}

describe.each(await targetsHere())("normRopeAppend on $name", (target) => {
  const float = (dtype: DType) => (dtype === "f32" && target.kind !== "cpu" ? "f16" : dtype);

  const cases: [string, Partial<Case>][] = [
    ["bf16", {}],
    ["f32 or f16", { dtype: float("f32"), cacheDtype: float("f32"), weightDtype: "f32" }],
    ["no norm", { weights: [] }],
    ["a norm of keys alone", { weights: ["k"], apart: true }],
    ["fp8, a scale", { cacheDtype: "f8e4m3", scales: "tensor" }],
    ["fp8, scales by head, HND", { cacheDtype: "f8e5m2", scales: "head", layout: "HND" }],
    ["fp8, scales by request", { cacheDtype: "f8e4m3", scales: "request", padding: 3 }],
    ["fp8 without scales", { cacheDtype: "f8e4m3", dtype: "f16", weightDtype: "f16" }],
    ["Gemma's weights", { zeroCentered: true, options: { interleaved: true } }],
    ["YaRN, the last elements", { options: { first: 32, scaling: yarn }, apart: true }],
    ["elements between", { headDim: 80, valueDim: 48, options: { first: 5, dim: 30 } }],
    ["576 elements, values of 512", { headDim: 576, valueDim: 512, options: { first: 512 } }],
    ["wide values", { headDim: 24, valueDim: 200, options: { interleaved: true, dim: 12 } }],
    // A lane of a GPU has several heads of one.
    [
      "many tokens",
      { lengths: [1100, 2000], queryHeads: 5, kvHeads: 1, headDim: 32, valueDim: 32 },
    ],
    [
      "as many turns of a lane as there are",
      { lengths: [100, 6100], queryHeads: 11, kvHeads: 1, headDim: 32, valueDim: 32 },
    ],
    ["one head of 128", { queryHeads: 1, kvHeads: 1, headDim: 128, valueDim: 128, lengths: [1] }],
  ];
  test.each(cases)("%s, agrees with f64", async (_, over) => {
    await using device = await target.open(2);
    run(device, over, seeded(11));
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(20, (random) => {
      const headDim = random.integer(2, 160);
      const first = random.integer(0, headDim - 2);
      const dim = 2 * random.integer(1, Math.floor((headDim - first) / 2));
      const dtype = random.pick(["f32", "f16", "bf16"] as const);
      run(
        device,
        {
          lengths: Array.from({ length: random.integer(1, 4) }, () => random.integer(1, 6)),
          queryHeads: random.integer(1, 9),
          kvHeads: random.integer(1, 4),
          headDim,
          valueDim: random.integer(1, 160),
          dtype,
          cacheDtype: random.pick(["f32", "f16", "bf16", "f8e4m3", "f8e5m2"] as const),
          options: { first, dim, interleaved: random.chance(0.5) },
          weights: random.pick<("q" | "k")[]>([[], ["q"], ["q", "k"]]),
          weightDtype: random.pick([dtype, "f32" as const]),
          zeroCentered: random.chance(0.3),
          scales: random.pick(["none", "tensor", "head", "request"] as const),
          layout: random.pick(["NHD", "HND"] as const),
          padding: random.pick([0, 0, 5]),
          apart: random.chance(0.5),
        },
        random,
      );
    });
  });

  test("is rmsNorm, applyRope and append one after another, without their roundings", async () => {
    await using device = await target.open(1);
    const dtype = float("f32");
    const c: Case = { ...plain, dtype, cacheDtype: dtype, weightDtype: dtype, apart: true };
    const fused = make(device, c, seeded(12));
    const { q, k, v, rope, positions, qWeight, kWeight, batch, layer } = fused.tensors;
    const queries = normRopeAppend(fused.cache, fused.tensors).toFloat64Array();
    const keys = fused.cache.plane(1, "key").toFloat64Array();
    rmsNorm(q, qWeight!, { out: q });
    rmsNorm(k, kWeight!, { out: k });
    applyRope(q, k, positions, rope);
    fused.cache.append({ layer, batch, k, v });
    const most = dtype === "f32" ? 1e-5 : 1e-2;
    // Slots that nobody wrote may hold NaN.
    const apart = (a: Float64Array, b: Float64Array) =>
      a.reduce(
        (worst, x, i) => (Object.is(x, b[i]) ? worst : Math.max(worst, Math.abs(x - b[i]))),
        0,
      );
    expect(apart(queries, q.toFloat64Array())).toBeLessThan(most);
    expect(apart(keys, fused.cache.plane(1, "key").toFloat64Array())).toBeLessThan(most);
  });

  test.each([64, 50])("an element that is NaN makes its head of %d NaN alone", async (headDim) => {
    await using device = await target.open(1);
    const { cache, tensors } = make(device, { ...plain, headDim }, seeded(17));
    const numbers = tensors.q.toFloat64Array();
    numbers[headDim + 3] = NaN;
    tensors.q.set(numbers);
    const out = normRopeAppend(cache, tensors).toFloat64Array();
    const isSecond = (i: number) => i >= headDim && i < 2 * headDim;
    expect(out.findIndex((x, i) => Number.isNaN(x) !== isSecond(i))).toBe(-1);
  });

  test("positions of keys are kept with them", async () => {
    await using device = await target.open(1);
    const { cache, tensors, batch } = make(device, plain, seeded(16), { keyPositions: true });
    normRopeAppend(cache, tensors);
    const kept = cache.keyPositions(1)!.toFloat64Array();
    for (let token = 0; token < batch.tokenCount; token++)
      expect(kept[batch.slotMappings[0][token]]).toBe(batch.positions[token]);
  });

  test("a graph replays it for the next step, padding left alone", async () => {
    await using device = await target.open(1);
    const c: Case = { ...plain, lengths: [1, 1], weights: ["q"] };
    const { cache, tensors, batch } = make(device, c, seeded(13));
    normRopeAppend(cache, tensors);
    using graph = device.capture(device.stream, () => normRopeAppend(cache, tensors));
    const before = cache.plane(1, "key").toFloat64Array();
    cache.append({ layer: 0, batch, k: tensors.k, v: tensors.v });
    const sequences = [cache.sequence()];
    const next = cache.reserve(sequences, [1], { padTo: 2 });
    if (!next.ok) throw next.error;
    expect(batch.stale).toBe(true);
    using moved = Tensor.from(device, [77, 5], [2], "i32");
    tensors.positions.copyFrom(moved);
    const q = tensors.q.toFloat64Array();
    const k = tensors.k.toFloat64Array();
    graph.replay(device.stream);
    const after = cache.plane(1, "key").toFloat64Array();
    const slot = next.slotMappings[0][0];
    const width = c.kvHeads * c.headDim;
    const key = expected(k.subarray(0, c.headDim), undefined, c, 77, true);
    close(after.subarray(slot * width), key, "bf16", c, device.kind);
    after.forEach((value, i) => {
      if (Math.floor(i / width) !== slot && !Object.is(value, before[i]))
        throw new Error(`${i} changed`);
    });
    const padded = c.queryHeads * c.headDim;
    expect(tensors.q.toFloat64Array().subarray(padded)).toEqual(q.subarray(padded));
    const vScale = Tensor.from(device, [2], [1], "f32");
    const scaled = { ...tensors, batch: next, vScale };
    using other = device.capture(device.stream, () => normRopeAppend(cache, scaled));
    vScale[Symbol.dispose]();
    expect(() => other.replay(device.stream)).toThrow(DisposedError);
    tensors.rope[Symbol.dispose]();
    expect(() => graph.replay(device.stream)).toThrow(DisposedError);
  });

  test("attention over what it wrote is attention that turns by itself", async () => {
    await using device = await target.open(1);
    const dtype = float("f32");
    const c: Case = { ...plain, dtype, cacheDtype: dtype, weights: [], apart: true };
    c.options = { scaling: yarn };
    const { cache, tensors, batch } = make(device, c, seeded(14));
    const { queryHeads, kvHeads, headDim } = c;
    const shape = { queryHeads, kvHeads, headDim, dtype, causal: true };
    const { tokenCount } = batch;
    using places = Tensor.from(device, batch.positions.slice(0, tokenCount), [tokenCount], "i32");
    const outputs = [c.options, undefined].map((rope, layer) => {
      if (rope !== undefined) cache.append({ layer, batch, k: tensors.k, v: tensors.v });
      const q =
        rope === undefined
          ? normRopeAppend(cache, { ...tensors, positions: places })
          : tensors.q.to(dtype);
      using attention = Attention.createSync(device, { ...shape, ...(rope && { rope }) });
      attention.plan(batch);
      using out = Tensor.zeros(device, [tokenCount, queryHeads, headDim], dtype);
      attention.run({ layer, q, cache, out });
      return out.toFloat64Array();
    });
    const most = dtype === "f32" ? 1e-5 : 4e-3;
    outputs[0].forEach((value, i) => expect(Math.abs(value - outputs[1][i])).toBeLessThan(most));
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    await using elsewhere = await target.open(1);
    const c: Case = { ...plain, lengths: [2], dtype: "f32", cacheDtype: "f32", weightDtype: "f32" };
    const { cache, tensors } = make(device, c, seeded(15));
    const { q, k, v } = tensors;
    const zeros = (shape: number[], dtype: DType = "f32") => Tensor.zeros(device, shape, dtype);
    const wrong: [string, object][] = [
      ["layer", { layer: 2 }],
      ["batch", { batch: {} }],
      ["q", { q: q.slice(0, 0, 1) }],
      ["q", { q: zeros([2, 4, 32]) }],
      ["q", { k: q.slice(1, 0, 2) }],
      ["q", { v: q.slice(1, 0, 2) }],
      ["k", { k: zeros([2, 3, 64]) }],
      ["k", { k: undefined }],
      ["v", { v: zeros([2, 2, 32]) }],
      ["v", { v: zeros([2, 2, 64], "i32") }],
      ["rope", { rope: Rope.create(elsewhere, 64) }],
      ["rope", { rope: {} }],
      ["positions", { positions: zeros([2]) }],
      ["positions", { positions: zeros([1], "i32") }],
      ["qWeight", { qWeight: zeros([32]) }],
      ["kWeight", { kWeight: zeros([64], "bf16") }],
      ["kScale", { kScale: zeros([3]) }],
      ["eps", { eps: 0 }],
      ["zeroCentered", { zeroCentered: 1 }],
      ["out", { out: zeros([2, 4, 64], "bf16") }],
      ["out", { out: k }],
      ["out", { out: null }],
      ["out", { out: tensors.q.slice(0, 0, 1) }],
      ["stream", { stream: elsewhere.stream }],
    ];
    const before = q.toFloat64Array();
    for (const [option, over] of wrong) {
      let error: unknown;
      try {
        normRopeAppend(cache, { ...tensors, ...over });
      } catch (thrown) {
        error = thrown;
      }
      if (!(error instanceof OptionError)) throw new Error(`${option}: ${error}`);
      expect({ option: error.option }).toEqual({ option });
    }
    expect(q.toFloat64Array()).toEqual(before);
    expect(v.toFloat64Array().every(Number.isFinite)).toBe(true);
    const planes = [{ name: "latent", heads: 1, dim: 64, dtype: "f32" as const }];
    const options = {
      layers: 2,
      kvHeads: 1,
      headDim: 64,
      dtype: "f32",
      pages: 4,
      pageSize: 4,
    } as const;
    using latent = PagedCache.create(device, { ...options, planes });
    expect(() => normRopeAppend(latent, tensors)).toThrow("cache must be of planes key and value");
    using other = PagedCache.create(device, { ...options, kvHeads: 2 });
    expect(() => normRopeAppend(other, tensors)).toThrow(PlanError);
  },
);
