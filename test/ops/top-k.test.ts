import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { logProbs, topK, type TopKOptions } from "../../src/ops/top-k.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";

/** Whether a row takes a hundredth of a second. */
const isSlow = ({ kind, properties }: Device) => kind === "cuda" && properties.emulated !== 0;

function numbersOf(random: Random, count: number, dtype: DType, ties: boolean): Float64Array {
  const values = Float64Array.from({ length: count }, () => {
    if (random.chance(0.02)) return random.pick([-Infinity, 0, -0, 3e4]);
    const x = random.normal() * 3;
    return ties ? Math.round(x) : x;
  });
  return roundTo(dtype, values);
}

/** Indices of a row, falling, of equal ones the first first. */
function orderOf(row: Float64Array): number[] {
  return [...row.keys()].sort((a, b) => (row[b] > row[a] ? 1 : row[b] < row[a] ? -1 : a - b));
}

function checkTopK(device: Device, random: Random, length: number, k: number): void {
  const dtype = random.pick(["f32", "f16", "bf16"] as const);
  const rows = random.integer(1, 3);
  const x = numbersOf(random, rows * length, dtype, random.chance(0.5));
  using input = Tensor.from(device, x, [rows, length], dtype);
  const { values, indices } = topK(input, k);
  const [gotValues, gotIndices] = [values, indices].map((tensor) => tensor.toFloat64Array());
  for (let row = 0; row < rows; row++) {
    const numbers = x.subarray(row * length, (row + 1) * length);
    const order = orderOf(numbers).slice(0, k);
    expect([...gotIndices.subarray(row * k, (row + 1) * k)]).toEqual(order);
    expect([...gotValues.subarray(row * k, (row + 1) * k)]).toEqual(
      order.map((i) => numbers[i] + 0),
    );
  }
  for (const tensor of [values, indices]) tensor[Symbol.dispose]();
}

function checkLogProbs(device: Device, random: Random, length: number): void {
  const rows = 3;
  const top = random.integer(0, Math.min(20, length));
  const temperature = random.pick([0.5, 1, 3]);
  const x = numbersOf(random, rows * length, "f32", random.chance(0.3));
  const named = Array.from({ length: rows }, () => random.integer(0, length - 1));
  using input = Tensor.from(device, x, [rows, length], "f32");
  using tokens = Tensor.from(device, [...named.slice(1), length], [rows], "i32");
  const { values, indices, chosen } = logProbs(input, { tokens, top, temperature });
  const got = values.toFloat64Array();
  const ids = indices.toFloat64Array();
  const of = chosen!.toFloat64Array();
  for (let row = 0; row < rows; row++) {
    const numbers = x.subarray(row * length, (row + 1) * length);
    const largest = Math.max(...numbers);
    const exps = numbers.map((value) => Math.exp((value - largest) / temperature));
    const logMass = Math.log(exps.reduce((a, b) => a + b, 0));
    const wanted = (token: number) => (numbers[token] - largest) / temperature - logMass;
    const order = orderOf(numbers).slice(0, top);
    expect([...ids.subarray(row * top, (row + 1) * top)]).toEqual(order);
    const near = (value: number, token: number) => {
      const right = token < length ? wanted(token) : -Infinity;
      if (value === right) return;
      expect(Math.abs(value - right)).toBeLessThan(3e-6 + Math.abs(right) * 1e-6);
    };
    order.forEach((token, rank) => near(got[row * top + rank], token));
    near(of[row], row + 1 < rows ? named[row + 1] : length);
  }
  for (const tensor of [values, indices, chosen!]) tensor[Symbol.dispose]();
}

describe.each(await targetsHere())("topK on $name", (target) => {
  test("any k of rows of any length, ties by the lowest index", async () => {
    await using device = await target.open(2);
    const random = seeded(6);
    for (const length of [1, 2, 7, 8, 9, 257, 1000])
      for (const k of new Set([1, Math.ceil(length / 3), length]))
        checkTopK(device, random, length, k);
    forSeeds(isSlow(device) ? 6 : 60, (by) => {
      const length = by.integer(1, 3000);
      checkTopK(device, by, length, by.integer(1, Math.min(length, 1100)));
    });
    checkTopK(device, random, 1500, 1300);
    checkTopK(device, random, isSlow(device) ? 17_000 : 128_256, 40);
  });

  test("log-probabilities of the likeliest and of one token agree with f64", async () => {
    await using device = await target.open(2);
    forSeeds(isSlow(device) ? 4 : 30, (random) =>
      checkLogProbs(device, random, random.integer(1, 2000)),
    );
    checkLogProbs(device, seeded(2), isSlow(device) ? 17_000 : 128_256);
  });

  test("rows without a number or without mass", async () => {
    await using device = await target.open(1);
    const none = -Infinity;
    using x = Tensor.from(device, [NaN, 1, none, 2, none, none, none, none], [2, 4], "f32");
    using status = Tensor.zeros(device, [2], "i32");
    using tokens = Tensor.from(device, [1, 1], [2], "i32");
    const largest = topK(x, 4, { status });
    expect([...status.toFloat64Array()]).toEqual([1, 2]);
    expect([...largest.indices.toFloat64Array()]).toEqual([3, 1, 0, 2, 0, 1, 2, 3]);
    const logs = logProbs(x, { tokens, top: 1, status });
    expect(logs.chosen!.toFloat64Array()[1]).toBe(none);
    expect(logs.values.toFloat64Array()[1]).toBe(none);
    expect(logs.values.toFloat64Array()[0]).toBeCloseTo(-Math.log(1 + Math.exp(-1)), 5);
  });

  test("into rows that lie apart, in a graph", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [3, 1, 2, 4, 6, 5], [2, 3], "bf16");
    using values = Tensor.from(device, new Array(8).fill(9), [2, 4], "bf16");
    using indices = Tensor.from(device, new Array(8).fill(9), [2, 4], "i32");
    const options: TopKOptions = {
      values: values.slice(1, 1, 3),
      indices: indices.slice(1, 1, 3),
    };
    using graph = device.capture(device.stream, () => topK(x, 2, options));
    graph.replay(device.stream);
    expect([...values.toFloat64Array()]).toEqual([9, 3, 2, 9, 9, 6, 5, 9]);
    expect([...indices.toFloat64Array()]).toEqual([9, 0, 2, 9, 9, 1, 2, 9]);
  });
});

test.each(await targetsHere())("bad input is refused by name, on $name", async (target) => {
  await using device = await target.open(1);
  const zeros = (shape: number[], dtype: DType = "f32") => Tensor.zeros(device, shape, dtype);
  const x = zeros([3, 8]);
  const same = zeros([3, 2], "i32");
  const [ints, floats] = [zeros([3], "i32"), zeros([3])];
  const asInts = ({ address }: Tensor) => Tensor.fromPointer(device, address, [3], "i32");
  const refused: [string, () => unknown][] = [
    ["x", () => topK(zeros([8]), 1)],
    ["k", () => topK(x, 0)],
    ["k", () => topK(x, 9)],
    ["k", () => topK(x, 1.5)],
    ["values", () => topK(x, 2, { values: zeros([3, 2], "bf16") })],
    ["values", () => topK(x, 2, { values: x.slice(1, 0, 2) })],
    ["indices", () => topK(x, 2, { indices: zeros([3, 2]) })],
    [
      "indices",
      () => topK(zeros([2, 8]), 2, { indices: same.slice(0, 0, 2), status: same.select(0, 0) }),
    ],
    ["status", () => topK(x, 2, { status: zeros([3]) })],
    ["options.top", () => topK(x, 2, { top: 1 } as TopKOptions)],
    ["top", () => logProbs(x, { top: 9 })],
    ["temperature", () => logProbs(x, { temperature: 0 })],
    ["tokens", () => logProbs(x, { tokens: zeros([3], "i64") })],
    ["out", () => logProbs(x, { tokens: zeros([3], "i32"), out: zeros([3], "i32") })],
    ["out", () => logProbs(x, { out: zeros([3]) })],
    ["tokens", () => logProbs(x, { tokens: ints, status: ints })],
    ["out", () => logProbs(x, { tokens: ints, out: floats, status: asInts(floats) })],
  ];
  for (const [option, call] of refused) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect({ option: (error as OptionError).option }).toEqual({ option });
  }
});
