/** What vector hooks do, by hand. */
import { hostTensor, type HostTensor } from "./variants.ts";

/** Cosines and sines, [positions, pairs, 2]. */
export function turns(positions: number, pairs: number) {
  return hostTensor([positions, pairs, 2], (i) => {
    const pair = (i >> 1) % pairs;
    const angle = Math.floor(i / (2 * pairs)) * 1e4 ** (-pair / pairs);
    return Math.fround(i % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
  });
}

/** A vector whose pairs (i, i + pairs) are turned at a position. */
export function turn(x: Float64Array, table: Float64Array, position: number, pairs: number) {
  const result = x.slice();
  for (let pair = 0; pair < pairs; pair++) {
    const at = (position * pairs + pair) * 2;
    const [a, b, cos, sin] = [x[pair], x[pair + pairs], table[at], table[at + 1]];
    result[pair] = a * cos - b * sin;
    result[pair + pairs] = b * cos + a * sin;
  }
  return result;
}

/** A row over the root of its mean square, times weights. */
export function normalised(x: Float64Array, weights: Float64Array): Float64Array {
  const square = x.reduce((sum, value) => sum + value * value, 0) / x.length;
  return x.map((value, d) => (value / Math.sqrt(square + 1e-6)) * weights[d]);
}

/** A row times the matrix of a head, [heads, rows, columns], and what it leaves of the row. */
export function times(x: Float64Array, matrix: HostTensor, head: number): Float64Array {
  const { data, shape } = matrix;
  const [rows, columns] = shape.slice(-2);
  const rest = x.subarray(rows);
  const result = new Float64Array(columns + rest.length);
  result.set(rest, columns);
  let at = shape.length === 3 ? head * rows * columns : 0;
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) result[j] += x[i] * data[at++];
  return result;
}
