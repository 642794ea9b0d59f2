import { describe, expect, test } from "bun:test";
import { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import {
  type FilterOptions,
  maskLogits,
  renormalize,
  sample,
  type SampleOptions,
  sampleStatus,
  softmax,
} from "../../src/ops/sample.ts";
import { topK } from "../../src/ops/top-k.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { sweep } from "../support/deep.ts";
import { type Random, seeded } from "../support/random.ts";
import { chiSquare, type Filter, keptOf, race } from "../support/sampling.ts";
import { targetsHere } from "../support/targets.ts";

/** Half a unit in the last place, relative, beside what exponentials lose. */
const roundings: Partial<Record<DType, number>> = { f32: 3e-6, f16: 2 ** -11, bf16: 2 ** -8 };
const floors: Partial<Record<DType, number>> = { f32: 1e-30, f16: 2 ** -24, bf16: 1e-30 };

interface Case extends Filter {
  rows: number;
  length: number;
  dtype: DType;
  outDtype: DType;
  /** How far apart logits are; values that repeat make ties. */
  spread: number;
  ties: boolean;
}

const choices = {
  dtype: ["f32", "f16", "bf16"],
  outDtype: ["f32", "f16", "bf16"],
  from: ["logits", "probabilities"],
  temperature: [undefined, 0, 0.3, 1, 2.5],
  topK: [undefined, 1, 2, 7, 50, 300],
  topP: [undefined, 1, 1e-6, 0.1, 0.5, 0.9, 0.999],
  minP: [undefined, 0, 0.01, 0.3, 1],
  order: [undefined, "topKFirst", "joint"],
  spread: [0.01, 1, 5, 40],
  ties: [false, true],
} as const;

type Choices = { [Name in keyof typeof choices]: (typeof choices)[Name][number] };

/** A case with some options given, and any of the choices for the others. */
function caseOf(random: Random, most: number, given: Partial<Choices> = {}): Case {
  const any = Object.entries(choices).map(([name, values]) => [name, random.pick([...values])]);
  const { temperature, topK, topP, minP, order, ...rest } = {
    ...(Object.fromEntries(any) as Choices),
    ...given,
  };
  const length = random.integer(1, most);
  return {
    ...rest,
    rows: random.integer(1, 4),
    length,
    ...(rest.from === "logits" && temperature !== undefined ? { temperature } : {}),
    ...(topK !== undefined ? { topK: Math.min(topK, length) } : {}),
    topP: topP ?? 1,
    minP: minP ?? 0,
    order: order ?? "topKFirst",
  };
}

/** Two options of every kind with each two of their values. */
function pairs(): Partial<Choices>[] {
  const options = Object.entries(choices);
  return options.flatMap(([name, values], at) =>
    options
      .slice(at + 1)
      .flatMap(([other, others]) =>
        values.flatMap((value) => others.map((its) => ({ [name]: value, [other]: its }))),
      ),
  );
}

function rowsOf(random: Random, { rows, length, dtype, from, spread, ties }: Case): Float64Array {
  const values = Float64Array.from({ length: rows * length }, () => {
    const x = random.normal() * spread;
    const y = ties ? Math.round(x * 2) / 2 : x;
    return from === "logits" ? y : Math.exp(Math.min(y, 10));
  });
  return roundTo(dtype, values);
}

function filterOf({ from, temperature, topK, topP, minP, order }: Case): FilterOptions {
  const filter: Filter = { from: from!, topP: topP!, minP: minP!, order: order! };
  if (temperature !== undefined) filter.temperature = temperature;
  if (topK !== undefined) filter.topK = topK;
  return filter;
}

/** Rows, masks and tokens of a case against the definition. */
function check(device: Device, c: Case, random: Random): void {
  const { rows, length, dtype, outDtype } = c;
  const x = rowsOf(random, c);
  const at = JSON.stringify(c);
  const filter = filterOf(c);
  using input = Tensor.from(device, x, [rows, length], dtype);
  using status = Tensor.from(device, new Array(rows).fill(9), [rows], "i32");
  using out = Tensor.empty(device, [rows, length], outDtype);
  renormalize(input, { ...filter, out, status });
  using hidden = maskLogits(input, filter);
  const [seed, position] = [random.integer(0, 2 ** 40), random.integer(0, 2 ** 31 - 1)];
  using tokens = sample(input, { ...filter, seed, position });
  const [p, masked, drawn] = [out, hidden, tokens].map((tensor) => tensor.toFloat64Array());
  expect(status.toFloat64Array().every((bits) => bits === 0)).toBe(true);
  for (let row = 0; row < rows; row++) {
    const numbers = x.subarray(row * length, (row + 1) * length);
    const { order, weights, least, most } = keptOf(numbers, filter as Filter);
    const dropped = c.from === "logits" ? -Infinity : 0;
    const mask = masked.subarray(row * length, (row + 1) * length);
    const isKept = (token: number) => mask[token] !== dropped;
    const likely = order.filter((token) => numbers[token] !== dropped);
    const count = likely.filter(isKept).length;
    if (count < Math.min(least, likely.length) || count > most)
      throw new Error(`${at}: row ${row} keeps ${count}, not ${least} to ${most}`);
    if (!likely.slice(0, count).every(isKept))
      throw new Error(`${at}: row ${row} does not keep the likeliest ${count}`);
    const kept = order.slice(0, count);
    for (const token of kept) expect(mask[token]).toBe(numbers[token]);
    const mass = kept.reduce((sum, token) => sum + weights[token], 0);
    const isIn = new Set(kept);
    for (let token = 0; token < length; token++) {
      const wanted = isIn.has(token) ? weights[token] / mass : 0;
      const error = Math.abs(p[row * length + token] - wanted);
      // Exponents of far tokens are rounded, and so their weights.
      const far = Math.abs(Math.log(weights[token] || 1)) * 2e-7;
      if (!(error <= wanted * (roundings[outDtype]! * 1.01 + 3e-6 + far) + floors[outDtype]!))
        throw new Error(`${at}: row ${row}, token ${token}: ${error} beside ${wanted}`);
    }
    if (c.temperature === 0) expect(drawn[row]).toBe(order[0]);
    const won = race((token) => weights[token], kept, BigInt(seed), BigInt(position));
    if (won.lead > 1.0001 && drawn[row] !== won.token)
      throw new Error(`${at}: row ${row} draws ${drawn[row]}, not ${won.token}`);
    expect(isIn.has(drawn[row])).toBe(true);
  }
}

/** Each way to cut a row. */
const longFilters: (FilterOptions & { topK?: number })[] = [
  { topK: 20, topP: 0.8 },
  { topK: 128 },
  { topK: 129, topP: 0.9 },
  { topP: 0.6 },
  { topP: 0.6, topK: 300, order: "joint", minP: 0.001 },
  { topP: 0.001 },
  {},
  { minP: 0.1 },
  { topK: 1 },
  { topK: 3000, topP: 0.5 },
  { topK: 40, minP: 0.2 },
];

/** Whether a row takes a hundredth of a second. */
const isSlow = ({ kind, properties }: Device) => kind === "cuda" && properties.emulated !== 0;

/** The device's kernels for GPUs without clusters in place of those with. */
function withoutClusters(device: Device): void {
  const kernel = device.kernel.bind(device);
  device.kernel = (name) => kernel(name.replace(/^(sample|top_k)_.*/, "$1_rows"));
}

describe.each(await targetsHere())("sampling on $name", (target) => {
  const isGpu = target.kind === "cuda";
  const all = pairs();
  const some = { slice: isGpu ? 12 : all.length, whole: all.length };
  sweep("agrees with f64 for every pair of options", some, async (seed, cases) => {
    await using device = await target.open(2);
    const random = seeded(seed);
    for (let i = 0; i < cases; i++) {
      const pair = cases === all.length ? all[i] : random.pick(all);
      check(device, caseOf(random, random.pick([9, 300, 1000]), pair), random);
    }
  });

  const sizes = isGpu ? { slice: 6, whole: 300 } : { slice: 30, whole: 3000 };
  sweep("random cases agree", sizes, async (seed, cases) => {
    await using device = await target.open(2);
    const random = seeded(seed);
    for (let i = 0; i < cases; i++) check(device, caseOf(random, 4000), random);
  });

  const longSizes = isGpu ? { slice: 3, whole: 300 } : { slice: 1, whole: 20 };
  sweep("the first few of long rows agree", longSizes, async (seed, cases) => {
    await using device = await target.open(2);
    const random = seeded(seed);
    for (let i = 0; i < cases; i++) {
      const length = random.integer(16_385, 18_000);
      const any = caseOf(random, 1, { temperature: random.pick([undefined, 0.3, 1, 2.5]) });
      const few = { topK: random.pick([2, 7, 50, 128]), rows: random.integer(2, 3), length };
      check(device, { ...any, ...few }, random);
    }
  });

  test.skipIf(target.kind === "cpu")("has the same bits without clusters", async () => {
    await using device = await target.open(2);
    await using other = await target.open(2);
    withoutClusters(other);
    const random = seeded(4);
    const values = Float64Array.from({ length: 20_000 }, () => random.normal());
    const bits = [device, other].map((on) => {
      using x = Tensor.from(on, values, [1, 20_000], "bf16");
      using rows = renormalize(x, { topP: 0.7, topK: 9000 });
      return rows.toBytes();
    });
    expect(bits[1]).toEqual(bits[0]);
  });

  test.skipIf(target.kind === "cpu")("a cluster's rows are those of a block", async () => {
    await using device = await target.open(2);
    await using other = await target.open(2);
    withoutClusters(other);
    const random = seeded(12);
    const odd: Partial<Record<string, number[]>> = {
      logits: [NaN, -Infinity],
      probabilities: [NaN, -1, 0],
    };
    // Rows that begin at any address, ends of any length, and more than the blocks hold.
    const lengths = [16_391, 17_000, isSlow(device) ? 161_001 : 330_000];
    for (const [i, filter] of longFilters.entries()) {
      const from = random.pick(["logits", "probabilities"] as const);
      const dtype = i === 0 ? "f32" : random.pick(["f32", "f16", "bf16"] as const);
      const length = i === 0 ? lengths[2] : random.pick(lengths.slice(0, 2));
      const kept = random.pick([0.0003, 1]);
      const values = Float64Array.from({ length: 3 * length }, (_, at) => {
        if (at < length && random.next() > kept) return random.pick(odd[from]!);
        return from === "logits" ? random.normal() * 2 : Math.exp(random.normal() - 4);
      });
      const results = [device, other].map((on) => {
        using x = Tensor.from(on, values, [3, length], dtype);
        using status = Tensor.zeros(on, [3], "i32");
        const tokens = sample(x, { ...filter, from, seed: 4, position: 1000 + i, status });
        const { topK: k = 1 } = filter;
        const largest = Object.values(topK(x, Math.min(k, 40)));
        const rows = [renormalize(x, { ...filter, from }), maskLogits(x, { ...filter, from })];
        return [tokens, status, ...largest, ...rows].map((tensor) => tensor.toBytes());
      });
      for (const [at, bytes] of results[0].entries())
        if (!Buffer.from(bytes).equals(results[1][at]))
          throw new Error(`${JSON.stringify({ ...filter, from, dtype, length, kept })}: ${at}`);
    }
  });

  test.skipIf(target.kind === "cpu")("a cluster's first few are those of a block", async () => {
    await using device = await target.open(2);
    await using other = await target.open(2);
    await using cpu = await Device.open("cpu", { threads: 1 });
    const launched: string[] = [];
    const found = device.kernel.bind(device);
    device.kernel = (name) => (launched.push(name), found(name));
    withoutClusters(other);
    const random = seeded(21);
    const length = 16_391;
    // Of one value and of few, where more than a list holds are as large as what bounds it; a peak;
    // fewer than k that have a weight, and none.
    const rows: ((at: number) => number)[] = [
      () => 1.5,
      (at) => (at % 4001 === 17 ? 3 : 1),
      (at) => (at < 9000 ? 0.25 : at % 2),
      (at) => (at === 7777 ? 30 : random.next()),
      () => random.next(),
      (at) => (at % 3000 === 5 ? 2 : 0 / 0),
      () => -Infinity,
    ];
    const values = rows.flatMap((row) => Array.from({ length }, (_, at) => row(at)));
    const filters: FilterOptions[] = [
      { topK: 2 },
      { topK: 20, topP: 0.5, temperature: 0.7 },
      { topK: 128, minP: 0.3, order: "joint" },
    ];
    for (const [i, filter] of filters.entries())
      for (const from of ["logits", "probabilities"] as const) {
        const options = { ...filter, from };
        if (from === "probabilities") delete options.temperature;
        const dtype = (["f32", "bf16", "f16"] as const)[i];
        const results = [device, other, cpu].map((on) => {
          using x = Tensor.from(on, values, [rows.length, length], dtype);
          using status = Tensor.zeros(on, [rows.length], "i32");
          const draws = [0, 1, 2].map((seed) => sample(x, { ...options, seed, status }));
          return [...draws, status].map((tensor) => [...tensor.toFloat64Array()]);
        });
        for (const its of results.slice(1))
          expect({ options, results: results[0] }).toEqual({ options, results: its });
      }
    expect(new Set(launched).size).toBe(1);
  });

  test("filters that bound each other, in both orders", async () => {
    await using device = await target.open(2);
    const random = seeded(3);
    const base = { rows: 2, length: 300, dtype: "f32", outDtype: "f32", from: "logits" } as const;
    for (const order of ["topKFirst", "joint"] as const)
      for (const minP of [0, 0.02])
        for (const topP of [0.3, 0.8])
          check(device, { ...base, order, minP, topP, topK: 30, spread: 1, ties: false }, random);
  });

  test("long rows of one value, of two, and of a peak", async () => {
    await using device = await target.open(2);
    const random = seeded(8);
    const length = isSlow(device) ? 20_000 : 128_256;
    const base = { rows: 1, length, dtype: "f32", outDtype: "f32", from: "logits" } as const;
    const flat: Case = { ...base, spread: 0, ties: true, topK: 100, topP: 0.5 };
    check(device, flat, random);
    check(device, { ...base, spread: 0.2, ties: true, topP: 0.9, order: "joint" }, random);
    check(device, { ...base, spread: 3, ties: false, topK: 50, topP: 0.9, minP: 0.02 }, random);
  });

  test("tokens come as often as their probabilities say", async () => {
    await using device = await target.open(2);
    const random = seeded(31);
    const draws = isSlow(device) ? 100 : 40_000;
    const length = 60;
    const logits = roundTo(
      "f32",
      Float64Array.from({ length }, () => random.normal() * 2),
    );
    using row = Tensor.from(device, logits, [1, length], "f32");
    // Every row is this one; rows have positions of their own.
    using x = Tensor.fromPointer(device, row.address, [draws, length], "f32", { strides: [0, 1] });
    const filters: Filter[] = [{}, { temperature: 2, topK: 20, topP: 0.9 }, { minP: 0.05 }];
    for (const [i, filter] of filters.entries()) {
      using tokens = sample(x, { ...filter, seed: 1000 + i });
      const counts = new Array<number>(length).fill(0);
      for (const token of tokens.toFloat64Array()) counts[token]++;
      const { order, weights, least } = keptOf(logits, filter);
      const mass = order.slice(0, least).reduce((sum, token) => sum + weights[token], 0);
      const expected = new Array<number>(length).fill(0);
      for (const token of order.slice(0, least)) expected[token] = weights[token] / mass;
      // Off by chance in one of 3.5 million runs; the seeds are fixed.
      expect(chiSquare(counts, expected)).toBeLessThan(5);
    }
  });

  test("a row's token is its own in every batch, and numbers may differ by row", async () => {
    await using device = await target.open(2);
    const random = seeded(77);
    const [rows, length] = [7, 700];
    const values = Float64Array.from({ length: rows * length }, () => random.normal());
    using x = Tensor.from(device, values, [rows, length], "f16");
    const columns = {
      temperature: [1, 0, 0.5, 2, 1, 1, NaN],
      topK: [700, 10, 3, 0, 100, 701, 5],
      topP: [0.9, 1, 0.5, 0.3, 1, 0.2, 2],
      minP: [0, 0, 0.1, 0.2, 0.01, -1, 0],
      seed: [1, 1, 2, 3, 2 ** 50, 5, 6],
      position: [5, 6, 7, 8, 9, 10, 11],
    };
    const dtypes = { topK: "i32", seed: "i64", position: "i32" } as Record<string, DType>;
    const tensors = Object.entries(columns).map(([name, column]) => {
      const dtype = dtypes[name] ?? "f32";
      const data = dtype === "i64" ? column.map(BigInt) : column;
      return [name, Tensor.from(device, data as number[], [rows], dtype)] as const;
    });
    using status = Tensor.zeros(device, [rows], "i32");
    const options: SampleOptions = Object.fromEntries(tensors);
    using all = sample(x, { ...options, status });
    expect([...status.toFloat64Array()]).toEqual([0, 0, 0, 4, 0, 4, 4]);
    const together = all.toFloat64Array();
    for (let row = 0; row < rows; row++) {
      const alone: SampleOptions = { seed: columns.seed[row], position: columns.position[row] };
      const { temperature, topK, topP, minP } = columns;
      if (temperature[row] >= 0) alone.temperature = temperature[row];
      if (topK[row] > 0 && topK[row] <= length) alone.topK = topK[row];
      if (topP[row] <= 1) alone.topP = topP[row];
      if (minP[row] >= 0) alone.minP = minP[row];
      using token = sample(x.slice(0, row, row + 1), alone);
      expect([row, token.toFloat64Array()[0]]).toEqual([row, together[row]]);
    }
  });

  test("what is not a number, nothing likely, infinities: a stated result and a flag", async () => {
    await using device = await target.open(1);
    const { nan, noMass } = sampleStatus;
    const [inf, none] = [Infinity, -Infinity];
    const logits = [
      [NaN, 1, 5, NaN, 2],
      [none, none, none, none, none],
      [NaN, NaN, NaN, NaN, NaN],
      [none, none, none, -3e38, none],
      [0, inf, 3e38, none, 2],
      [-0, 0, -0, 0, none],
    ];
    using x = Tensor.from(device, logits.flat(), [6, 5], "f32");
    using status = Tensor.zeros(device, [6], "i32");
    const settings: FilterOptions[] = [{}, { topK: 3 }, { topP: 0.9 }, { minP: 0.5, topK: 2 }];
    for (const options of [...settings, { temperature: 0 }, { temperature: 1e-30 }]) {
      using tokens = sample(x, { ...options, status, seed: 3 });
      const got = tokens.toFloat64Array();
      const wanted = [nan, noMass, nan | noMass, 0, 0, 0];
      expect([...status.toFloat64Array()]).toEqual(wanted);
      expect([1, 2, 4]).toContain(got[0]);
      expect([...got.slice(1, 5)]).toEqual([0, 0, 3, 1]);
      expect(got[5]).toBeLessThan(4);
      if (options.temperature === 0) expect(got[5]).toBe(0);
    }
    using p = softmax(x, { status });
    const rows = p.toFloat64Array();
    expect(rows.every((value) => value >= 0 && value <= 1)).toBe(true);
    for (const row of [1, 2])
      expect([...rows.slice(5 * row, 5 * row + 5)]).toEqual([0, 0, 0, 0, 0]);
    expect([...rows.slice(20, 25)]).toEqual([0, 1, 0, 0, 0]);
    expect([...rows.slice(25)]).toEqual([0.25, 0.25, 0.25, 0.25, 0]);
    using odd = Tensor.from(device, [0, NaN, -1, 0.5, 0, 0, 0, 0], [2, 4], "f32");
    using two = Tensor.zeros(device, [2], "i32");
    using drawn = sample(odd, { from: "probabilities", topP: 0.5, status: two });
    expect([...drawn.toFloat64Array()]).toEqual([3, 0]);
    expect([...two.toFloat64Array()]).toEqual([nan, noMass]);
  });

  test("probabilities whose reciprocal is no number keep their proportions", async () => {
    await using device = await target.open(2);
    const [from, least] = ["probabilities", 2 ** -149] as const;
    using x = Tensor.from(
      device,
      [2, 1, 1, 0].map((part) => part * least),
      [1, 4],
      "f32",
    );
    expect([...renormalize(x, { from }).toFloat64Array()]).toEqual([0.5, 0.25, 0.25, 0]);
    expect([...renormalize(x, { from, topP: 0.6 }).toFloat64Array()]).toEqual(
      [2 / 3, 1 / 3, 0, 0].map(Math.fround),
    );
    const drawn = Array.from({ length: 40 }, (_, seed) => {
      using token = sample(x, { from, seed });
      return token.toFloat64Array()[0];
    });
    expect(new Set(drawn)).toEqual(new Set([0, 1, 2]));
  });

  test("temperature 0 is the first of the largest", async () => {
    await using device = await target.open(2);
    const values = new Array(5000).fill(-4);
    for (const at of [1234, 1235, 4000]) values[at] = 7;
    using x = Tensor.from(device, [...values, ...values.toReversed()], [2, 5000], "bf16");
    using out = Tensor.zeros(device, [2], "i32");
    expect(sample(x, { temperature: 0, out })).toBe(out);
    expect([...out.toFloat64Array()]).toEqual([1234, 999]);
  });

  test("in place, between rows that belong to others, and replayed by a graph", async () => {
    await using device = await target.open(1);
    const [rows, length, gap] = [3, 37, 11];
    const random = seeded(12);
    const values = Float64Array.from({ length: rows * (length + gap) }, () => random.normal());
    using memory = Tensor.from(device, values, [rows, length + gap], "f32");
    const x = memory.slice(1, 0, length);
    using wanted = softmax(x);
    const before = memory.slice(1, length, length + gap).toBytes();
    using tokens = Tensor.zeros(device, [rows], "i32");
    using graph = device.capture(device.stream, () => {
      softmax(x, { out: x });
      sample(x, { from: "probabilities", topK: 1, out: tokens });
    });
    graph.replay(device.stream);
    expect(x.toBytes()).toEqual(wanted.toBytes());
    expect(memory.slice(1, length, length + gap).toBytes()).toEqual(before);
    using largest = sample(wanted, { temperature: 0 });
    expect(tokens.toBytes()).toEqual(largest.toBytes());
  });
});

test.each(await targetsHere())("bad input is refused by name, on $name", async (target) => {
  await using device = await target.open(1);
  await using elsewhere = await target.open(1);
  const zeros = (shape: number[], dtype: DType = "f32", on: Device = device) =>
    Tensor.zeros(on, shape, dtype);
  const x = zeros([3, 8]);
  const wide = zeros([4, 8]);
  const refused: [string, () => unknown][] = [
    ["x", () => sample(zeros([8]))],
    ["x", () => sample(zeros([3, 0]))],
    ["x", () => sample(zeros([1, 500_001]))],
    ["x", () => sample(zeros([8, 3]).permute(1, 0))],
    ["x", () => sample(zeros([3, 8], "i32"))],
    ["x", () => sample(undefined as unknown as Tensor)],
    ["from", () => sample(x, { from: "odds" as "logits" })],
    ["order", () => sample(x, { order: "any" as "joint" })],
    ["temperature", () => sample(x, { temperature: -1 })],
    ["temperature", () => sample(x, { temperature: NaN })],
    ["temperature", () => sample(x, { temperature: zeros([2]) })],
    ["temperature", () => sample(x, { temperature: zeros([3], "f16") })],
    ["temperature", () => sample(x, { temperature: 0.5, from: "probabilities" })],
    ["topK", () => sample(x, { topK: 0 })],
    ["topK", () => sample(x, { topK: 9 })],
    ["topK", () => sample(x, { topK: 1.5 })],
    ["topK", () => sample(x, { topK: zeros([3]) })],
    ["topP", () => sample(x, { topP: 0 })],
    ["topP", () => sample(x, { topP: 1.01 })],
    ["topP", () => sample(x, { topP: zeros([3], "f32", elsewhere) })],
    ["topP", () => sample(x, { topP: NaN })],
    ["minP", () => sample(x, { minP: -0.1 })],
    ["minP", () => sample(x, { minP: NaN })],
    ["seed", () => sample(x, { seed: -1 })],
    ["seed", () => sample(x, { seed: zeros([3], "i32") })],
    ["position", () => sample(x, { position: 2 ** 31 })],
    ["stream", () => sample(x, { stream: elsewhere.stream })],
    ["status", () => sample(x, { status: zeros([3], "i64") })],
    ["out", () => sample(x, { out: zeros([2], "i32") })],
    ["out", () => sample(x, { out: zeros([3]) })],
    ["options.topk", () => sample(x, { topk: 3 } as SampleOptions)],
    ["out", () => softmax(x, { out: zeros([3, 7]) })],
    ["out", () => softmax(x, { out: zeros([3, 8], "i32") })],
    ["out", () => softmax(wide.slice(0, 0, 3), { out: wide.slice(0, 1, 4) })],
    ["out", () => maskLogits(x, { out: zeros([3, 8], "bf16") })],
    ["options.topK", () => softmax(x, { topK: 3 } as object)],
  ];
  for (const [option, call] of refused) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect({ option, error }).toEqual({ option, error: expect.any(OptionError) });
    expect((error as OptionError).option).toBe(option);
  }
  expect(sample(zeros([0, 8])).shape).toEqual([0]);
  x[Symbol.dispose]();
  expect(() => sample(x)).toThrow("was disposed");
});
