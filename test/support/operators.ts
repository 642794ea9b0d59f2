/** Definitions of the operators over rows, in f64, of one row. */

/** How a row is normalised. */
export interface NormDefinition {
  eps: number;
  weight: Float64Array;
  bias?: Float64Array | undefined;
  /** Added to the weight. */
  offset?: number;
  /** The mean is taken off first. */
  centered?: boolean;
}

/** (x - mean) / sqrt(variance + eps) * (weight + offset) + bias. */
export function normOf(x: Float64Array, definition: NormDefinition): Float64Array {
  const { eps, weight, bias, offset = 0, centered = false } = definition;
  const mean = centered ? x.reduce((sum, value) => sum + value, 0) / x.length : 0;
  const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / x.length;
  const deviation = Math.sqrt(variance + eps);
  return x.map((value, i) => {
    return ((value - mean) / deviation) * (weight[i] + offset) + (bias === undefined ? 0 : bias[i]);
  });
}

/** Applies a function to each row. */
export function byRow(
  x: Float64Array,
  dim: number,
  of: (row: Float64Array, index: number) => Float64Array,
): Float64Array {
  const all = new Float64Array(x.length);
  for (let row = 0; row * dim < x.length; row++)
    all.set(of(x.subarray(row * dim, (row + 1) * dim), row), row * dim);
  return all;
}

/** The scale that makes the largest magnitude `most`, at least the smallest normal f32. */
export function scaleOf(x: Float64Array, most: number): number {
  return Math.max(x.reduce((top, value) => Math.max(top, Math.abs(value)), 0) / most, 2 ** -126);
}

/** erf by its series below 3, by its continued fraction above: within 1e-13. */
export function erf(x: number): number {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z > 3) {
    let fraction = z;
    for (let n = 60; n >= 1; n--) fraction = z + n / 2 / fraction;
    return Math.sign(x) * (1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / fraction);
  }
  let term = x;
  let sum = x;
  for (let n = 1; n < 100; n++) {
    term *= (-x * x) / n;
    sum += term / (2 * n + 1);
  }
  return (2 / Math.sqrt(Math.PI)) * sum;
}

/** Activations of one number. */
export const activations = {
  silu: (x: number) => x / (1 + Math.exp(-x)),
  gelu: (x: number) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  geluTanh: (x: number) =>
    0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};
