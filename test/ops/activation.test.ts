import { describe, expect, test } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import {
  type ActivationOptions,
  geluAndMul,
  geluTanhAndMul,
  siluAndMul,
} from "../../src/ops/activation.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { matmul } from "../../src/ops/matmul.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import { normals } from "../support/numbers.ts";
import { activations, erf, scaleOf } from "../support/operators.ts";
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

const ops = { silu: siluAndMul, gelu: geluAndMul, geluTanh: geluTanhAndMul };
const kinds = ["silu", "gelu", "geluTanh"] as const;

interface Case {
  kind: keyof typeof ops;
  /** Of the result. */
  shape: number[];
  dtype: DType;
  /** Of the up projection; "packed": behind the gate in each row. */
  up: DType | "packed";
  outDtype: DType;
  scaled?: "tensor" | "token" | undefined;
  gap: number;
}

/** Both halves in one row each. */
function packed(gate: Float64Array, up: Float64Array, dim: number): Float64Array {
  const all = new Float64Array(2 * gate.length);
  for (let at = 0; at < gate.length; at += dim) {
    all.set(gate.subarray(at, at + dim), 2 * at);
    all.set(up.subarray(at, at + dim), 2 * at + dim);
  }
  return all;
}

function check(device: Device, c: Case, random: Random): void {
  const { kind, shape, dtype, outDtype, gap } = c;
  const count = shape.reduce((product, size) => product * size, 1);
  const dim = shape.at(-1)!;
  // Some far from 0, where activations end.
  const gate = normals(random, count, dtype).map((x, i) => (i % 7 === 0 ? 16 * x : x));
  const up = normals(random, count, c.up === "packed" ? dtype : c.up);
  const wanted = gate.map((x, i) => activations[kind](x) * up[i]);
  const both = [...shape.slice(0, -1), 2 * dim];
  const first =
    c.up === "packed"
      ? spaced(device, packed(gate, up, dim), both, dtype, gap)
      : spaced(device, gate, shape, dtype, gap);
  const second = c.up === "packed" ? undefined : spaced(device, up, shape, c.up, gap);
  const output = unwritten(device, shape, outDtype, gap);
  using scale = c.scaled === "tensor" ? Tensor.from(device, [0.03], [1], "f32") : undefined;
  using tokenScales =
    c.scaled === "token" ? Tensor.zeros(device, shape.slice(0, -1), "f32") : undefined;
  const options: ActivationOptions = { out: output.view };
  if (second) options.up = second.view;
  if (scale) options.scale = scale;
  if (tokenScales) options.tokenScales = tokenScales;
  expect(ops[kind](first.view, options)).toBe(output.view);
  const scales = tokenScales?.toFloat64Array();
  scales?.forEach((value, row) => {
    const right = scaleOf(wanted.subarray(row * dim, (row + 1) * dim), largest[outDtype]!);
    expect(Math.abs(value / right - 1)).toBeLessThan(2e-5);
  });
  const scaleAt = (i: number) => scales?.[Math.floor(i / dim)] ?? (scale ? Math.fround(0.03) : 1);
  // Of the activation, in f32's units for numbers of this size.
  const slack = (i: number) => 1e-6 * Math.max(1, Math.abs(gate[i])) * Math.abs(up[i]);
  const at = JSON.stringify(c);
  expectClose(output.view.toFloat64Array(), wanted, outDtype, at, { scaleOf: scaleAt, slack });
  expectGapsKept(output);
  if (outDtype === dtype) {
    const axis = shape.length - 1;
    const out = second ? first.view : first.view.slice(axis, 0, dim);
    ops[kind](first.view, { ...options, out });
    expect(out.toBytes()).toEqual(output.view.toBytes());
    if (!second) expect(first.view.slice(axis, dim, 2 * dim).toFloat64Array()).toEqual(up);
  }
  free(first, second, output);
}

test("the oracle's erf is one", () => {
  for (const [x, value] of [
    [0, 0],
    [0.5, 0.5204998778130465],
    [-1, -0.8427007929497149],
    [2.9, 0.9999589021219005],
    [3.1, 0.9999883513426328],
  ])
    expect(Math.abs(erf(x) - value)).toBeLessThan(1e-13);
});

describe.each(await targetsHere())("activations on $name", (target) => {
  test("agree with f64, of any length, type and distance", async () => {
    await using device = await target.open(2);
    const random = seeded(81);
    const dims = [1, 7, 8, 33, 128, 1000, 1024, 1025, 2048, 4096, 8193, 14336];
    for (const [i, dim] of dims.entries()) {
      const dtype = numberTypes[i % 3];
      const shape = [dim > 4000 ? 2 : [1, 3, 17][i % 3], dim];
      const up = i % 2 === 0 ? "packed" : dtype;
      const gap = [0, 1, 8][(i >> 1) % 3];
      check(device, { kind: kinds[i % 3], shape, dtype, up, outDtype: dtype, gap }, random);
    }
    const shape = [2, 10_000];
    for (const scaled of ["token", "tensor"] as const)
      for (const up of ["packed", "bf16"] as const) {
        const c = { shape, dtype: "bf16", up, outDtype: "f8e4m3", scaled, gap: 0 } as const;
        check(device, { ...c, shape, kind: "silu" }, random);
      }
    // More rows than are split among blocks.
    const many = { shape: [130, 2056], dtype: "bf16", up: "packed", outDtype: "bf16" } as const;
    check(device, { ...many, shape: [130, 2056], kind: "silu", gap: 0 }, random);
  });

  test("random cases agree", async () => {
    await using device = await target.open(2);
    forSeeds(50, (random) => {
      const dtype = random.pick(numberTypes);
      const scaled = random.pick([undefined, "tensor", "token"] as const);
      const outDtype = scaled
        ? random.pick(["f8e4m3", "f8e5m2", "i8"] as const)
        : random.pick([dtype, ...numberTypes]);
      const up = random.pick(["packed", ...numberTypes] as const);
      const shape = shapeOf(random, random.integer(1, 1500), 20);
      const c = { kind: random.pick(kinds), shape, dtype, up, outDtype, scaled };
      check(device, { ...c, gap: random.integer(0, 9) }, random);
    });
  });

  test("far from 0 nothing is NaN, and NaN stays at its place", async () => {
    await using device = await target.open(1);
    const x = [1e30, -1e30, 88, -88, 200, -200, NaN, 0];
    using gate = Tensor.from(device, x, [8], "f32");
    using up = Tensor.from(device, new Array(8).fill(1), [8], "f32");
    for (const kind of kinds) {
      using out = ops[kind](gate, { up });
      const got = [...out.toFloat64Array()];
      expect(got[6]).toBeNaN();
      for (const at of [0, 2, 4])
        expect(Math.abs(got[at] / Math.fround(x[at]) - 1)).toBeLessThan(1e-6);
      for (const at of [1, 3, 5, 7]) expect(Math.abs(got[at])).toBeLessThan(1e-30);
    }
  });

  test("are those behind a product, on the CPU to the bit", async () => {
    await using device = await target.open(1);
    const values = Float64Array.from({ length: 400 }, (_, i) => (i - 200) / 25);
    using x = Tensor.from(device, values, [400, 1], "f32");
    using up = Tensor.from(
      device,
      values.map(() => 1),
      [400, 1],
      "f32",
    );
    using one = Weight.dense(Tensor.from(device, [1], [1, 1], "f32"));
    for (const kind of kinds) {
      using own = ops[kind](x, { up });
      const activation = kind === "geluTanh" ? "gelu-tanh" : kind;
      using behind = matmul(x, one, { activation });
      const product = behind.toFloat64Array();
      expectClose(own.toFloat64Array(), product, "f32", kind, { slack: 1e-6 });
      if (device.kind === "cpu") expect(own.toBytes()).toEqual(behind.toBytes());
    }
    using five = Tensor.from(device, [5, 1], [1, 2], "f32");
    const [got] = geluTanhAndMul(five).toFloat64Array();
    if (device.kind === "cpu") expect(got).toBe(5);
    else expect(got).toBeCloseTo(5, 5);
  });

  test("rows from a count of the device on are left alone, also in a graph", async () => {
    await using device = await target.open(1);
    for (const dim of [4, 9000]) {
      using x = Tensor.from(device, new Float64Array(6 * dim).fill(2), [3, 2 * dim], "bf16");
      using rowCount = Tensor.from(device, [2], [1], "i32");
      using out = Tensor.zeros(device, [3, dim], "bf16");
      using graph = device.capture(device.stream, () => siluAndMul(x, { out, rowCount }));
      graph.replay(device.stream);
      for (const column of [0, dim - 1])
        expect([...out.select(1, column).toFloat64Array()].map((y) => y > 3)).toEqual([
          true,
          true,
          false,
        ]);
    }
  });
});

test.each(await targetsHere())(
  "bad input is refused by name, and nothing is written, on $name",
  async (target) => {
    await using device = await target.open(1);
    const ones = onesOn(device);
    const x = ones([3, 8]);
    const wide = ones([4, 8]);
    const call =
      (gate: Tensor, options: ActivationOptions = {}) =>
      () =>
        siluAndMul(gate, options);
    expectRefused([
      ["gate", call(ones([3, 7]))],
      ["gate", call(ones([3, 8], "i32"))],
      ["gate", call(ones([8, 4]).permute(1, 0))],
      ["up", call(x, { up: ones([3, 4]) })],
      ["up", call(x, { up: ones([3, 8], "f8e4m3") })],
      ["out", call(x, { out: ones([3, 8]) })],
      ["out", call(x, { out: x.slice(1, 2, 6) })],
      ["out", call(wide.slice(0, 0, 3), { up: x, out: wide.slice(0, 1, 4) })],
      ["scale", call(x, { scale: ones([1]) })],
      ["tokenScales", call(x, { dtype: "i8", tokenScales: x.select(0, 0).slice(0, 0, 3) })],
      ["options.gate", call(x, { gate: x } as ActivationOptions)],
    ]);
    for (const tensor of [x, wide])
      expect(tensor.toFloat64Array().every((value) => value === 1)).toBe(true);
  },
);
