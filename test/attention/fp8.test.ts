import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { attend } from "../../src/attention/attend.ts";
import { resolveOptions } from "../../src/attention/options.ts";
import { Device } from "../../src/device/device.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { normals } from "../support/numbers.ts";
import { seeded } from "../support/random.ts";

const [tokens, heads, dim] = [5, 4, 16];
const fp8 = "f8e4m3";

let device: Device;
beforeAll(async () => {
  device = await Device.open("cpu", { threads: 1 });
});
afterAll(() => device[Symbol.asyncDispose]());

function noise(seed: number, dtype: DType): Tensor {
  const numbers = normals(seeded(seed), tokens * heads * dim, dtype);
  return Tensor.from(device, numbers, [tokens, heads, dim], dtype);
}

function ones(shape: number[], dtype: DType = "f32"): Tensor {
  const count = shape.reduce((product, size) => product * size, 1);
  return Tensor.from(device, new Float64Array(count).fill(1), shape, dtype);
}

test("defaults beside fp8 queries", () => {
  const shape = { queryHeads: 4, kvHeads: 4, headDim: 16 };
  const queries = resolveOptions({ ...shape, dtype: fp8 });
  expect(queries).toMatchObject({ kvDtype: fp8, outDtype: "bf16", tokenScales: false });
  const keys = resolveOptions({ ...shape, dtype: "bf16", kvDtype: fp8 });
  expect(keys).toMatchObject({ outDtype: "bf16", tokenScales: true });
});

test("a scale is a factor of the queries, and a divisor of the outputs", () => {
  const [q, k, v] = [noise(1, fp8), noise(2, fp8), noise(3, fp8)];
  const halves = Tensor.from(device, new Float64Array(heads).fill(0.5), [heads], "f32");
  const bytes = (options: object) => attend(q, k, v, options).out.toBytes();
  expect(bytes({ qScale: halves })).toEqual(bytes({ qScale: 0.5 }));
  expect(bytes({ qScale: halves })).not.toEqual(bytes({}));
  const outputs = (options: object) =>
    attend(q, k, v, { outDtype: fp8, ...options }).out.toFloat64Array();
  // Numbers above the subnormal ones: those have fewer bits.
  const plain = outputs({}).map((x) => (Math.abs(x) < 2 ** -6 ? 0 : x));
  const quarters = outputs({ outScale: 0.25 }).map((x, i) => (plain[i] === 0 ? 0 : x));
  expect(quarters).toEqual(plain.map((x) => 4 * x));
  expect(plain.some((x) => x !== 0)).toBe(true);
});

describe("scales that do not fit are refused", () => {
  test.each<[string, DType, DType, () => object, string]>([
    ["of wide queries", "f32", "f32", () => ({ qScale: ones([heads]) }), "qScale must be a number"],
    ["of few tokens", fp8, "bf16", () => ({ qScale: ones([4, heads]) }), "qScale must be an f32"],
    ["of other heads", fp8, "bf16", () => ({ qScale: ones([3]) }), "qScale must be an f32 tensor"],
    ["in bf16", fp8, "bf16", () => ({ qScale: ones([4], "bf16") }), "qScale must be an f32 tensor"],
    ["of wide outputs", fp8, "bf16", () => ({ outScale: 2 }), "outScale must be left out beside"],
    ["of many outputs", fp8, fp8, () => ({ outScale: ones([4]) }), "outScale must be an f32"],
  ])("%s", (_, dtype, outDtype, scales, message) => {
    const [q, k] = [noise(1, dtype), noise(2, dtype)];
    expect(() => attend(q, k, k, { outDtype, ...scales() })).toThrow(message);
  });
});
