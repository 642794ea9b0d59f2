/** Rows of the noise bank that hold keys and values. */
export const keyRows = 2048;

/** Rows of the query bank beyond the needles (one for each key row) that are plain noise. */
export const noiseRows = 512;

/** A well-mixed 32-bit hash of three integers. */
export function hash(a: number, b: number, c: number): number {
  let h = Math.imul(a, 0x9e3779b1) ^ Math.imul(b, 0x85ebca6b) ^ Math.imul(c, 0xc2b2ae35);
  h = Math.imul(h ^ (h >>> 16), 0x21f0aaad);
  h = Math.imul(h ^ (h >>> 15), 0x735a2d97);
  return (h ^ (h >>> 15)) >>> 0;
}

/**
 * Bank row of a token's key and value. Equal ids at equal positions have equal rows, as a model
 * gives equal K/V to equal prefixes: sharing pages is then exact.
 */
export function keyRow(token: number, position: number, layer: number): number {
  return hash(token, position, layer) % keyRows;
}

/**
 * Row of the query bank for the token at `position`. Every second query is a needle: the scaled key
 * of a token it sees, so that its output is nearly that token's value and a wrong page or position
 * shows. `window` is the number of visible positions, itself included.
 */
export function queryRow(
  tokens: Int32Array,
  position: number,
  layer: number,
  window: number,
): number {
  const h = hash(tokens[position] ^ 0x5bd1e995, position, layer);
  const rest = h >>> 1;
  if (h % 2 === 0) return keyRows + (rest % noiseRows);
  const target = position - (rest % Math.min(position + 1, window));
  return keyRow(tokens[target], target, layer);
}

/** The id that a request "generates" as its token number `index`. */
export function outputToken(seed: number, request: number, index: number): number {
  return hash(seed ^ 0x27d4eb2f, request, index) >>> 1;
}
