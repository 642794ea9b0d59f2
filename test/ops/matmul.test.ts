import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import { matmul } from "../../src/ops/matmul.ts";
import type { Activation, MatmulOptions } from "../../src/ops/matmul-options.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { expectedProduct, expectProduct } from "../support/matmul.ts";
import { forSeeds, type Random, seeded } from "../support/random.ts";
import { targetsHere } from "../support/targets.ts";
import { codes, type Held, heldWeight, numbersOf, spaced } from "../support/weights.ts";
import { onesOn } from "../support/rows.ts";

interface Case {
  rows: number;
  inputs: number;
  outputs: number;
  dtype: DType;
  weightDtype?: DType;
  outDtype?: DType;
  bias?: boolean;
  residual?: boolean;
  activation?: Activation;
  gated?: boolean;
  invariant?: boolean;
  /** Elements between rows that belong to nobody. */
  gap?: number;
}

const activations: Activation[] = ["none", "silu", "gelu", "gelu-tanh"];

/** Runs a case and compares it with the oracle. */
function check(device: Device, c: Case, random: Random): void {
  const { rows, inputs, outputs, dtype, weightDtype = dtype, outDtype = dtype, gap = 0 } = c;
  const columns = c.gated ? outputs / 2 : outputs;
  const x = numbersOf(random, rows * inputs, dtype);
  const values = numbersOf(random, outputs * inputs, weightDtype, 1 / Math.sqrt(inputs));
  const biases = c.bias ? numbersOf(random, outputs, "f32") : undefined;
  const residuals = c.residual ? numbersOf(random, rows * columns, dtype) : undefined;
  const input = spaced(device, x, rows, gap, dtype);
  const held = spaced(device, values, outputs, gap, weightDtype);
  const output = spaced(device, new Float64Array(rows * columns).fill(NaN), rows, gap, outDtype);
  using bias = biases && Tensor.from(device, biases, [outputs], "f32");
  using residual = residuals && Tensor.from(device, residuals, [rows, columns], dtype);
  const { activation, gated, invariant } = c;
  const options: MatmulOptions = { activation, gated, invariant, bias, residual };
  const result = matmul(input.view, Weight.dense(held.view), { ...options, out: output.view });
  expect(result).toBe(output.view);
  const product = { rows, inputs, outputs, x, weight: values, bias: biases, residual: residuals };
  const wanted = expectedProduct({ ...product, activation, gated });
  expectProduct(output.view.toFloat64Array(), wanted, outDtype, JSON.stringify(c));
  expect(output.memory.toFloat64Array().filter(Number.isNaN).length).toBe(rows * gap);
  for (const tensor of [input.memory, held.memory, output.memory]) tensor[Symbol.dispose]();
}

/** Rows of x, in codes with scales if it is fp8, times a weight that is held in some way. */
function checkHeld(
  device: Device,
  rows: number,
  dtype: DType,
  held: Held,
  random: Random,
  roundRows = false,
): void {
  const isFp8 = dtype.startsWith("f8");
  const group = "group" in held && !isFp8 ? Math.max(32, held.group) : 128;
  const inputs = group * random.integer(1, 384 / group);
  const outputs = 2 * random.integer(1, 70);
  const values = numbersOf(random, rows * inputs, dtype);
  const shape = random.pick([[1], [rows], [rows, inputs / 128]]);
  const worth = isFp8 ? numbersOf(random, rows * inputs, "f32") : undefined;
  const at = (row: number, k: number) =>
    [0, row, row * (inputs / 128) + Math.floor(k / 128)][shape.length === 2 ? 2 : +(shape[0] > 1)];
  const numbers = worth?.subarray(
    0,
    shape.reduce((a, b) => a * b),
  );
  using scales = numbers && Tensor.from(device, numbers, shape, "f32");
  const x = values.map((value, i) =>
    numbers ? value * numbers[at(Math.floor(i / inputs), i % inputs)] : value,
  );
  using input = Tensor.from(device, values, [rows, inputs], dtype);
  const { weight, values: weights } = heldWeight(device, random, held, [outputs, inputs]);
  using out = matmul(input, weight, { scales, gated: true, roundRows });
  const product = { rows, inputs, outputs, x, weight: weights, gated: true };
  const cut = isFp8 && device.kind === "cuda";
  const isWhole = "group" in held && held.group % 32 === 0;
  const whole = roundRows && device.kind === "cpu" && isWhole;
  const wanted = expectedProduct({ ...product, cut, whole });
  const what = JSON.stringify({ rows, inputs, outputs, dtype, held, shape, roundRows });
  expectProduct(out.toFloat64Array(), wanted, out.dtype, what);
  weight[Symbol.dispose]();
}

describe.each(await targetsHere())("matmul on $name", (target) => {
  test("agrees with f64, of any size, type, bucket of rows and distance", async () => {
    await using device = await target.open(2);
    const random = seeded(71);
    const inputs = [1, 7, 8, 31, 32, 33, 64, 96, 127, 256, 1023, 1056, 2100];
    const rows = [1, 2, 5, 6, 7, 8, 9, 13, 16, 17, 33, 64, 129];
    const outputs = [1, 3, 4, 16, 17, 63, 64, 65, 130];
    for (const [i, size] of inputs.entries()) {
      for (const dtype of ["f32", "f16", "bf16"] as const) {
        const turn = 3 * i + ["f32", "f16", "bf16"].indexOf(dtype);
        const [row, output] = [rows[turn % rows.length], outputs[turn % outputs.length]];
        const gap = [0, 8, 3][turn % 3];
        check(device, { rows: row, inputs: size, outputs: output, dtype, gap }, random);
      }
    }
  });

  test("bias, activation, gate and residual follow in that order", async () => {
    await using device = await target.open(2);
    const random = seeded(72);
    for (const [i, activation] of activations.entries()) {
      for (const rows of [1, 3, 12, 70]) {
        const sizes = { rows, inputs: 40 + 24 * i, outputs: 68 };
        for (const gated of [false, true]) {
          const rest = { activation, gated, bias: i !== 1, residual: i !== 2 };
          check(device, { ...sizes, ...rest, dtype: "f16" }, random);
          check(device, { ...sizes, ...rest, dtype: "bf16", outDtype: "f32" }, random);
        }
      }
    }
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(25, (random) => {
      const dtype = random.pick(["f32", "f16", "bf16"] as const);
      const c: Case = {
        rows: random.integer(1, random.pick([4, 20, 140])),
        inputs: random.integer(1, 300),
        outputs: 2 * random.integer(1, 70),
        dtype,
        weightDtype: random.pick([dtype, "f32", "bf16"]),
        outDtype: random.pick([dtype, "f32"]),
        bias: random.chance(0.5),
        residual: random.chance(0.5),
        activation: random.pick(activations),
        gated: random.chance(0.3),
        invariant: random.chance(0.3),
        gap: random.integer(0, 9),
      };
      check(device, c, random);
    });
  });

  test("weights in codes and fp8 rows agree with what they are worth", async () => {
    await using device = await target.open(2);
    const random = seeded(73);
    for (const [i, held] of codes.entries()) {
      checkHeld(device, [1, 5, 40][i % 3], (["bf16", "f16"] as const)[i % 2], held, random);
      checkHeld(device, [2, 9, 33][i % 3], "f8e4m3", held, random);
    }
    checkHeld(device, 3, "f8e5m2", { dtype: "f8e5m2", scales: "block" }, random);
    checkHeld(device, 130, "f32", { dtype: "u8", group: 32, minimums: true }, random);
    checkHeld(device, 9, "f8e4m3", { dtype: "f32" }, random);
  });

  test("rows beside codes may be rounded to 16 bits, and no further", async () => {
    await using device = await target.open(2);
    forSeeds(40, (random) => {
      const held = random.pick(codes);
      const dtype = random.pick(["f32", "f16", "bf16", "f8e4m3"] as const);
      const rows = random.pick([1, 2, 15, 16, 64, 65, 130]);
      checkHeld(device, rows, dtype, held, random, true);
    });
  });

  test("rounded rows have the same bits among others, and what is not finite stays", async () => {
    await using device = await target.open(2);
    const random = seeded(76);
    const [rows, inputs, outputs] = [70, 224, 40];
    const held = { dtype: "u8", group: 32, minimums: true } as const;
    const { weight } = heldWeight(device, random, held, [outputs, inputs]);
    const values = numbersOf(random, rows * inputs, "f32");
    values[3 * inputs + 100] = NaN;
    values[5 * inputs] = -Infinity;
    values.fill(0, 7 * inputs, 8 * inputs);
    using x = Tensor.from(device, values, [rows, inputs], "f32");
    const options = { roundRows: true, invariant: true };
    using all = matmul(x, weight, options);
    const numbers = all.toFloat64Array();
    for (let row = 0; row < rows; row++) {
      const own = numbers.subarray(row * outputs, (row + 1) * outputs);
      expect(own.every(Number.isFinite)).toBe(row !== 3 && row !== 5);
      expect(own.some(Number.isFinite)).toBe(row !== 3 && row !== 5);
    }
    expect(numbers.subarray(7 * outputs, 8 * outputs).every((y) => y === 0)).toBe(true);
    for (const [first, end] of [
      [0, 1],
      [3, 12],
      [60, 70],
    ]) {
      using some = matmul(x.slice(0, first, end), weight, options);
      expect(some.toBytes()).toEqual(all.slice(0, first, end).toBytes());
    }
    weight[Symbol.dispose]();
  });

  test("a row's bits do not depend on how many others there are", async () => {
    await using device = await target.open(2);
    const random = seeded(5);
    for (const dtype of ["f32", "f16", "bf16"] as const) {
      const [rows, inputs, outputs] = [150, 1088, 40];
      const values = numbersOf(random, outputs * inputs, dtype);
      using x = Tensor.from(device, numbersOf(random, rows * inputs, dtype), [rows, inputs], dtype);
      using weight = Weight.dense(Tensor.from(device, values, [outputs, inputs], dtype));
      using all = matmul(x, weight, { invariant: true });
      using again = matmul(x, weight, { invariant: true });
      expect(again.toBytes()).toEqual(all.toBytes());
      for (const [first, end] of [
        [0, 1],
        [3, 7],
        [149, 150],
        [60, 68],
        [10, 50],
        [20, 120],
      ]) {
        using some = matmul(x.slice(0, first, end), weight, { invariant: true });
        expect(some.toBytes()).toEqual(all.slice(0, first, end).toBytes());
      }
    }
  });

  test("NaN and infinity stay in their row or output, and residual may be out", async () => {
    await using device = await target.open(1);
    for (const rows of [2, 20]) {
      using x = Tensor.from(
        device,
        Array.from({ length: rows * 8 }, (_, i) => (i === 3 ? NaN : 1)),
        [rows, 8],
        "bf16",
      );
      using weight = Weight.dense(
        Tensor.from(
          device,
          Array.from({ length: 16 }, (_, i) => (i === 9 ? Infinity : 0.5)),
          [2, 8],
          "bf16",
        ),
      );
      using out = Tensor.from(device, new Array(rows * 2).fill(1), [rows, 2], "bf16");
      matmul(x, weight, { residual: out, out });
      expect([...out.toFloat64Array()]).toEqual(
        Array.from({ length: rows * 2 }, (_, i) => (i < 2 ? NaN : i % 2 === 0 ? 5 : Infinity)),
      );
    }
  });

  test("a graph replays it on new numbers", async () => {
    await using device = await target.open(1);
    using x = Tensor.from(device, [1, 2], [1, 2], "f32");
    using weight = Weight.dense(Tensor.from(device, [1, 10], [1, 2], "f32"));
    using out = Tensor.zeros(device, [1, 1], "f32");
    using graph = device.capture(device.stream, () => matmul(x, weight, { out }));
    using other = Tensor.from(device, [3, 4], [1, 2], "f32");
    x.copyFrom(other);
    graph.replay(device.stream);
    expect([...out.toFloat64Array()]).toEqual([43]);
    weight[Symbol.dispose]();
    expect(() => graph.replay(device.stream)).toThrow("was disposed");
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    await using elsewhere = await target.open(1);
    const ones = onesOn(device);
    const x = ones([3, 8]);
    const values = ones([4, 8]);
    const weight = Weight.dense(values);
    const other = { ...weight } as unknown as Weight;
    const refused: [string, Tensor, Weight, MatmulOptions?][] = [
      ["x", ones([8]), weight],
      ["x", ones([3, 7]), weight],
      ["x", ones([8, 3]).permute(1, 0), weight],
      ["x", ones([3, 8], "i32"), weight],
      ["x", undefined as unknown as Tensor, weight],
      ["weight", x, undefined as unknown as Weight],
      ["weight", x, other],
      ["weight", x, values as unknown as Weight],
      ["weight", x, Weight.dense(ones([4, 8], "f32", elsewhere))],
      ["weight", x, Weight.dense(ones([3, 8])), { gated: true }],
      ["bias", x, weight, { bias: ones([3]) }],
      ["bias", x, weight, { bias: ones([4], "bf16") }],
      ["bias", x, weight, { bias: ones([4], "f32", elsewhere) }],
      ["residual", x, weight, { residual: ones([3, 8]) }],
      ["residual", x, weight, { residual: ones([3, 4], "f16") }],
      ["residual", x, weight, { residual: ones([3, 4]), gated: true }],
      ["activation", x, weight, { activation: "relu" as Activation }],
      ["gated", x, weight, { gated: 1 as unknown as boolean }],
      ["invariant", x, weight, { invariant: 1 as unknown as boolean }],
      ["roundRows", x, weight, { roundRows: "yes" as unknown as boolean }],
      ["settled", x, weight, { settled: 1 as unknown as boolean }],
      ["scales", x, weight, { scales: ones([1]) }],
      ["scales", ones([3, 8], "f8e4m3"), weight],
      ["scales", ones([3, 8], "f8e4m3"), weight, { scales: ones([2]) }],
      ["scales", ones([3, 8], "f8e4m3"), weight, { scales: ones([1], "f16") }],
      ["options.scale", x, weight, { scale: 1 } as MatmulOptions],
      ["stream", x, weight, { stream: elsewhere.stream }],
      ["out", x, weight, { out: ones([3, 8]) }],
      ["out", x, weight, { out: ones([3, 4], "bf16") }],
      ["out", x, weight, { out: x.slice(1, 0, 4) }],
      ["out", x, weight, { out: values.slice(1, 0, 4).slice(0, 0, 3) }],
      ["out", x, weight, { out: values.slice(0, 0, 3).slice(1, 0, 4), residual: ones([3, 4]) }],
    ];
    for (const [option, input, by, options] of refused) {
      let error: unknown;
      try {
        matmul(input, by, options);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toBeInstanceOf(OptionError);
      expect({ option: (error as OptionError).option }).toEqual({ option });
    }
    for (const tensor of [x, values])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
    for (const wrong of [ones([8]), ones([4, 8], "i8"), ones([8, 4]).permute(1, 0), ones([0, 8])])
      expect(() => Weight.dense(wrong)).toThrow(OptionError);
    expect(() => Weight.fp8(ones([4, 8], "f8e4m3"), ones([5]))).toThrow("scales must be");
    expect(() => Weight.fp8(ones([4, 8]), ones([1]))).toThrow("values must be");
    for (const scales of [ones([4, 3], "f16"), ones([4, 2]), ones([3, 2], "f16")])
      expect(() => Weight.grouped(ones([4, 64], "i8"), scales)).toThrow("scales must be");
    const scales = ones([4, 2], "f16");
    const fewer = () => Weight.grouped(ones([4, 64], "i8"), scales, ones([4, 1], "f16"));
    expect(fewer).toThrow("minimums must be");
    weight[Symbol.dispose]();
    expect(() => matmul(x, weight)).toThrow("was disposed");
  },
);
