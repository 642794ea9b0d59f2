/** Rows for tests of operators: tensors with gaps between them, and what results may err. */
import { expect } from "bun:test";
import type { Device } from "../../src/device/device.ts";
import { OptionError } from "../../src/errors.ts";
import type { DType } from "../../src/tensor/dtype.ts";
import { Tensor } from "../../src/tensor/tensor.ts";
import type { Random } from "./random.ts";

/** Types that operators compute with. */
export const numberTypes = ["f32", "f16", "bf16"] as const;

/** Largest number of the types that results are scaled to. */
export const largest: Partial<Record<DType, number>> = { f8e4m3: 448, f8e5m2: 57344, i8: 127 };

/** Half a unit in the last place of a dtype, relative; in f32 what sums lose besides. */
const roundings: Partial<Record<DType, number>> = {
  f32: 1e-6,
  f16: 2 ** -11,
  bf16: 2 ** -8,
  f8e4m3: 2 ** -4,
  f8e5m2: 2 ** -3,
  i8: 0,
};
/** Half the distance of the smallest numbers. */
const floors: Partial<Record<DType, number>> = {
  f32: 0,
  f16: 2 ** -25,
  bf16: 0,
  f8e4m3: 2 ** -10,
  f8e5m2: 2 ** -17,
  i8: 0.5,
};

/** A view of memory that has elements of nobody around each row, and between those of axis 0. */
export interface Spaced {
  memory: Tensor;
  view: Tensor;
  /** Elements of the memory that belong to nobody. */
  gaps: number[];
}

/** What lies in gaps. */
const filler = (dtype: DType) => (dtype === "i8" ? 77 : NaN);

/** `values` as a tensor of up to three axes, its rows `gap` elements apart, which hold NaN. */
export function spaced(
  device: Device,
  values: Float64Array,
  shape: readonly number[],
  dtype: DType,
  gap: number,
): Spaced {
  const dim = shape.at(-1)!;
  const inner = shape.length === 3 ? shape[1] : 1;
  const outer = shape.length === 1 ? 1 : shape[0];
  // Axis 1 is longer by one where there is a gap.
  const more = shape.length === 3 && gap > 0 ? 1 : 0;
  const wide = dim + gap;
  const all = new Float64Array(outer * (inner + more) * wide).fill(filler(dtype));
  const gaps = new Set(all.keys());
  for (let i = 0; i < outer * inner; i++) {
    const at = (Math.floor(i / inner) * (inner + more) + (i % inner)) * wide;
    all.set(values.subarray(i * dim, (i + 1) * dim), at);
    for (let element = at; element < at + dim; element++) gaps.delete(element);
  }
  const memory = Tensor.from(device, all, [outer, inner + more, wide], dtype);
  let view = memory.slice(2, 0, dim).slice(1, 0, inner);
  if (shape.length < 3) view = view.select(1, 0);
  if (shape.length === 1) view = view.select(0, 0);
  return { memory, view, gaps: [...gaps] };
}

/** A tensor of NaN with gaps. */
export function unwritten(device: Device, shape: readonly number[], dtype: DType, gap: number) {
  const count = shape.reduce((product, size) => product * size, 1);
  return spaced(device, new Float64Array(count).fill(NaN), shape, dtype, gap);
}

/** One to three axes around rows of `dim` elements; some have no rows. */
export function shapeOf(random: Random, dim: number, most = 40): number[] {
  const axes = random.integer(1, 3);
  if (axes === 1) return [dim];
  const rows = random.integer(0, most);
  return axes === 2 ? [rows, dim] : [Math.ceil(rows / 3), random.integer(1, 3), dim];
}

/** What of the results a computation in f32 may err besides one rounding, by element. */
export type Slack = number | ((index: number) => number);

/**
 * Throws unless each number that was stored, times its row's scale, is within one rounding of what
 * is wanted.
 */
export function expectClose(
  got: Float64Array,
  wanted: Float64Array,
  dtype: DType,
  at: string,
  { scaleOf = () => 1, slack = 0 }: { scaleOf?: (index: number) => number; slack?: Slack } = {},
): void {
  expect(got).toHaveLength(wanted.length);
  for (let i = 0; i < wanted.length; i++) {
    const scale = scaleOf(i);
    const extra = typeof slack === "number" ? slack : slack(i);
    const most = largest[dtype] ?? Infinity;
    const value = Math.max(dtype === "i8" ? -128 : -most, Math.min(most, wanted[i] / scale));
    const limit = Math.abs(value) * roundings[dtype]! * 1.01 + floors[dtype]! * 1.01;
    const error = Math.abs(got[i] - value);
    if (Object.is(got[i], wanted[i]) || error <= limit + extra / scale) continue;
    throw new Error(`${at}: element ${i} is ${got[i]}, wanted ${value}, limit ${limit}`);
  }
}

/** Checks that no element between rows was written. */
export function expectGapsKept({ memory, gaps }: Spaced): void {
  const all = memory.toFloat64Array();
  expect(gaps.filter((element) => !Object.is(all[element], filler(memory.dtype)))).toEqual([]);
}

/** Makes tensors of ones on a device, or on another one. */
export function onesOn(device: Device) {
  return (shape: readonly number[], dtype: DType = "f32", on = device): Tensor =>
    Tensor.from(on, new Array(shape.reduce((a, b) => a * b, 1)).fill(1), shape, dtype);
}

/** Each call is refused by an OptionError that names its option. */
export function expectRefused(calls: readonly [option: string, call: () => unknown][]): void {
  for (const [option, call] of calls) {
    let error: unknown;
    try {
      call();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(OptionError);
    expect({ option: (error as OptionError).option }).toEqual({ option });
  }
}

/** Frees what spaced() made. */
export function free(...all: readonly (Spaced | Tensor | undefined)[]): void {
  for (const each of all) {
    if (each === undefined) continue;
    ("memory" in each ? each.memory : each)[Symbol.dispose]();
  }
}
