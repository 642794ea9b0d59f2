import { roundTo, type DType } from "../../src/tensor/dtype.ts";
import type { Activation } from "../../src/ops/matmul-options.ts";

/** What a product is made of, in f64: x [rows, inputs], weight [outputs, inputs]. */
export interface Product {
  rows: number;
  inputs: number;
  outputs: number;
  x: Float64Array;
  weight: Float64Array;
  bias?: Float64Array;
  residual?: Float64Array;
  activation?: Activation;
  gated?: boolean;
  /** Hopper's tensor cores multiply fp8: they cut sums off. */
  cut?: boolean;
  /** The CPU rounds x beside codes: each 32 inputs to 16 bits of their largest. */
  whole?: boolean;
}

/** What a product should be, and how far sums in f32 may lie from it, element by element. */
export interface ExpectedProduct {
  out: Float64Array;
  limits: Float64Array;
}

/** Unit roundoff of f32; of sums in an order that nobody knows. */
const unit = 2 ** -23;

/** The product in f64. */
export function expectedProduct(product: Product): ExpectedProduct {
  const { rows, outputs, bias, residual, activation = "none", gated = false } = product;
  const columns = gated ? outputs / 2 : outputs;
  const out = new Float64Array(rows * columns);
  const limits = new Float64Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const at = row * columns + column;
      const gate = sumOf(product, row, column, bias);
      let value = activate(activation, gate.sum);
      // No activation is steeper than 1.13; 3e-7 of an argument is what the approximations lose.
      let limit = 1.13 * gate.limit + 3e-7 * Math.abs(gate.sum);
      if (gated) {
        const up = sumOf(product, row, column + columns, bias);
        limit = limit * (Math.abs(up.sum) + up.limit) + Math.abs(value) * up.limit;
        value *= up.sum;
      }
      out[at] = value + (residual?.[at] ?? 0);
      limits[at] = limit + unit * (Math.abs(value) + Math.abs(out[at]));
    }
  }
  return { out, limits };
}

function sumOf(product: Product, row: number, output: number, bias?: Float64Array) {
  const { inputs, x, weight } = product;
  let sum = 0;
  let magnitude = 0;
  let lost = 0;
  let start = 0;
  let largest = 0;
  for (let k = 0; k < inputs; k++) {
    // Each 128 inputs begin at 0, each 32 are added at once.
    if (k % 128 === 0) start = sum;
    if (k % 32 === 0) largest = Math.abs(sum - start);
    const term = x[row * inputs + k] * weight[output * inputs + k];
    sum += term;
    magnitude += Math.abs(term);
    largest = Math.max(largest, Math.abs(term));
    // What lies 13 bits below the largest, of 32 products, the sum before and the sum after.
    if (k % 32 === 31 || k === inputs - 1) lost += 34 * 2 ** -13 * largest;
  }
  sum += bias?.[output] ?? 0;
  const rounded = product.whole === true ? roundedAway(product, row, output) : 0;
  // Rounding errors of a long sum are a random walk: their bound is some deviations of it.
  const cut = product.cut === true ? lost : 0;
  const limit =
    cut + rounded + unit * magnitude * (2 + Math.sqrt(inputs) / 8) + unit * Math.abs(sum);
  return { sum, limit };
}

/** What a sum loses at most where whole numbers up to 32639 stand for x, by groups of 32. */
function roundedAway({ inputs, x, weight }: Product, row: number, output: number): number {
  let lost = 0;
  for (let k = 0; k < inputs; k += 32) {
    let largest = 0;
    let factors = 0;
    for (let i = k; i < Math.min(k + 32, inputs); i++) {
      largest = Math.max(largest, Math.abs(x[row * inputs + i]));
      factors += Math.abs(weight[output * inputs + i]);
    }
    lost += (factors * largest) / (2 * 32639);
  }
  return lost;
}

function activate(activation: Activation, x: number): number {
  switch (activation) {
    case "none":
      return x;
    case "silu":
      return x / (1 + Math.exp(-x));
    case "gelu":
      return x * normalDistribution(x);
    case "gelu-tanh":
      return 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)));
  }
}

/** By its series, or its continued fraction far out. */
function normalDistribution(x: number): number {
  const z = Math.abs(x);
  const density = Math.exp((-z * z) / 2) / Math.sqrt(2 * Math.PI);
  if (z > 5) {
    let tail = z;
    for (let k = 60; k > 0; k--) tail = z + k / tail;
    return x < 0 ? density / tail : 1 - density / tail;
  }
  let term = z;
  let sum = z;
  for (let k = 3; k < 200; k += 2) sum += term *= (z * z) / k;
  return x < 0 ? 0.5 - density * sum : 0.5 + density * sum;
}

/** Throws unless each number lies within its limit and the rounding to its dtype. */
export function expectProduct(
  got: Float64Array,
  { out, limits }: ExpectedProduct,
  dtype: DType,
  what: string,
): void {
  const rounding = { f32: 0, f16: 2 ** -11, bf16: 2 ** -8 }[dtype as "f32" | "f16" | "bf16"];
  const floor = dtype === "f16" ? 2 ** -25 : 0;
  const largest = roundTo(dtype, out);
  for (let i = 0; i < out.length; i++) {
    if (Object.is(got[i], largest[i])) continue;
    const limit = limits[i] + 1.01 * rounding * (Math.abs(out[i]) + limits[i]) + floor;
    const apart = Math.abs(got[i] - out[i]);
    if (!(apart <= limit))
      throw new Error(`${what}: [${i}] is ${got[i]}, not ${out[i]} +- ${limit}`);
  }
}
