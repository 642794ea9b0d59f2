import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { matmul } from "../../src/ops/matmul.ts";
import type { MatmulOptions } from "../../src/ops/matmul-options.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { expectedProduct, expectProduct } from "../support/matmul.ts";
import { indptrOf } from "../support/numbers.ts";
import { type Random, seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import { codes, type Held, heldWeight, numbersOf } from "../support/weights.ts";

interface Case {
  rows: number;
  inputs: number;
  outputs: number;
  dtype: DType;
  held?: Held;
  gated?: boolean;
  rest?: boolean;
  outDtype?: DType;
  /** Scales of fp8 rows: of all, of each row, of blocks. */
  scales?: "all" | "row" | "block";
  /** Absent: as chance wants it. */
  settled?: boolean;
}

/** Names of kernels that a call launches. */
function launchesOf(device: Device, body: () => void): string[] {
  const names: string[] = [];
  using _ = device.observe({ launching: ({ name }) => names.push(name) });
  body();
  return names;
}

/** Runs a product beside its definition; returns the kernel's name. */
function check(device: Device, c: Case, random: Random): string {
  const { rows, inputs, outputs, dtype, gated = false, rest = false } = c;
  const { held = { dtype } as Held } = c;
  const isFp8 = dtype.startsWith("f8");
  const columns = gated ? outputs / 2 : outputs;
  const outDtype = c.outDtype ?? (isFp8 ? "bf16" : dtype);
  const x = numbersOf(random, rows * inputs, dtype);
  const blocks = Math.ceil(inputs / 128);
  const shape = { all: [1], row: [rows], block: [rows, blocks] }[c.scales ?? "all"];
  const worth = numbersOf(
    random,
    shape.reduce((a, b) => a * b),
    "f32",
  );
  const at = (row: number, k: number) =>
    shape.length === 2 ? row * blocks + Math.floor(k / 128) : shape[0] > 1 ? row : 0;
  using input = Tensor.from(device, x, [rows, inputs], dtype);
  using scales = isFp8 ? Tensor.from(device, worth, shape, "f32") : undefined;
  const { weight, values } = heldWeight(device, random, held, [outputs, inputs]);
  const biases = rest ? numbersOf(random, outputs, "f32") : undefined;
  const residuals = rest ? numbersOf(random, rows * columns, outDtype) : undefined;
  using bias = biases && Tensor.from(device, biases, [outputs], "f32");
  using out = Tensor.from(
    device,
    residuals ?? new Float64Array(rows * columns).fill(NaN),
    [rows, columns],
    outDtype,
  );
  const residual = rest ? out : undefined;
  const activation = rest ? "silu" : "none";
  const settled = c.settled ?? random.integer(0, 1) === 1;
  const options: MatmulOptions = { gated, activation, bias, residual, out, scales, settled };
  const [kernel] = launchesOf(device, () => matmul(input, weight, options));
  const wanted = expectedProduct({
    rows,
    inputs,
    outputs,
    gated,
    activation,
    weight: values,
    cut: isFp8,
    x: isFp8 ? x.map((v, i) => v * worth[at(Math.floor(i / inputs), i % inputs)]) : x,
    bias: biases,
    residual: residuals,
  });
  expectProduct(out.toFloat64Array(), wanted, outDtype, JSON.stringify({ ...c, settled, kernel }));
  weight[Symbol.dispose]();
  return kernel;
}

const gpu = gpuTarget();

describe.skipIf(gpu === undefined)(`matmul of Hopper on ${gpu?.name}`, () => {
  test("few rows, whose blocks share the inputs, of every width", async () => {
    await using device = await gpu!.open(1);
    const random = seeded(91);
    const names = new Set<string>();
    for (const rows of [1, 8, 13, 29, 50, 100])
      for (const [i, outputs] of [40, 128, 300].entries())
        for (const gated of [false, true]) {
          const dtype = (["bf16", "f16"] as const)[i % 2];
          const inputs = [72, 512, 1032][(i + rows) % 3];
          const rest = (rows + i) % 3 === 0;
          names.add(check(device, { rows, inputs, outputs, dtype, gated, rest }, random));
        }
    if (device.properties.computeMajor !== 9) return;
    for (const kind of ["thin_8", "thin_16", "thin_32", "flat_64", "flat_128"])
      expect([...names].some((name) => name.startsWith(`matmul_${kind}_x`))).toBe(true);
    expect([...names].some((name) => !name.endsWith("_x1"))).toBe(true);
    if (device.properties.emulated)
      for (const kind of ["flat_64_x3", "flat_128_x2"]) expect(names).toContain(`matmul_${kind}`);
    // Blocks that are no power of two, more of a settled weight: an emulated GPU has four
    // multiprocessors.
    const c = { rows: 5, inputs: 768, outputs: 100, gated: false, rest: true } as const;
    for (const settled of [false, true]) {
      const name = check(device, { ...c, dtype: "bf16", settled }, random);
      if (device.properties.emulated) expect(name).toBe(`matmul_thin_8_x${settled ? 3 : 2}`);
    }
  }, 600_000);

  test("many rows, by clusters", async () => {
    await using device = await gpu!.open(1);
    const random = seeded(92);
    const names = new Set<string>();
    for (const [rows, outputs, inputs] of [
      [512, 512, 64],
      [513, 640, 200],
      [2200, 264, 72],
    ])
      for (const dtype of ["bf16", "f16"] as const)
        for (const gated of [false, true]) {
          const rest = (rows % 2 === 0) === (dtype === "f16");
          const outDtype = gated ? "f32" : dtype;
          const c = { rows, inputs, outputs, dtype, gated, rest, outDtype } as const;
          names.add(check(device, c, random));
        }
    if (device.properties.computeMajor !== 9 || !device.properties.emulated) return;
    expect([...names].toSorted()).toContain("matmul_wide_bf16");
    expect([...names].toSorted()).toContain("matmul_wide_f16");
  }, 600_000);

  test("experts follow each other, each in bands of its rows", async () => {
    await using device = await gpu!.open(1);
    const random = seeded(95);
    const [inputs, outputs, counts] = [64, 512, [2100, 0, 300]];
    const starts = indptrOf(counts);
    const count = starts.at(-1)!;
    const x = numbersOf(random, count * inputs, "bf16");
    const values = numbersOf(random, counts.length * outputs * inputs, "bf16");
    using input = Tensor.from(device, x, [count, inputs], "bf16");
    const shape = [counts.length, outputs, inputs];
    using weight = Weight.dense(Tensor.from(device, values, shape, "bf16"));
    using begins = Tensor.from(device, starts, [starts.length], "i32");
    using result = Tensor.empty(device, [count, outputs], "bf16");
    const run = () => matmul(input, weight, { groups: { starts: begins }, out: result });
    const [kernel] = launchesOf(device, run);
    // More multiprocessors take smaller tiles of so few rows.
    const isHopper = device.properties.computeMajor === 9;
    if (isHopper && device.processors < 100) expect(kernel).toBe("matmul_wide_bf16");
    const got = result.toFloat64Array();
    for (const [e, rows] of counts.entries()) {
      const first = starts[e];
      const wanted = expectedProduct({
        rows,
        inputs,
        outputs,
        weight: values.subarray(e * outputs * inputs, (e + 1) * outputs * inputs),
        x: x.subarray(first * inputs, (first + rows) * inputs),
      });
      const own = got.subarray(first * outputs, (first + rows) * outputs);
      expectProduct(own, wanted, "bf16", `expert ${e}`);
    }
  }, 600_000);

  test("rows that out names lie anywhere, or nowhere", async () => {
    await using device = await gpu!.open(1);
    const random = seeded(96);
    const names = new Set<string>();
    for (const [i, most] of [3, 11, 25, 60, 110, 1100, 150].entries())
      for (const dtype of ["bf16", "f16", "f8e4m3"] as const) {
        const isFp8 = dtype === "f8e4m3";
        const [inputs, outputs, gated] = [isFp8 ? 272 : 136, 256, i % 2 === 0];
        const starts = indptrOf([most, 0, Math.ceil(most / 2)]);
        const [experts, count, xRows] = [3, starts.at(-1)!, 40];
        const columns = gated ? outputs / 2 : outputs;
        const x = numbersOf(random, xRows * inputs, dtype);
        // Some name none of x's rows.
        const list = Int32Array.from({ length: count }, () => random.integer(-1, xRows));
        const held = isFp8 ? ({ dtype, scales: "all" } as const) : ({ dtype } as Held);
        const { weight, values } = heldWeight(device, random, held, [experts, outputs, inputs]);
        const worths = numbersOf(random, xRows, "f32");
        using input = Tensor.from(device, x, [xRows, inputs], dtype);
        using scales = isFp8 ? Tensor.from(device, worths, [xRows], "f32") : undefined;
        using begins = Tensor.from(device, starts, [experts + 1], "i32");
        using rows = Tensor.from(device, list, [count], "i32");
        using out = Tensor.zeros(device, [count, columns], isFp8 ? "bf16" : dtype);
        const groups = { starts: begins, rows };
        const run = () => matmul(input, weight, { groups, gated, scales, out });
        names.add(launchesOf(device, run)[0]);
        const got = out.toFloat64Array();
        for (let e = 0; e < experts; e++) {
          const own = list.subarray(starts[e], starts[e + 1]);
          const gathered = Array.from(own, (row) => {
            const there = row >= 0 && row < xRows;
            const values = there ? x.subarray(row * inputs, (row + 1) * inputs) : [];
            const worth = isFp8 && there ? worths[row] : 1;
            return Array.from({ length: inputs }, (_, k) => (values[k] ?? 0) * worth);
          });
          const wanted = expectedProduct({
            rows: own.length,
            inputs,
            outputs,
            gated,
            cut: isFp8,
            x: Float64Array.from(gathered.flat()),
            weight: values.subarray(e * outputs * inputs, (e + 1) * outputs * inputs),
          });
          const part = got.subarray(starts[e] * columns, starts[e + 1] * columns);
          expectProduct(part, wanted, out.dtype, `${dtype}, ${most} rows, expert ${e}`);
        }
        weight[Symbol.dispose]();
      }
    if (device.properties.computeMajor !== 9 || !device.properties.emulated) return;
    const kinds = [...names].map((name) => name.replace(/^matmul_(.*?)(_x\d)?$/, "$1"));
    const tokens = ["8", "16", "32", "64"];
    const wanted = tokens.flatMap((count) => [`gathered_${count}`, `gathered_e4m3_${count}`]);
    wanted.push("gathered_128", "wide_bf16", "wide_f16");
    expect(kinds).toEqual(expect.arrayContaining(wanted));
  }, 600_000);

  test("16-bit rows and weights in codes, of each kind", async () => {
    await using device = await gpu!.open(1);
    const random = seeded(94);
    const names = new Set<string>();
    for (const [i, held] of codes.entries())
      for (const rows of [3, 8, 21, 70])
        for (const gated of [false, true]) {
          const dtype = (["bf16", "f16"] as const)[(i + rows) % 2];
          const inputs = [256, 768, 1280][(i + rows) % 3];
          const c = { rows, inputs, outputs: [40, 136, 264][i % 3], dtype, held, gated } as const;
          names.add(check(device, { ...c, rest: rows === 21 }, random));
        }
    if (device.properties.computeMajor !== 9) return;
    for (const kind of ["u8_8", "u8_32", "i8_8", "i8_32", "fp8_8", "fp8_32"])
      expect([...names].some((name) => name.includes(`_${kind}_x`))).toBe(true);
  }, 600_000);

  test("fp8 rows and weights, of each kind of scales", async () => {
    await using device = await gpu!.open(1);
    const random = seeded(93);
    const names = new Set<string>();
    for (const rows of [3, 13, 30, 64, 500])
      for (const scales of ["all", "row", "block"] as const)
        for (const of of ["all", "output", "block"] as const)
          for (const gated of [false, true]) {
            const held: Held = { dtype: "f8e4m3", scales: of };
            const c = { rows, inputs: 272, outputs: 256, dtype: "f8e4m3", scales, held } as const;
            names.add(check(device, { ...c, gated, rest: rows === 30 }, random));
          }
    if (device.properties.computeMajor !== 9 || !device.properties.emulated) return;
    expect([...names].toSorted()).toContain("matmul_wide_e4m3");
    expect([...names].some((name) => name.startsWith("matmul_thin_e4m3_16"))).toBe(true);
  }, 600_000);
});
