import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { rmsNorm, type RmsNormOptions } from "../../src/ops/norm.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";

/** Half a unit in the last place of a dtype, relative; in f32 what sums of squares lose besides. */
const roundings: Partial<Record<DType, number>> = { f32: 1e-6, f16: 2 ** -11, bf16: 2 ** -8 };
/** Half the distance of the smallest numbers. */
const floors: Partial<Record<DType, number>> = { f32: 0, f16: 2 ** -25, bf16: 0 };

interface Case {
  rows: number;
  dim: number;
  dtype: DType;
  weightDtype?: DType;
  eps?: number;
  /** Elements between rows that belong to nobody. */
  gap?: number;
}

/** In f64, of one row. */
function oracle(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const mean = x.reduce((sum, value) => sum + value ** 2, 0) / x.length;
  return x.map((value, i) => (value / Math.sqrt(mean + eps)) * weight[i]);
}

/** A tensor [rows, dim] whose rows lie `gap` elements apart, which are NaN. */
function spaced(device: Device, values: Float64Array, { rows, dim, dtype, gap = 0 }: Case) {
  const all = new Float64Array(rows * (dim + gap)).fill(NaN);
  for (let row = 0; row < rows; row++)
    all.set(values.subarray(row * dim, (row + 1) * dim), row * (dim + gap));
  const memory = Tensor.from(device, all, [rows, dim + gap], dtype);
  return { memory, view: memory.slice(1, 0, dim) };
}

function numbersOf(random: Random, count: number, dtype: DType): Float64Array {
  return roundTo(
    dtype,
    Float64Array.from({ length: count }, () => random.normal()),
  );
}

/** Runs a case into a tensor of its own, and in place, and compares both with the oracle. */
function check(device: Device, c: Case, random: Random): void {
  const { rows, dim, dtype, weightDtype = dtype, eps, gap = 0 } = c;
  const x = numbersOf(random, rows * dim, dtype);
  const weight = numbersOf(random, dim, weightDtype);
  const input = spaced(device, x, c);
  const output = spaced(device, new Float64Array(rows * dim).fill(NaN), c);
  using weights = Tensor.from(device, weight, [dim], weightDtype);
  const options: RmsNormOptions = eps === undefined ? {} : { eps };
  expect(rmsNorm(input.view, weights, { ...options, out: output.view })).toBe(output.view);
  const got = output.view.toFloat64Array();
  const at = JSON.stringify(c);
  for (let row = 0; row < rows; row++) {
    const wanted = oracle(x.subarray(row * dim, (row + 1) * dim), weight, eps ?? 1e-6);
    wanted.forEach((value, i) => {
      const most = Math.abs(value) * roundings[dtype]! * 1.01 + floors[dtype]!;
      const error = Math.abs(got[row * dim + i] - value);
      if (!(error <= most)) throw new Error(`${at}: row ${row}, ${i}: ${error} > ${most}`);
    });
  }
  const kept = output.memory.toFloat64Array().filter(Number.isNaN).length;
  expect(kept).toBe(rows * gap);
  rmsNorm(input.view, weights, { ...options, out: input.view });
  expect(input.view.toBytes()).toEqual(output.view.toBytes());
  for (const tensor of [input.memory, output.memory]) tensor[Symbol.dispose]();
}

describe.each(await targetsHere())("rmsNorm on $name", (target) => {
  test("agrees with f64 within one rounding, of any length, type and distance", async () => {
    await using device = await target.open(2);
    const random = seeded(71);
    const dims = [1, 2, 7, 8, 9, 31, 63, 64, 65, 127, 128, 255, 511, 512, 513, 1000, 2048, 4097];
    dims.push(16383, 16384);
    for (const [i, dim] of dims.entries()) {
      const dtype = (["f32", "f16", "bf16"] as const)[i % 3];
      const rows = dim > 4000 ? 2 : [1, 3, 17, 33][i % 4];
      const weightDtype = i % 2 === 0 ? dtype : "f32";
      check(device, { rows, dim, dtype, weightDtype, gap: [0, 1, 8][i % 3] }, random);
    }
    for (const dtype of ["f32", "f16", "bf16"] as const)
      check(device, { rows: 5, dim: 96, dtype, eps: 0.5, gap: 16 }, random);
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(30, (random) => {
      const dtype = random.pick(["f32", "f16", "bf16"] as const);
      const [rows, dim] = [random.integer(0, 40), random.integer(1, 900)];
      const weightDtype = random.pick([dtype, "f32" as const]);
      check(device, { rows, dim, dtype, weightDtype, gap: random.integer(0, 9) }, random);
    });
  });

  test("a row's bits are its own, and the same each time", async () => {
    await using device = await target.open(2);
    const random = seeded(5);
    for (const dim of [80, 1536]) {
      using x = Tensor.from(device, numbersOf(random, 50 * dim, "bf16"), [50, dim], "bf16");
      using weight = Tensor.from(device, numbersOf(random, dim, "bf16"), [dim], "bf16");
      using all = rmsNorm(x, weight);
      using again = rmsNorm(x, weight);
      expect(again.toBytes()).toEqual(all.toBytes());
      for (const row of [0, 7, 49]) {
        using alone = rmsNorm(x.slice(0, row, row + 1), weight);
        expect(alone.toBytes()).toEqual(all.slice(0, row, row + 1).toBytes());
      }
    }
  });

  test("zeros stay zeros, numbers too large for squares become 0, NaN stays in its row", async () => {
    await using device = await target.open(1);
    const rows = [0, 0, 0, 0, 3e38, 3e38, 3e38, 3e38, NaN, 1, 1, 1, 1, 1, 1, 1];
    using x = Tensor.from(device, rows, [4, 4], "f32");
    using weight = Tensor.from(device, [1, 1, 1, 1], [4], "f32");
    using out = rmsNorm(x, weight);
    const got = [...out.toFloat64Array()];
    expect(got.slice(0, 8)).toEqual(new Array(8).fill(0));
    expect(got.slice(8, 12)).toEqual(new Array(4).fill(NaN));
    for (const value of got.slice(12)) expect(value).toBeCloseTo(1, 5);
  });

  test("a graph replays it on new numbers", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [1, 2], [1, 2], "f32");
    using weight = Tensor.from(device, [1, 1], [2], "f32");
    using out = Tensor.zeros(device, [1, 2], "f32");
    using graph = device.capture(device.stream, () => rmsNorm(x, weight, { out }));
    using other = Tensor.from(device, [3, 3], [1, 2], "f32");
    x.copyFrom(other);
    graph.replay(device.stream);
    for (const value of out.toFloat64Array()) expect(value).toBeCloseTo(1, 5);
  });
});

test("bad input is refused by name, and nothing is written", async () => {
  const [target] = await targetsHere();
  await using device = await target.open(1);
  await using elsewhere = await target.open(1);
  const ones = (shape: number[], dtype: DType = "f32", on: Device = device) =>
    Tensor.from(on, new Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape, dtype);
  const x = ones([3, 8]);
  const weight = ones([8]);
  const wide = ones([4, 8]);
  const refused: [string, Tensor, Tensor, RmsNormOptions?][] = [
    ["x", ones([8]), weight],
    ["x", ones([2, 3, 8]), weight],
    ["x", ones([3, 0]), ones([0])],
    ["x", ones([8, 3]).permute(1, 0), weight],
    ["x", ones([3, 8], "i32"), weight],
    ["x", ones([3, 8], "f8e4m3"), weight],
    ["weight", x, ones([7])],
    ["weight", x, ones([1, 8])],
    ["weight", x, ones([8], "bf16")],
    ["weight", x, ones([8], "f32", elsewhere)],
    ["weight", x, undefined as unknown as Tensor],
    ["eps", x, weight, { eps: 0 }],
    ["eps", x, weight, { eps: NaN }],
    ["stream", x, weight, { stream: elsewhere.stream }],
    ["out", x, weight, { out: ones([3, 7]) }],
    ["out", x, weight, { out: ones([3, 8], "bf16") }],
    ["out", x, weight, { out: ones([3, 8], "f32", elsewhere) }],
    ["out", wide.slice(0, 0, 3), weight, { out: wide.slice(0, 1, 4) }],
    ["out", wide.slice(0, 0, 1), wide.slice(0, 1, 2).select(0, 0), { out: wide.slice(0, 1, 2) }],
  ];
  for (const [option, input, by, options] of refused) {
    let error: unknown;
    try {
      rmsNorm(input, by, options);
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect({ option: (error as OptionError).option }).toEqual({ option });
  }
  for (const tensor of [x, weight, wide])
    expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
  x[Symbol.dispose]();
  expect(() => rmsNorm(x, weight)).toThrow("was disposed");
});
