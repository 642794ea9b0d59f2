import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { dequantize, quantize, type ScaleBlock, scaleBlocks } from "../../src/ops/quantize.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../support/numbers.ts";
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

const types = ["f8e4m3", "f8e5m2", "i8"] as const;

interface Case {
  by: ScaleBlock;
  shape: number[];
  dtype: DType;
  to: (typeof types)[number];
  gap: number;
}

/** The scale that element (row, column) has, and the shape of all. */
function blocksOf({ by, shape }: Case) {
  const dim = shape.at(-1)!;
  const wide = Math.ceil(dim / 128);
  const outer = shape.slice(0, -1);
  switch (by) {
    case "tensor":
      return { shape: [1], at: () => 0 };
    case "token":
      return { shape: outer, at: (row: number) => row };
    case "channel":
      return { shape: [dim], at: (_: number, column: number) => column };
    case "1x128":
      return {
        shape: [...outer, wide],
        at: (row: number, column: number) => row * wide + Math.floor(column / 128),
      };
    case "128x128":
      return {
        shape: [Math.ceil(shape[0] / 128), wide],
        at: (row: number, column: number) =>
          Math.floor(row / 128) * wide + Math.floor(column / 128),
      };
  }
}

/** Quantises by computed and by given scales, and back, and checks each against f64. */
function check(device: Device, c: Case, random: Random): void {
  const { by, shape, dtype, to, gap } = c;
  const dim = shape.at(-1)!;
  const count = shape.reduce((product, size) => product * size, 1);
  const at = JSON.stringify(c);
  const x = normals(random, count, dtype).map((value, i) => value * (i % 11 === 0 ? 8 : 1));
  const blocks = blocksOf(c);
  const wanted = new Float64Array(blocks.shape.reduce((a, b) => a * b, 1)).fill(2 ** -126);
  const blockAt = (i: number) => blocks.at(Math.floor(i / dim), i % dim);
  x.forEach((value, i) => {
    wanted[blockAt(i)] = Math.max(wanted[blockAt(i)], Math.abs(value) / largest[to]!);
  });
  const input = spaced(device, x, shape, dtype, gap);
  const output = unwritten(device, shape, to, gap);
  const computed = quantize(input.view, by, { out: output.view });
  expect(computed.values).toBe(output.view);
  const scales = computed.scales.toFloat64Array();
  expect(computed.scales.shape).toEqual(blocks.shape);
  if (count > 0) {
    const worst = scales.map((scale, i) => Math.abs(scale / wanted[i] - 1));
    expect(worst.reduce((a, b) => Math.max(a, b))).toBeLessThan(1e-6);
  }
  const scaleOf = (i: number) => scales[blockAt(i)];
  const values = output.view.toFloat64Array();
  expectClose(values, x, to, at, { scaleOf });
  expectGapsKept(output);
  const again = quantize(input.view, by, { dtype: to, scales: computed.scales });
  expect(again.scales).toBe(computed.scales);
  expect(again.values.toBytes()).toEqual(output.view.toBytes());
  const back = unwritten(device, shape, dtype, gap);
  dequantize(output.view, computed.scales, by, { out: back.view });
  const restored = values.map((value, i) => value * scaleOf(i));
  expectClose(back.view.toFloat64Array(), restored, dtype, at);
  expectGapsKept(back);
  free(input, output, back, computed.scales, again.values);
}

describe.each(await targetsHere())("quantisation on $name", (target) => {
  test.each(scaleBlocks)("by %s agrees with f64, of any length and type", async (by) => {
    await using device = await target.open(2);
    const random = seeded(101);
    for (const [i, dim] of [1, 7, 128, 129, 300, 1024, 1025, 2176, 8200].entries()) {
      const shape = [[1, 3, 131][i % 3], dim];
      if (dim > 2000) shape[0] = 3;
      check(device, { by, shape, dtype: numberTypes[i % 3], to: types[i % 3], gap: i % 4 }, random);
    }
    check(device, { by, shape: [260, 264], dtype: "bf16", to: "f8e4m3", gap: 0 }, random);
    // More rows than are split among blocks.
    check(device, { by, shape: [130, 2056], dtype: "bf16", to: "i8", gap: 0 }, random);
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(40, (random) => {
      const by = random.pick(scaleBlocks);
      const dim = random.integer(1, 1300);
      const shape = by === "128x128" ? [random.integer(0, 20), dim] : shapeOf(random, dim, 20);
      const [dtype, to] = [random.pick(numberTypes), random.pick(types)];
      check(device, { by, shape, dtype, to, gap: random.integer(0, 9) }, random);
    });
  });

  test("a GPU that holds rows gives the bits of one that does not", async () => {
    await using device = await target.open(2);
    const random = seeded(102);
    for (const [i, dim] of [1032, 4096, 4104, 8192, 8200].entries())
      for (const by of scaleBlocks) {
        const [dtype, to] = [numberTypes[1 + (i % 2)], types[i % 3]];
        const x = normals(random, 5 * dim, dtype);
        [x[dim + 1000], x[2 * dim + 77], x[4 * dim - 1]] = [NaN, Infinity, -Infinity];
        using even = Tensor.from(device, x, [5, dim], dtype);
        const odd = spaced(device, x, [5, dim], dtype, 1);
        using rowCount = Tensor.from(device, [4], [1], "i32");
        const [a, b] = [even, odd.view].map((rows) => quantize(rows, by, { dtype: to, rowCount }));
        const live = (rows: Tensor) => rows.slice(0, 0, by === "token" ? 4 : 1).toBytes();
        expect(a.values.slice(0, 0, 4).toBytes()).toEqual(b.values.slice(0, 0, 4).toBytes());
        expect(live(a.scales)).toEqual(live(b.scales));
        for (const { values, scales } of [a, b])
          for (const t of [values, scales]) t[Symbol.dispose]();
        free(odd);
      }
  });

  test("zeros, numbers too small for a scale, infinity and NaN", async () => {
    await using device = await target.open(1);
    const rows = [0, -0, 1e-42, 1e-43, Infinity, 1, NaN, 1];
    using x = Tensor.from(device, rows, [4, 2], "f32");
    const { values, scales } = quantize(x, "token");
    expect([...scales.toFloat64Array()]).toEqual([2 ** -126, 2 ** -126, Infinity, NaN]);
    const got = [...values.toFloat64Array()];
    expect(got.slice(0, 2)).toEqual([0, -0]);
    expect(got[2]).toBeLessThan(448);
    expect(got.slice(4)).toEqual([NaN, 0, NaN, NaN]);
    for (const by of ["tensor", "channel", "128x128"] as const) {
      using whole = quantize(x, by).scales;
      expect(whole.toFloat64Array()[0]).toBeNaN();
    }
    using i8 = quantize(x, "tensor", { dtype: "i8" }).values;
    expect([...i8.toFloat64Array()]).toEqual(new Array(8).fill(0));
  });

  test("computed scales of no elements can divide", async () => {
    await using device = await target.open(1);
    for (const by of ["tensor", "channel"] as const) {
      using x = Tensor.empty(device, [0, 5], "f32");
      using outScales = Tensor.from(
        device,
        new Float64Array(by === "tensor" ? 1 : 5),
        [by === "tensor" ? 1 : 5],
        "f32",
      );
      quantize(x, by, { outScales });
      for (const scale of outScales.toFloat64Array())
        expect(scale >= 2 ** -126 && scale < 2 ** -120).toBe(true);
      using given = Tensor.from(device, outScales.toFloat64Array().fill(3), outScales.shape, "f32");
      quantize(x, by, { scales: given });
      expect(given.toFloat64Array()[0]).toBe(3);
    }
  });

  test("rows from a count of the device on are left alone and count for nothing", async () => {
    await using device = await target.open(1);
    for (const by of scaleBlocks) {
      using x = Tensor.from(device, [1, 2, 4, 2, 99, 99], [3, 2], "bf16");
      using rowCount = Tensor.from(device, [2], [1], "i32");
      using out = Tensor.from(device, [9, 9, 9, 9, 9, 9], [3, 2], "i8");
      const shape = blocksOf({ by, shape: [3, 2], dtype: "bf16", to: "i8", gap: 0 }).shape;
      using outScales = Tensor.from(device, new Float64Array(shape[0]).fill(7), shape, "f32");
      const run = () => quantize(x, by, { out, outScales, rowCount });
      using graph = device.capture(device.stream, () => void run());
      graph.replay(device.stream);
      expect([...out.toFloat64Array()].slice(4)).toEqual([9, 9]);
      const first = by === "token" || by === "1x128" ? 2 : 4;
      expect(outScales.toFloat64Array()[0]).toBeCloseTo(first / 127, 6);
    }
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    const ones = onesOn(device);
    const x = ones([3, 8]);
    const codes = ones([3, 8], "i8");
    const three = ones([3]);
    const bytes = Tensor.fromPointer(device, x.address, [3, 8], "i8");
    expectRefused([
      ["x", () => quantize(ones([3, 8], "i32"), "token")],
      ["x", () => quantize(ones([2, 2, 8]), "128x128")],
      ["by", () => quantize(x, "row" as ScaleBlock)],
      ["dtype", () => quantize(x, "token", { dtype: "bf16" })],
      ["scales", () => quantize(x, "token", { scales: ones([1]) })],
      ["scales", () => quantize(x, "channel", { scales: three })],
      ["scales", () => quantize(x, "token", { scales: ones([3], "f16") })],
      ["outScales", () => quantize(x, "1x128", { outScales: ones([3, 2]) })],
      ["outScales", () => quantize(x, "token", { scales: three, outScales: ones([3]) })],
      ["outScales", () => quantize(x, "token", { outScales: x.select(0, 0).slice(0, 0, 3) })],
      ["out", () => quantize(x, "token", { out: ones([3, 7], "i8") })],
      ["out", () => quantize(x, "token", { out: bytes })],
      ["out", () => quantize(x, "token", { dtype: "f8e4m3", out: ones([3, 8], "i8") })],
      ["values", () => dequantize(x, three, "token")],
      ["scales", () => dequantize(codes, three, "channel")],
      ["dtype", () => dequantize(codes, three, "token", { dtype: "i8" })],
      ["out", () => dequantize(codes, three, "token", { out: ones([2, 8]) })],
    ]);
    for (const tensor of [x, codes, three])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
  },
);
