import type { Device } from "../../src/device/device.ts";
import { type DType, encode, roundTo } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import { Weight } from "../../src/tensor/weight.ts";
import type { Random } from "./random.ts";

/** How a weight of the tests is held. */
export type Held =
  | { dtype: "f32" | "f16" | "bf16" }
  | { dtype: "f8e4m3" | "f8e5m2"; scales: "all" | "output" | "block" }
  | { dtype: "i8" | "u8"; group: 16 | 32 | 128; minimums: boolean };

/** A weight and what it is worth, [outputs, inputs]. */
export interface HeldWeight {
  weight: Weight;
  values: Float64Array;
}

/** Every way to hold a weight in codes. */
export const codes: readonly Held[] = [
  { dtype: "f8e4m3", scales: "all" },
  { dtype: "f8e4m3", scales: "output" },
  { dtype: "f8e4m3", scales: "block" },
  { dtype: "f8e5m2", scales: "output" },
  { dtype: "i8", group: 16, minimums: false },
  { dtype: "i8", group: 32, minimums: true },
  { dtype: "i8", group: 128, minimums: false },
  { dtype: "u8", group: 16, minimums: true },
  { dtype: "u8", group: 32, minimums: false },
  { dtype: "u8", group: 32, minimums: true },
  { dtype: "u8", group: 128, minimums: true },
];

/** A random weight [outputs, inputs] or [experts, outputs, inputs] around N(0, 1 / inputs). */
export function heldWeight(
  device: Device,
  random: Random,
  held: Held,
  shapeOf: readonly number[],
): HeldWeight {
  const rows = shapeOf.slice(0, -1);
  const inputs = shapeOf.at(-1)!;
  const outputs = rows.reduce((a, b) => a * b);
  const spread = 1 / Math.sqrt(inputs);
  if ("group" in held) return groupedWeight(device, random, held, rows, inputs);
  const scaled = "scales" in held;
  const values = numbersOf(random, outputs * inputs, held.dtype, scaled ? 1 : spread);
  const tensor = Tensor.from(device, values, shapeOf, held.dtype);
  if (!scaled) return { weight: Weight.dense(tensor), values };
  const blocks = [...rows.slice(0, -1), Math.ceil(rows.at(-1)! / 128), Math.ceil(inputs / 128)];
  const shape = { all: [1], output: rows, block: blocks }[held.scales];
  const count = shape.reduce((a, b) => a * b);
  const scales = numbersOf(random, count, "f32", spread);
  const worth = values.map((value, at) => {
    const [n, k] = [Math.floor(at / inputs), at % inputs];
    const block = Math.floor(n / 128) * blocks.at(-1)! + Math.floor(k / 128);
    return value * scales[{ all: 0, output: n, block }[held.scales]];
  });
  const weight = Weight.fp8(tensor, Tensor.from(device, scales, shape, "f32"));
  return { weight, values: worth };
}

function groupedWeight(
  device: Device,
  random: Random,
  { dtype, group, minimums }: Extract<Held, { group: number }>,
  rows: readonly number[],
  inputs: number,
): HeldWeight {
  const outputs = rows.reduce((a, b) => a * b);
  const [least, most] = dtype === "u8" ? [0, 15] : [-128, 127];
  const codesOf = Int32Array.from({ length: outputs * inputs }, () => random.integer(least, most));
  const shape = [...rows, inputs / group];
  const spread = 1 / Math.sqrt(inputs) / most;
  const scales = numbersOf(random, codesOf.length / group, "f16", spread);
  const added = minimums ? numbersOf(random, scales.length, "f16", 4 * spread) : undefined;
  const tensor =
    dtype === "i8"
      ? Tensor.from(device, codesOf, [...rows, inputs], "i8")
      : Tensor.fromBits(device, nibbles(codesOf), [...rows, inputs / 2], "u8");
  const offset = dtype === "u8" && !minimums ? 8 : 0;
  const values = Float64Array.from(codesOf, (code, at) => {
    const index = Math.floor(at / group);
    return (code - offset) * scales[index] + (added?.[index] ?? 0);
  });
  const tensorOf = (numbers: Float64Array) => Tensor.from(device, numbers, shape, "f16");
  const weight = Weight.grouped(tensor, tensorOf(scales), added && tensorOf(added));
  return { weight, values };
}

/** Codes of four bits as they are held: 32 in 16 bytes, the first 16 in the low halves. */
function nibbles(codes: Int32Array): Uint8Array {
  return Uint8Array.from({ length: codes.length / 2 }, (_, at) => {
    const first = Math.floor(at / 16) * 32 + (at % 16);
    return codes[first] | (codes[first + 16] << 4);
  });
}

/** N(0, scale) rounded to a dtype. */
export function numbersOf(
  random: Random,
  count: number,
  dtype: DType,
  scale = 1,
): Float64Array<ArrayBuffer> {
  return roundTo(
    dtype,
    Float64Array.from({ length: count }, () => scale * random.normal()),
  );
}

/** A tensor [rows, columns] whose rows lie `gap` elements apart, which are NaN. */
export function spaced(
  device: Device,
  values: Float64Array,
  rows: number,
  gap: number,
  dtype: DType,
) {
  const columns = values.length / rows;
  const all = new Float64Array(rows * (columns + gap)).fill(NaN);
  for (let row = 0; row < rows; row++)
    all.set(values.subarray(row * columns, (row + 1) * columns), row * (columns + gap));
  const bytes = new Uint8Array(all.length * (dtype === "f32" ? 4 : dtype.startsWith("f8") ? 1 : 2));
  encode(dtype, all, bytes);
  const memory = Tensor.fromBits(device, bytes, [rows, columns + gap], dtype);
  return { memory, view: memory.slice(1, 0, columns) };
}
