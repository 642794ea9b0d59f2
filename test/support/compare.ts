import { type Expected, lseFloor } from "./tolerance.ts";

/** How far two arrays lie apart. */
export interface Difference {
  maxAbsolute: number;
  /** Largest difference relative to the expected array's RMS. */
  relative: number;
  /** 1 - cosine of the angle between them. */
  cosine: number;
  /** First index out of its limit (or not finite alike), or -1. */
  firstBad: number;
}

/** Compares with a limit for each row of `dim` elements; NaN and infinities must agree. */
export function difference(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  limits: ArrayLike<number>,
  dim: number,
): Difference {
  let maxAbsolute = 0;
  let firstBad = -1;
  let dot = 0;
  let squaresActual = 0;
  let squaresExpected = 0;
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i], expected[i]];
    const apart = a === e || (Number.isNaN(a) && Number.isNaN(e)) ? 0 : Math.abs(a - e);
    if (!(apart <= limits[Math.floor(i / dim)]) && firstBad < 0) firstBad = i;
    maxAbsolute = Math.max(maxAbsolute, apart);
    if (!Number.isFinite(e)) continue;
    dot += a * e;
    squaresActual += a * a;
    squaresExpected += e * e;
  }
  const rms = Math.sqrt(squaresExpected / expected.length);
  const norm = Math.sqrt(squaresActual * squaresExpected);
  return {
    maxAbsolute,
    relative: maxAbsolute === 0 ? 0 : maxAbsolute / rms,
    cosine: norm === 0 ? 0 : 1 - dot / norm,
    firstBad: actual.length === expected.length ? firstBad : expected.length,
  };
}

/** Index of a row-major array of that shape as coordinates. */
export function coordinates(index: number, shape: readonly number[]): number[] {
  const result: number[] = [];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    result.unshift(index % shape[axis]);
    index = Math.floor(index / shape[axis]);
  }
  return result;
}

/** Throws with all the figures unless outputs [token, head, dim] and LSEs [token, head] agree. */
export function expectState(
  actual: { out: ArrayLike<number>; lse?: ArrayLike<number> },
  expected: Pick<Expected, "out" | "lse" | "limits"> & { lseLimits?: Float64Array },
  heads: number,
  dim: number,
): Difference {
  const tokens = expected.lse.length / heads;
  const found = difference(actual.out, expected.out, expected.limits, dim);
  if (found.firstBad >= 0)
    throw mismatch("out", found, actual.out, expected.out, [tokens, heads, dim], expected.limits);
  if (actual.lse === undefined) return found;
  const limits = expected.lse.map((x, row) =>
    Number.isFinite(x) ? lseFloor * Math.max(1, Math.abs(x)) + (expected.lseLimits?.[row] ?? 0) : 0,
  );
  const lse = difference(actual.lse, expected.lse, limits, 1);
  if (lse.firstBad >= 0)
    throw mismatch("lse", lse, actual.lse, expected.lse, [tokens, heads], limits);
  return found;
}

function mismatch(
  what: string,
  found: Difference,
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  shape: number[],
  limits: ArrayLike<number>,
): Error {
  const at = found.firstBad;
  const limit = limits[Math.floor((at / expected.length) * limits.length)];
  return new Error(
    `${what}[${coordinates(at, shape)}] of [${shape}] is ${actual[at]}, not ${expected[at]} ` +
      `(limit ${limit.toExponential(2)}); max abs ${found.maxAbsolute.toExponential(3)}, ` +
      `relative ${found.relative.toExponential(3)}, 1 - cosine ${found.cosine.toExponential(3)}`,
  );
}
