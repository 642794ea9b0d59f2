import { describe, expect, test } from "bun:test";
import { add, capLogits } from "../../src/ops/elementwise.ts";
import { argmax } from "../../src/ops/argmax.ts";
import type { OutOptions } from "../../src/ops/rows.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../support/numbers.ts";
import { byRow, scaleOf } from "../support/operators.ts";
import { forSeeds, seeded } from "../support/random.ts";
import {
  expectClose,
  expectGapsKept,
  expectRefused,
  free,
  numberTypes,
  shapeOf,
  spaced,
  unwritten,
  onesOn,
} from "../support/rows.ts";
import { targetsHere } from "../support/targets.ts";

/** Lengths at which a team, its chunks or its segments change. */
const dims = [1, 8, 33, 1000, 1024, 1025, 2048, 8200];

describe.each(await targetsHere())("on $name", (target) => {
  test("sums and soft caps agree with f64, and run in place", async () => {
    await using device = await target.open(2);
    forSeeds(24, (random) => {
      const dtype = random.pick(numberTypes);
      const other = random.pick(numberTypes);
      const outDtype = random.pick([dtype, "f32" as const, "f8e4m3" as const]);
      const dim = random.seed <= dims.length ? dims[random.seed - 1] : random.integer(1, 1500);
      const shape = shapeOf(random, dim, 9);
      const count = shape.reduce((product, size) => product * size, 1);
      const gap = random.integer(0, 9);
      const at = JSON.stringify({ shape, dtype, other, outDtype, gap });
      const x = normals(random, count, dtype);
      const y = normals(random, count, other);
      const a = spaced(device, x, shape, dtype, gap);
      const b = spaced(device, y, shape, other, gap);
      const out = unwritten(device, shape, outDtype, gap);
      expect(add(a.view, b.view, { out: out.view })).toBe(out.view);
      const sum = x.map((value, i) => value + y[i]);
      expectClose(out.view.toFloat64Array(), sum, outDtype, at, { slack: 1e-6 });
      expectGapsKept(out);
      if (outDtype === dtype) {
        using before = a.view.to(dtype);
        add(before, b.view, { out: before });
        expect(before.toBytes()).toEqual(out.view.toBytes());
      }
      const cap = random.pick([0.5, 30]);
      const capped = x.map((value) => cap * Math.tanh(value / cap));
      capLogits(a.view, cap, { out: out.view });
      expectClose(out.view.toFloat64Array(), capped, outDtype, at, { slack: 1e-6 });
      capLogits(a.view, cap, { out: a.view });
      expectClose(a.view.toFloat64Array(), capped, dtype, at, { slack: 1e-6 });
      free(a, b, out);
    });
  });

  test("a sum has a scale for each row", async () => {
    await using device = await target.open(2);
    const random = seeded(91);
    for (const dim of [64, 8208]) {
      const x = normals(random, 3 * dim, "bf16");
      using a = Tensor.from(device, x, [3, dim], "bf16");
      using tokenScales = Tensor.zeros(device, [3], "f32");
      using out = add(a, a, { dtype: "i8", tokenScales });
      const scales = tokenScales.toFloat64Array();
      const wanted = x.map((value) => 2 * value);
      byRow(wanted, dim, (row, i) => {
        expect(Math.abs(scales[i] / scaleOf(row, 127) - 1)).toBeLessThan(1e-6);
        return row;
      });
      const scaleAt = (i: number) => scales[Math.floor(i / dim)];
      expectClose(out.toFloat64Array(), wanted, "i8", `${dim}`, { scaleOf: scaleAt });
    }
  });

  test("argmax is the lowest index of the largest number, of any length and type", async () => {
    await using device = await target.open(2);
    forSeeds(30, (random) => {
      const dtype = random.pick(numberTypes);
      const dim = random.seed <= dims.length ? dims[random.seed - 1] : random.integer(1, 3000);
      const shape = shapeOf(random, dim, 9);
      const count = shape.reduce((product, size) => product * size, 1);
      // Few numbers, so that many are largest; some rows are NaN or -inf in part or whole.
      const x = Float64Array.from({ length: count }, () => random.integer(-3, random.pick([0, 3])));
      for (let row = 0; row * dim < count; row++) {
        const odd = random.pick([undefined, undefined, NaN, -Infinity]);
        if (odd === undefined) continue;
        const whole = random.chance(0.5);
        for (let i = row * dim; i < (row + 1) * dim; i++)
          if (whole || random.chance(0.3)) x[i] = odd;
      }
      const wanted: number[] = [];
      byRow(x, dim, (row) => {
        let best = 0;
        for (let i = 0; i < dim; i++)
          if (row[i] > row[best] || (Number.isNaN(row[best]) && row[i] === row[i])) best = i;
        wanted.push(Number.isNaN(row[best]) ? 0 : best);
        return row;
      });
      const input = spaced(device, x, shape, dtype, random.integer(0, 9));
      using out = argmax(input.view);
      expect(out.shape).toEqual(shape.slice(0, -1));
      expect([...out.toFloat64Array()]).toEqual(wanted);
      free(input);
    });
  });

  test("rows of a vocabulary beyond 2^18 are taken", async () => {
    await using device = await target.open(1);
    const vocabulary = 262_208;
    const values = new Float64Array(2 * vocabulary);
    values[vocabulary - 1] = values[vocabulary + 262_150] = 40;
    using x = Tensor.from(device, values, [2, vocabulary], "f32");
    using before = argmax(x);
    expect([...before.toFloat64Array()]).toEqual([vocabulary - 1, 262_150]);
    capLogits(x, 30, { out: x });
    const capped = x.toFloat64Array();
    for (const at of [vocabulary - 1, vocabulary + 262_150])
      expect(capped[at]).toBeCloseTo(30 * Math.tanh(4 / 3), 4);
    expect(capped.reduce((sum, value) => sum + value, 0)).toBeCloseTo(60 * Math.tanh(4 / 3), 3);
    using long = Tensor.zeros(device, [1, 500_001], "f32");
    expect(() => argmax(long)).toThrow("x must be a tensor [..., 1 to 500000]");
  });

  test("argmax takes 0 and -0 as one number", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [-1, -0, 0, 0, -0, -1], [2, 3], "f32");
    expect([...argmax(x).toFloat64Array()]).toEqual([1, 0]);
  });

  test("argmax leaves rows behind the count alone, also in a graph", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [1, 2, 0, 5, 4, 3, 0, 0, 9], [3, 3], "bf16");
    using out = Tensor.from(device, [7, 7, 7], [3], "i32");
    using rowCount = Tensor.from(device, [2], [1], "i32");
    using graph = device.capture(device.stream, () => argmax(x, { out, rowCount }));
    graph.replay(device.stream);
    expect([...out.toFloat64Array()]).toEqual([1, 0, 7]);
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    const ones = onesOn(device);
    const x = ones([3, 8]);
    const wide = ones([4, 8]);
    const three = wide.slice(0, 0, 3);
    const late = wide.slice(0, 1, 4);
    const cap =
      (value: number, options: OutOptions = {}) =>
      () =>
        capLogits(x, value, options);
    const flat = Tensor.fromPointer(device, x.address, [3], "i32");
    expectRefused([
      ["x", () => add(ones([8, 3]).permute(1, 0), x)],
      ["y", () => add(x, ones([3, 7]))],
      ["y", () => add(x, ones([3, 8], "i8"))],
      ["out", () => add(x, three, { out: late })],
      ["out", () => add(x, x, { out: x.slice(1, 0, 1) })],
      ["cap", cap(0)],
      ["cap", cap(NaN)],
      ["cap", cap(-1)],
      ["out", cap(30, { out: ones([2, 8]) })],
      ["x", () => argmax(ones([3, 8], "i32"))],
      ["out", () => argmax(x, { out: ones([3]) })],
      ["out", () => argmax(x, { out: ones([3, 1], "i32") })],
      ["out", () => argmax(x, { out: flat })],
      ["rowCount", () => argmax(x, { rowCount: ones([1]) })],
    ]);
    for (const tensor of [x, wide])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
  },
);
