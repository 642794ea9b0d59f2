import { type DType, isFp8, roundTo } from "../../src/tensor/dtype.ts";
import { oracle, type OracleInput, type OracleResult } from "./oracle.ts";

/**
 * What an implementation may err, by output dtype, relative to the RMS of the output row, beyond
 * twice the error of a naive implementation that rounds where the kernels say they round. The floor
 * stands for f32 sums, f32 exponentials and the tables of rotations.
 */
export const floors: Partial<Record<DType, number>> = {
  f32: 2e-5,
  f16: 4e-5,
  bf16: 1e-4,
  f8e4m3: 1e-4,
  f8e5m2: 1e-4,
};

/** What a log-sum-exp may err: absolute below 1, relative above. */
export const lseFloor = 2e-5;

/**
 * What functions of variants err on the CPU at most, in f32's epsilons (2 ** -23) relative to the
 * result, of sine and cosine to 1; measured at the worst of all levels in what is noted beside it.
 */
export const functionErrors = {
  exp: { epsilons: 1, from: -87, to: 88 }, // 0.77
  log: { epsilons: 2, from: 1e-44, to: 3e38 }, // 1.77
  tanh: { epsilons: 3, from: -20, to: 20 }, // 2.61, from 1e-30 on
  sigmoid: { epsilons: 1.5, from: -80, to: 80 }, // 1.14
  sqrt: { epsilons: 0.51, from: 1e-37, to: 1e38 }, // 0.50
  rsqrt: { epsilons: 1, from: 1e-37, to: 1e38 }, // 0.74
  sin: { epsilons: 1, from: -1e6, to: 1e6 }, // 0.80, and 0.94 up to 1e9
  cos: { epsilons: 1, from: -1e6, to: 1e6 }, // 0.84, and 0.94 up to 1e9
  pow: { epsilons: 0.51, from: 1e-20, to: 1e20 }, // 0.50, of exponents -1.75 to 1.75
} as const;

/** The truth and what each output row may differ from it. */
export interface Expected extends OracleResult {
  /** [queries * queryHeads] */
  limits: Float64Array;
  /**
   * [queries * queryHeads]: what log-sum-exps may differ beyond lseFloor: twice the naive's worst,
   * or five deviations of what rounded transforms make of them: of few rows one draw may be small.
   */
  lseLimits: Float64Array;
}

/** A unit in the last place, relative to the smallest number of its binade. */
const roundings: Partial<Record<DType, number>> = {
  f16: 2 ** -10,
  bf16: 2 ** -7,
  f8e4m3: 2 ** -3,
};

/**
 * The oracle's answer with the limits of the table. CPU kernels work in f32 and round only outputs;
 * for others the input says where they round. Probabilities are rounded relative to whatever
 * maximum a kernel knows by then, so a naive rounding of one row says little of another: they may
 * err by what rounding each of them can do at most.
 */
export function expectedOf(input: OracleInput, outDtype: DType): Expected {
  const { probabilities, products, ...others } = input.rounding ?? {};
  const exact = oracle({ ...input, rounding: products === undefined ? undefined : { products } });
  const inBase = input.lseBase === "2" ? Math.LOG2E : 1;
  const productsError = (products ?? 0) * exact.scoreMagnitude * inBase;
  // Numbers beyond the largest of fp8 become it.
  if (isFp8(outDtype)) {
    const most = roundTo(outDtype, [Infinity])[0];
    exact.out.forEach((x, i) => (exact.out[i] = Math.max(-most, Math.min(most, x))));
  }
  const naive =
    input.rounding === undefined
      ? { out: roundTo(outDtype, exact.out), lse: exact.lse }
      : oracle({ ...input, rounding: { ...others, output: outDtype } });
  const dim = input.outDim ?? input.valueDim;
  // Without softmax a weight is a score: of one near 0, whose terms cancel, f32 keeps little.
  const limits = limitsOf(exact.out, naive.out, dim, outDtype, exact.weightErrors);
  if (probabilities !== undefined) {
    const part = roundings[probabilities]! / 2;
    for (let row = 0; row < limits.length; row++)
      if (exact.magnitudes[row] < Infinity) limits[row] += part * exact.magnitudes[row];
  }
  const worst = naive.lse.reduce((most, lse, row) => {
    return Number.isFinite(lse) ? Math.max(most, 2 * Math.abs(lse - exact.lse[row])) : most;
  }, 0);
  const { spreads } = "spreads" in naive ? naive : exact;
  const lseLimits = spreads.map((spread) => Math.max(worst, 5 * spread) + productsError);
  return { ...exact, limits, lseLimits };
}

/**
 * By row, of finite elements: twice the naive error plus the floor times the row's RMS, or, if that
 * is more, plus what its sums may err.
 */
export function limitsOf(
  exact: Float64Array,
  naive: Float64Array,
  dim: number,
  outDtype: DType,
  sums?: Float64Array,
): Float64Array {
  const limits = new Float64Array(exact.length / dim);
  for (let row = 0; row < limits.length; row++) {
    let squares = 0;
    let worst = 0;
    for (let i = row * dim; i < (row + 1) * dim; i++) {
      if (!Number.isFinite(exact[i]) || !Number.isFinite(naive[i])) continue;
      squares += exact[i] ** 2;
      worst = Math.max(worst, Math.abs(naive[i] - exact[i]));
    }
    const floor = floors[outDtype]! * Math.sqrt(squares / dim);
    limits[row] = 2 * worst + Math.max(floor, sums?.[row] ?? 0);
  }
  return limits;
}
