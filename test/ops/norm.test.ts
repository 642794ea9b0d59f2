import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { addRmsNorm, layerNorm, rmsNorm, type RmsNormOptions } from "../../src/ops/norm.ts";
import { type DType, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../support/numbers.ts";
import { byRow, normOf, scaleOf } from "../support/operators.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import {
  expectClose,
  expectGapsKept,
  expectRefused,
  free,
  largest,
  numberTypes,
  shapeOf,
  spaced,
  unwritten,
  onesOn,
} from "../support/rows.ts";
import { targetsHere } from "../support/targets.ts";

interface Case {
  kind: "rms" | "add" | "layer";
  shape: number[];
  dtype: DType;
  outDtype?: DType;
  weightDtype?: DType;
  residualDtype?: DType;
  scaled?: "tensor" | "token" | undefined;
  eps?: number;
  bias?: boolean;
  zeroCentered?: boolean;
  /** Elements between rows that belong to nobody. */
  gap?: number;
}

/** What a case reads, and what it should give. */
function inputsOf(c: Case, random: Random) {
  const { kind, shape, dtype, weightDtype = dtype, residualDtype = dtype } = c;
  const count = shape.reduce((product, size) => product * size, 1);
  const dim = shape.at(-1)!;
  const x = normals(random, count, dtype);
  const weight = normals(random, dim, weightDtype);
  const bias = c.bias ? normals(random, dim, weightDtype) : undefined;
  const residual = kind === "add" ? normals(random, count, residualDtype) : undefined;
  // In f32 first, as the kernels add.
  const added = residual?.map((value, i) => Math.fround(value + x[i]));
  const sum = added === undefined ? undefined : roundTo(residualDtype, added);
  const eps = c.eps ?? (kind === "layer" ? 1e-5 : 1e-6);
  const offset = c.zeroCentered ? 1 : 0;
  const wanted = byRow(sum ?? x, dim, (row) =>
    normOf(row, { eps, weight, bias, offset, centered: kind === "layer" }),
  );
  return { x, weight, bias, residual, sum, wanted };
}

/** Runs a case into a tensor of its own and, where it can be, in place, and checks both. */
function check(device: Device, c: Case, random: Random): void {
  const { kind, shape, dtype, weightDtype = dtype, residualDtype = dtype, gap = 0 } = c;
  const outDtype = c.outDtype ?? dtype;
  const { x, weight, bias, residual, sum, wanted } = inputsOf(c, random);
  const dim = shape.at(-1)!;
  const at = JSON.stringify(c);
  const input = spaced(device, x, shape, dtype, gap);
  const kept = residual && spaced(device, residual, shape, residualDtype, gap);
  const output = unwritten(device, shape, outDtype, gap);
  using weights = Tensor.from(device, weight, [dim], weightDtype);
  using biases = bias && Tensor.from(device, bias, [dim], weightDtype);
  using scale = c.scaled === "tensor" ? Tensor.from(device, [0.03], [1], "f32") : undefined;
  using tokenScales =
    c.scaled === "token" ? Tensor.zeros(device, shape.slice(0, -1), "f32") : undefined;
  const options: RmsNormOptions = { out: output.view };
  if (c.eps !== undefined) options.eps = c.eps;
  if (c.zeroCentered !== undefined) options.zeroCentered = c.zeroCentered;
  if (scale) options.scale = scale;
  if (tokenScales) options.tokenScales = tokenScales;
  const run = (out: Tensor) => {
    if (kind === "rms") return rmsNorm(input.view, weights, { ...options, out });
    if (kind === "add") return addRmsNorm(input.view, kept!.view, weights, { ...options, out });
    return layerNorm(input.view, weights, { ...options, ...(biases && { bias: biases }), out });
  };
  expect(run(output.view)).toBe(output.view);
  if (kept) expect(kept.view.toFloat64Array()).toEqual(sum!);
  const scales = tokenScales?.toFloat64Array();
  scales?.forEach((value, row) => {
    const right = scaleOf(wanted.subarray(row * dim, (row + 1) * dim), largest[outDtype]!);
    expect(Math.abs(value / right - 1)).toBeLessThan(1e-5);
  });
  const scaleAt = (i: number) => scales?.[Math.floor(i / dim)] ?? (scale ? Math.fround(0.03) : 1);
  // What is left where numbers of the row cancel: of the mean, and of a bias.
  const slack = kind === "layer" || bias ? 4e-6 : 0;
  expectClose(output.view.toFloat64Array(), wanted, outDtype, at, { scaleOf: scaleAt, slack });
  expectGapsKept(output);
  if (outDtype === dtype && kind !== "add") {
    run(input.view);
    expect(input.view.toBytes()).toEqual(output.view.toBytes());
  }
  free(input, kept, output);
}

/** Lengths at which a team, its chunks or its segments change. */
const dims = [1, 2, 7, 8, 9, 31, 32, 33, 64, 65, 127, 128, 255, 512, 1000, 1024, 1025, 2048, 4097];
dims.push(8192, 8200, 16384);

describe.each(await targetsHere())("norms on $name", (target) => {
  test("agree with f64 within one rounding, of any length, type and distance", async () => {
    await using device = await target.open(2);
    const random = seeded(71);
    for (const [i, dim] of dims.entries()) {
      const dtype = numberTypes[i % 3];
      const rows = dim > 4000 ? 2 : [1, 3, 17, 33][i % 4];
      const weightDtype = i % 2 === 0 ? dtype : "f32";
      const shape = [rows, dim];
      const kind = (["rms", "add", "layer"] as const)[(i >> 1) % 3];
      const gap = [0, 1, 8][i % 3];
      check(device, { kind, shape, dtype, weightDtype, gap, bias: kind === "layer" }, random);
    }
    for (const dtype of numberTypes)
      check(device, { kind: "rms", shape: [5, 96], dtype, eps: 0.5, gap: 16 }, random);
  });

  test("long rows are scaled to fp8 too", async () => {
    await using device = await target.open(2);
    const random = seeded(72);
    const shape = [2, 8200];
    for (const kind of ["rms", "add", "layer"] as const)
      check(device, { kind, shape, dtype: "bf16", outDtype: "f8e4m3", scaled: "token" }, random);
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(60, (random) => {
      const dtype = random.pick(numberTypes);
      const kind = random.pick(["rms", "add", "layer"] as const);
      const scaled = random.pick([undefined, "tensor", "token"] as const);
      const plain = random.pick([dtype, "f32" as const, "f8e5m2" as const]);
      const outDtype = scaled ? random.pick(["f8e4m3", "f8e5m2", "i8"] as const) : plain;
      const shape = shapeOf(random, random.chance(0.3) ? 128 : random.integer(1, 1500), 20);
      const c: Case = { kind, shape, dtype, outDtype, scaled, gap: random.integer(0, 9) };
      c.weightDtype = random.pick([dtype, "f32" as const]);
      c.residualDtype = random.pick(numberTypes);
      if (kind === "layer") c.bias = random.chance(0.5);
      else c.zeroCentered = random.chance(0.5);
      check(device, c, random);
    });
  });

  test("queries and keys within one product are normalised where they lie", async () => {
    await using device = await target.open(2);
    const random = seeded(73);
    const [tokens, heads, kvHeads, dim] = [5, 4, 2, 16];
    const values = normals(random, tokens * (heads + 2 * kvHeads) * dim, "bf16");
    using product = Tensor.from(device, values, [tokens, heads + 2 * kvHeads, dim], "bf16");
    using weight = Tensor.from(device, normals(random, dim, "bf16"), [dim], "bf16");
    const q = product.slice(1, 0, heads);
    using alone = rmsNorm(q, weight);
    rmsNorm(q, weight, { out: q });
    expect(q.toBytes()).toEqual(alone.toBytes());
    const rest = product.slice(1, heads, heads + 2 * kvHeads).toFloat64Array();
    const width = (heads + 2 * kvHeads) * dim;
    for (let token = 0; token < tokens; token++)
      expect(rest.subarray(token * 2 * kvHeads * dim, (token + 1) * 2 * kvHeads * dim)).toEqual(
        values.subarray(token * width + heads * dim, (token + 1) * width),
      );
  });

  test("the sum that is kept is what is normalised, to the bit", async () => {
    await using device = await target.open(2);
    const random = seeded(74);
    for (const dim of [128, 3000]) {
      using x = Tensor.from(device, normals(random, 4 * dim, "bf16"), [4, dim], "bf16");
      using residual = Tensor.from(device, normals(random, 4 * dim, "bf16"), [4, dim], "bf16");
      using weight = Tensor.from(device, normals(random, dim, "bf16"), [dim], "bf16");
      using fused = addRmsNorm(x, residual, weight);
      using apart = rmsNorm(residual, weight);
      expect(fused.toBytes()).toEqual(apart.toBytes());
    }
  });

  test("a row's bits are its own, and the same each time", async () => {
    await using device = await target.open(2);
    const random = seeded(5);
    // More or fewer warps of a GPU share a row; they do not hold those that are not even.
    for (const [dim, rows] of [
      [80, 50],
      [1536, 300],
      [4096, 300],
      [5000, 300],
      [8192, 9],
    ]) {
      using x = Tensor.from(device, normals(random, rows * dim, "bf16"), [rows, dim], "bf16");
      using weight = Tensor.from(device, normals(random, dim, "bf16"), [dim], "bf16");
      for (const op of [rmsNorm, layerNorm]) {
        using all = op(x, weight);
        using again = op(x, weight);
        expect(again.toBytes()).toEqual(all.toBytes());
        using apart = Tensor.empty(device, [rows, dim + 1], "bf16");
        using odd = op(x, weight, { out: apart.slice(1, 0, dim) });
        expect(odd.toBytes()).toEqual(all.toBytes());
        for (const row of [0, 7, rows - 1]) {
          using alone = op(x.slice(0, row, row + 1), weight);
          expect(alone.toBytes()).toEqual(all.slice(0, row, row + 1).toBytes());
        }
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
    using tokenScales = Tensor.zeros(device, [4], "f32");
    using scaled = rmsNorm(x, weight, { dtype: "f8e4m3", tokenScales });
    const scales = tokenScales.toFloat64Array();
    expect(scales[0]).toBe(2 ** -126);
    expect(scales[2]).toBeNaN();
    expect([...scaled.toFloat64Array()].slice(12)).toEqual([448, 448, 448, 448]);
  });

  test("rows from a count of the device on are left alone; a graph reads it anew", async () => {
    await using device = await target.open(1);
    for (const dim of [2, 1100]) {
      using x = Tensor.from(device, new Float64Array(6 * dim).fill(2), [3, 2, dim], "f32");
      using weight = Tensor.from(device, new Float64Array(dim).fill(1), [dim], "f32");
      using rowCount = Tensor.from(device, [2], [1], "i32");
      using out = Tensor.zeros(device, [3, 2, dim], "f32");
      const written = () => [...out.select(2, 0).toFloat64Array()].map(Math.round);
      using graph = device.capture(device.stream, () => rmsNorm(x, weight, { out, rowCount }));
      graph.replay(device.stream);
      expect(written()).toEqual([1, 1, 1, 1, 0, 0]);
      using more = Tensor.from(device, [9], [1], "i32");
      rowCount.copyFrom(more);
      graph.replay(device.stream);
      expect(written()).toEqual([1, 1, 1, 1, 1, 1]);
      using none = Tensor.from(device, [-1], [1], "i32");
      using untouched = Tensor.zeros(device, [3, 2, dim], "f32");
      rmsNorm(x, weight, { out: untouched, rowCount: none });
      expect(untouched.toFloat64Array().every((value) => value === 0)).toBe(true);
    }
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    await using elsewhere = await target.open(1);
    const ones = onesOn(device);
    const x = ones([3, 8]);
    const weight = ones([8]);
    const wide = ones([4, 8]);
    const scales = ones([3]);
    const fp8 = { dtype: "f8e4m3" } as const;
    const rms =
      (input: Tensor, by: Tensor, options: RmsNormOptions = {}) =>
      () =>
        rmsNorm(input, by, options);
    expectRefused([
      ["x", rms(ones([1, 2, 3, 8]), weight)],
      ["x", rms(ones([3, 0]), ones([0]))],
      ["x", rms(ones([]), weight)],
      ["x", rms(ones([8, 3]).permute(1, 0), weight)],
      ["x", rms(ones([3, 8], "i32"), weight)],
      ["x", rms(ones([3, 8], "f8e4m3"), weight)],
      ["weight", rms(x, ones([7]))],
      ["weight", rms(x, ones([1, 8]))],
      ["weight", rms(x, ones([8], "bf16"))],
      ["weight", rms(x, ones([8], "f32", elsewhere))],
      ["weight", rms(x, undefined as unknown as Tensor)],
      ["eps", rms(x, weight, { eps: 0 })],
      ["eps", rms(x, weight, { eps: NaN })],
      ["zeroCentered", rms(x, weight, { zeroCentered: 1 as unknown as boolean })],
      ["stream", rms(x, weight, { stream: elsewhere.stream })],
      ["dtype", rms(x, weight, { dtype: "i32" })],
      ["dtype", rms(x, weight, { dtype: "bf16", out: ones([3, 8]) })],
      ["rowCount", rms(x, weight, { rowCount: ones([1]) })],
      ["rowCount", rms(x, weight, { rowCount: ones([2], "i32") })],
      ["scale", rms(x, weight, { scale: ones([1]) })],
      ["scale", rms(x, weight, { ...fp8, scale: ones([3]) })],
      ["tokenScales", rms(x, weight, { ...fp8, tokenScales: ones([4]) })],
      ["tokenScales", rms(x, weight, { ...fp8, tokenScales: ones([3], "bf16") })],
      ["tokenScales", rms(x, weight, { ...fp8, tokenScales: scales, scale: ones([1]) })],
      ["tokenScales", rms(x, weight, { ...fp8, tokenScales: x.select(0, 0).slice(0, 0, 3) })],
      ["out", rms(x, weight, { out: ones([3, 7]) })],
      ["out", rms(x, weight, { out: ones([3, 8], "i64") })],
      ["out", rms(x, weight, { out: ones([3, 8], "f32", elsewhere) })],
      ["out", rms(wide.slice(0, 0, 3), weight, { out: wide.slice(0, 1, 4) })],
      ["out", rms(wide.slice(0, 0, 1), wide.select(0, 1), { out: wide.slice(0, 1, 2) })],
      ["residual", () => addRmsNorm(x, ones([3, 7]), weight)],
      ["residual", () => addRmsNorm(x, x, weight)],
      ["residual", () => addRmsNorm(wide.slice(0, 0, 1), wide.slice(0, 1, 2), wide.select(0, 1))],
      ["out", () => addRmsNorm(x, wide.slice(0, 0, 3), weight, { out: wide.slice(0, 0, 3) })],
      ["bias", () => layerNorm(x, weight, { bias: ones([7]) })],
      ["bias", () => layerNorm(x, weight, { bias: ones([8], "bf16") })],
    ]);
    for (const tensor of [x, weight, wide, scales])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
    expect(rms(x, ones([3]))).toThrow(/must be a dense f32 tensor \[8\]/);
    x[Symbol.dispose]();
    expect(rms(x, weight)).toThrow("was disposed");
  },
);
