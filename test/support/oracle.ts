import { type DType, roundTo } from "../../src/tensor/dtype.ts";

/** Rotation of pairs of `2 * frequencies.length` elements of a head. */
export interface OracleRope {
  /** Radians a position, by pair. */
  frequencies: Float64Array;
  /** The first element that rotates. */
  first: number;
  /** True: pairs (0, 1), (2, 3) ... from there on; false: (i, i + pairs). */
  interleaved: boolean;
  /** Multiplies what turned of queries, default 1: as if its root did of queries and of keys. */
  factor?: number;
}

/** Where a real implementation rounds; without it everything is f64. */
export interface Rounding {
  /** Queries, keys and values as they come in. */
  inputs?: DType;
  /** Queries and keys after scaling and rotation, values after scaling: the transform stage. */
  transform?: DType;
  /** Probabilities relative to the row's maximum, before they meet the values. */
  probabilities?: DType;
  /** What sums of products err, relative to the sum of magnitudes; the oracle itself does not. */
  products?: number;
  output?: DType;
}

/** The place of a query row, as a variant's hooks get it. */
export interface OracleRow {
  /** Position in the sequence. */
  query: number;
  queryToken: number;
  queryIndex: number;
  request: number;
  head: number;
  kvHead: number;
  queryLength: number;
  kvLength: number;
}

/** The place of a key. */
export interface OracleKey {
  key: number;
  slot: number;
  kvHead: number;
}

/** What a variant does, hook by hook; one that is absent changes nothing. */
export interface OracleVariant {
  query?: (x: Float64Array, row: OracleRow) => ArrayLike<number>;
  key?: (x: Float64Array, key: OracleKey) => ArrayLike<number>;
  value?: (x: Float64Array, key: OracleKey) => ArrayLike<number>;
  /** Of a pair that is visible; without softmax the result is the weight. */
  logits?: (x: number, row: OracleRow, key: OracleKey) => number;
  /** Without softmax: what roundings of f32 make of such a weight at most; default 0. */
  logitsError?: (x: number, row: OracleRow, key: OracleKey) => number;
  mask?: (row: OracleRow, key: OracleKey) => boolean;
  /** Of a normalised row, with its log-sum-exp of base e. */
  output?: (x: Float64Array, row: OracleRow, lse: number) => ArrayLike<number>;
  /** False: weights are what logits gives. */
  softmax: boolean;
}

/** One request's attention with every option; arrays are row-major. */
export interface OracleInput {
  queryHeads: number;
  kvHeads: number;
  keyDim: number;
  valueDim: number;
  /** What a variant takes of a query, and gives of an output; default keyDim and valueDim. */
  queryDim?: number;
  outDim?: number;
  /** [queries, queryHeads, queryDim] */
  q: Float64Array;
  /** [keys, kvHeads, keyDim] and [keys, kvHeads, valueDim] */
  k: Float64Array;
  v: Float64Array;
  /** Factor of q.k; default 1 / sqrt(keyDim). */
  scale?: number;
  /** Position of each query; default bottom-right: the last `queries` of the keys' positions. */
  queryPositions?: ArrayLike<number>;
  /** Position of each key; default its place. Mask bits and `visible` go by places. */
  keyPositions?: ArrayLike<number>;
  /** Key positions <= the query's. */
  causal?: boolean;
  /** Key positions >= the query's - windowLeft; -1: all. */
  windowLeft?: number;
  softCap?: number;
  /** By query head: slope * (key position - query position) is added. */
  alibiSlopes?: ArrayLike<number>;
  /** By query head: a logit that only joins the denominator. */
  sinks?: ArrayLike<number>;
  /**
   * Bits, little-endian in a byte, [queries, keys] or, for the tail, [queries, queries]; `keys`: of
   * a row, if more than there are.
   */
  mask?: { bits: Uint8Array; mode: "all" | "tail"; keys?: number };
  /** Sparse layouts: what is kept at all. */
  visible?: (query: number, kvHead: number, key: number) => boolean;
  rope?: OracleRope;
  /** What queries must be multiplied by, and outputs divided. */
  qScale?: (query: number, head: number) => number;
  outScale?: number;
  /** What keys and values must be multiplied by. */
  kScale?: (kvHead: number, key: number) => number;
  vScale?: (kvHead: number, key: number) => number;
  lseBase?: "e" | "2";
  /** False: the raw state, without sinks. */
  finalize?: boolean;
  rounding?: Rounding;
  variant?: OracleVariant;
  /** What a variant's hooks get of the request: its index, first token, and keys' slots. */
  place?: { request: number; firstToken: number; slots: ArrayLike<number> };
}

export interface OracleResult {
  /** [queries, queryHeads, outDim] */
  out: Float64Array;
  /** [queries, queryHeads]; -Infinity where no key is visible, or all scores are -Infinity. */
  lse: Float64Array;
  /** [queries, queryHeads]: the largest sum of p |v| among the value's elements, if finite. */
  magnitudes: Float64Array;
  /** The largest sum of |q k| of any visible pair, as its score counts it. */
  scoreMagnitude: number;
  /** [queries * queryHeads]: standard deviation of the log-sum-exp, from rounding of transforms. */
  spreads: Float64Array;
  /**
   * [queries * queryHeads]: without softmax, what roundings of weights make of an output's
   * elements: five deviations of those of q.k, and all that those of hooks do at most; else 0.
   */
  weightErrors: Float64Array;
}

/**
 * Attention by its definition: for each query and head, all scores, a softmax, a weighted sum. NaN
 * and infinities go where arithmetic takes them from visible pairs; hidden pairs take part in
 * nothing. Slow and meant to be read; nothing else in the tests is the truth.
 */
export function oracle(input: OracleInput): OracleResult {
  const { queryHeads, kvHeads, keyDim, valueDim, rounding = {} } = input;
  const { queryDim = keyDim, outDim = valueDim, outScale = 1, variant = plainVariant } = input;
  const { queries, keys, group, position, keyPosition, rowAt, keyAt } = placesOf(input);
  const byRow = (hook: OracleVariant["query"]) =>
    hook && ((x: Float64Array, query: number, head: number) => hook(x, rowAt(query, head)));
  const byKey = (hook: OracleVariant["key"]) =>
    hook && ((x: Float64Array, key: number, head: number) => hook(x, keyAt(key, head)));
  const hooked = (x: Float64Array, heads: number, dim: number, hook: RowHook | undefined) =>
    changed(x, heads, dim, rounding.inputs, hook);
  const qs = hooked(input.q, queryHeads, queryDim, byRow(variant.query));
  const ks = hooked(input.k, kvHeads, keyDim, byKey(variant.key));
  const vs = hooked(input.v, kvHeads, valueDim, byKey(variant.value));
  const q = prepare(qs, queryHeads, keyDim, input, position);
  const keyRope = input.rope && { ...input.rope, factor: 1 };
  const k = prepare(ks, kvHeads, keyDim, { rope: keyRope, rounding }, keyPosition);
  const v = prepare(vs, kvHeads, valueDim, { rounding }, () => 0, input.vScale);
  const out = new Float64Array(queries * queryHeads * outDim);
  const rowsOf = () => new Float64Array(queries * queryHeads);
  const [lse, magnitudes, spreads, weightErrors] = [rowsOf(), rowsOf(), rowsOf(), rowsOf()];
  let scoreMagnitude = 0;
  const errors = rounding.transform && {
    q: variancesOf(prepare(qs, queryHeads, keyDim, { rope: input.rope }, position), q, rounding),
    k: variancesOf(prepare(ks, kvHeads, keyDim, { rope: keyRope }, keyPosition), k, rounding),
  };
  const keysOf = () => new Float64Array(keys);
  const [slopes, deviations, roundings, scores] = Array.from({ length: 4 }, keysOf);
  const seen: boolean[] = Array.from({ length: keys });
  for (let query = 0; query < queries; query++) {
    for (let head = 0; head < queryHeads; head++) {
      const row = query * queryHeads + head;
      const kvHead = Math.floor(head / group);
      for (let key = 0; key < keys; key++) {
        const [of, at] = [rowAt(query, head), keyAt(key, kvHead)];
        seen[key] =
          isVisible(input, query, kvHead, key, position(query), queries, keys) &&
          (variant.mask?.(of, at) ?? true);
        scores[key] = deviations[key] = roundings[key] = 0;
        if (!seen[key]) continue;
        const product = dot(q, row * keyDim, k, (key * kvHeads + kvHead) * keyDim, keyDim);
        const scale = (input.kScale?.(kvHead, key) ?? 1) * (input.qScale?.(query, head) ?? 1);
        const plainOf = (x: number) =>
          logit(input, x * scale, head, keyPosition(key) - position(query));
        const scoreOf = (x: number) => variant.logits?.(plainOf(x), of, at) ?? plainOf(x);
        scores[key] = scoreOf(product);
        if (errors !== undefined) slopes[key] = slopeOf(scoreOf, product);
        if (rounding.products === undefined && variant.softmax) continue;
        const sum = magnitudeOf(q, row * keyDim, k, (key * kvHeads + kvHead) * keyDim, keyDim);
        scoreMagnitude = larger(scoreMagnitude, sum * scale * (input.scale ?? keyDim ** -0.5));
        if (variant.softmax) continue;
        deviations[key] = slopeOf(scoreOf, product) * sum;
        roundings[key] = variant.logitsError?.(plainOf(product), of, at) ?? 0;
      }
      const sums = new Float64Array(valueDim);
      const result = variant.softmax
        ? softmaxRow(input, scores, seen, head, kvHead, v, sums)
        : sumRow(input, scores, seen, kvHead, v, sums);
      const target = out.subarray(row * outDim, (row + 1) * outDim);
      [lse[row], magnitudes[row]] = [result.lse, result.magnitude];
      const inBase = input.lseBase === "2" ? Math.LN2 : 1;
      const natural = result.lse * inBase;
      if (errors !== undefined && variant.softmax && Number.isFinite(natural)) {
        const weights = scores.map((x, i) => (seen[i] ? slopes[i] * Math.exp(x - natural) : 0));
        const of = (x: Float64Array) => x.subarray(row * keyDim, (row + 1) * keyDim);
        const planes = { k, variances: errors.k, kvHeads, kvHead };
        spreads[row] = spreadOf(of(q), of(errors.q), planes, weights) / inBase;
      }
      const { output } = input.finalize === false ? plainVariant : variant;
      const hook = (x: Float64Array) => output?.(x, rowAt(query, head), natural) ?? x;
      const steepest = (output === undefined ? 1 : steepness(hook, sums)) / outScale;
      magnitudes[row] *= steepest;
      if (!variant.softmax)
        weightErrors[row] = steepest * weightErrorOf(input, deviations, roundings, v, kvHead);
      target.set(hook(sums.slice()));
      for (let d = 0; d < outDim; d++) target[d] /= outScale;
    }
  }
  const rounded = rounding.output === undefined ? out : roundTo(rounding.output, out);
  return { out: rounded, lse, magnitudes, scoreMagnitude, spreads, weightErrors };
}

/** How much a score rises with a product. */
function slopeOf(scoreOf: (product: number) => number, product: number): number {
  const step = 1e-4 * Math.max(1, Math.abs(product));
  return (scoreOf(product + step) - scoreOf(product - step)) / (2 * step);
}

/** Half a unit in the last place, relative to the smallest number of its binade. */
const halves: Partial<Record<DType, number>> = { f16: 2 ** -11, bf16: 2 ** -8, f8e4m3: 2 ** -4 };

/**
 * Variances of what rounding makes of numbers, 0 of those that it leaves: an error lies anywhere
 * within half a unit in the last place.
 */
function variancesOf(
  exact: Float64Array,
  rounded: Float64Array,
  { transform }: Rounding,
): Float64Array {
  const half = halves[transform!] ?? 0;
  return rounded.map((x, i) => (x === exact[i] ? 0 : (half * x) ** 2 / 3));
}

/**
 * Standard deviation, to first order, of the sum over keys of `weights` times their product with a
 * query, both of whose elements err by variances.
 */
function spreadOf(
  q: Float64Array,
  qVariances: Float64Array,
  planes: { k: Float64Array; variances: Float64Array; kvHeads: number; kvHead: number },
  weights: Float64Array,
): number {
  const dim = q.length;
  const mean = new Float64Array(dim);
  let variance = 0;
  for (let key = 0; key < weights.length; key++) {
    // Neither what has no weight, nor what has none to speak of: NaN, of a score of -inf.
    if (!(Math.abs(weights[key]) > 0)) continue;
    const at = (key * planes.kvHeads + planes.kvHead) * dim;
    for (let d = 0; d < dim; d++) {
      mean[d] += weights[key] * planes.k[at + d];
      variance += (weights[key] * q[d]) ** 2 * planes.variances[at + d];
    }
  }
  for (let d = 0; d < dim; d++) variance += mean[d] ** 2 * qVariances[d];
  return Number.isFinite(variance) ? Math.sqrt(variance) : 0;
}

/**
 * Standard deviation of q.k in f32, relative to the sum of |q k|. Each rounding errs by at most
 * u = 2 ** -24 of what is summed by then, by a deviation of u / sqrt(3) of it; where that grows
 * evenly, n roundings make u * sqrt(n) / 3 of the whole. Kernels of the CPU sum 128 products in a
 * row, then add such sums up.
 */
function productDeviation(dim: number): number {
  return (2 ** -24 * Math.sqrt(Math.min(dim, 128) + dim / 128)) / 3;
}

/**
 * What the worst element of a sum of values errs by where weights do: their products apart from
 * each other, by `deviations` in units of that of q.k, their hooks perhaps all alike.
 */
function weightErrorOf(
  { keyDim, valueDim, kvHeads }: OracleInput,
  deviations: Float64Array,
  roundings: Float64Array,
  v: Float64Array,
  kvHead: number,
): number {
  let worst = 0;
  for (let d = 0; d < valueDim; d++) {
    let [variance, sum] = [0, 0];
    for (let key = 0; key < deviations.length; key++) {
      const value = v[(key * kvHeads + kvHead) * valueDim + d];
      variance += (deviations[key] * value) ** 2;
      sum += Math.abs(roundings[key] * value);
    }
    worst = larger(worst, 5 * productDeviation(keyDim) * Math.sqrt(variance) + sum);
  }
  return worst;
}

/** Where the rows and keys of a request stand. */
function placesOf({ q, k, place, queryHeads, kvHeads, keyDim, ...input }: OracleInput) {
  const queries = q.length / (queryHeads * (input.queryDim ?? keyDim));
  const keys = k.length / (kvHeads * keyDim);
  const group = queryHeads / kvHeads;
  const position = (query: number) => input.queryPositions?.[query] ?? keys - queries + query;
  const keyPosition = (key: number) => input.keyPositions?.[key] ?? key;
  const rowAt = (query: number, head: number): OracleRow => ({
    query: position(query),
    queryIndex: query,
    head,
    kvHead: Math.floor(head / group),
    queryLength: queries,
    kvLength: keys,
    request: place?.request ?? 0,
    queryToken: (place?.firstToken ?? 0) + query,
  });
  const keyAt = (key: number, kvHead: number): OracleKey => {
    return { key: keyPosition(key), kvHead, slot: place?.slots[key] ?? key };
  };
  return { queries, keys, group, position, keyPosition, rowAt, keyAt };
}

const plainVariant: OracleVariant = { softmax: true };

type RowHook = (x: Float64Array, token: number, head: number) => ArrayLike<number>;

/** What a hook makes of the rows of a tensor [tokens, heads, dim] as they come in. */
function changed(
  x: Float64Array,
  heads: number,
  dim: number,
  inputs: DType | undefined,
  hook: RowHook | undefined,
): Float64Array {
  const given = inputs === undefined ? x.slice() : roundTo(inputs, x);
  if (hook === undefined) return given;
  const rows = Array.from({ length: x.length / dim }, (_, row) =>
    hook(given.slice(row * dim, (row + 1) * dim), Math.floor(row / heads), row % heads),
  );
  return Float64Array.from(rows.flatMap((row) => [...(row as Float64Array)]));
}

/** How much an output hook enlarges errors of all elements, at most. */
function steepness(hook: (x: Float64Array) => ArrayLike<number>, row: Float64Array): number {
  const step = 1e-4;
  const before = hook(row.slice());
  const rises = new Float64Array(before.length);
  for (let i = 0; i < row.length; i++) {
    const after = hook(row.map((x, d) => (d === i ? x + step : x)));
    // None of what is not finite.
    rises.forEach((_, d) => (rises[d] += Math.abs(after[d] - before[d]) / step || 0));
  }
  return rises.reduce((most, rise) => (rise < Infinity && rise > most ? rise : most), 0);
}

/** Scales, rotates and rounds the rows of a tensor [tokens, heads, dim]. */
function prepare(
  x: Float64Array,
  heads: number,
  dim: number,
  { rope, rounding = {} }: Pick<OracleInput, "rope" | "rounding">,
  position: (token: number) => number,
  scale?: (head: number, token: number) => number,
): Float64Array {
  const result = x.slice();
  for (let row = 0; row < x.length / dim; row++) {
    const token = Math.floor(row / heads);
    const values = result.subarray(row * dim, (row + 1) * dim);
    if (scale !== undefined) {
      const factor = scale(row % heads, token);
      for (let d = 0; d < dim; d++) values[d] *= factor;
    }
    if (rope !== undefined) rotate(values, rope, () => position(token));
  }
  return rounding.transform === undefined ? result : roundTo(rounding.transform, result);
}

/** Turns a head in place, each pair by its position. */
export function rotate(
  head: Float64Array,
  rope: OracleRope,
  position: (pair: number) => number,
): void {
  const { frequencies, interleaved, factor = 1 } = rope;
  const x = head.subarray(rope.first);
  const pairs = frequencies.length;
  for (let pair = 0; pair < pairs; pair++) {
    const first = interleaved ? 2 * pair : pair;
    const second = interleaved ? 2 * pair + 1 : pair + pairs;
    const cos = factor * Math.cos(position(pair) * frequencies[pair]);
    const sin = factor * Math.sin(position(pair) * frequencies[pair]);
    const [a, b] = [x[first], x[second]];
    x[first] = a * cos - b * sin;
    x[second] = a * sin + b * cos;
  }
}

function isVisible(
  input: OracleInput,
  query: number,
  kvHead: number,
  key: number,
  position: number,
  queries: number,
  keys: number,
): boolean {
  const { causal = false, windowLeft = -1, mask, visible } = input;
  const at = input.keyPositions?.[key] ?? key;
  if (causal && at > position) return false;
  if (windowLeft >= 0 && at < position - windowLeft) return false;
  if (visible !== undefined && !visible(query, kvHead, key)) return false;
  if (mask === undefined) return true;
  const isTail = mask.mode === "tail";
  const width = isTail ? queries : (mask.keys ?? keys);
  const column = isTail ? key - (keys - width) : key;
  if (column < 0) return true;
  const bit = query * width + column;
  return ((mask.bits[bit >> 3] >> (bit & 7)) & 1) === 1;
}

function logit(input: OracleInput, product: number, head: number, distance: number): number {
  const { scale = 1 / Math.sqrt(input.keyDim), softCap = 0, alibiSlopes } = input;
  let x = product * scale;
  if (softCap > 0) x = softCap * Math.tanh(x / softCap);
  if (alibiSlopes !== undefined) x += alibiSlopes[head] * distance;
  return x;
}

/** Writes the row's output; returns its log-sum-exp and the largest sum of p |v|. */
function softmaxRow(
  input: OracleInput,
  scores: Float64Array,
  seen: readonly boolean[],
  head: number,
  kvHead: number,
  v: Float64Array,
  out: Float64Array,
): { lse: number; magnitude: number } {
  const { sinks, lseBase = "e", finalize = true } = input;
  const sink = finalize && sinks !== undefined ? sinks[head] : -Infinity;
  const visible = scores.filter((_, key) => seen[key]);
  const maximum = Math.max(sink, ...visible); // NaN, if one is
  if (maximum === -Infinity) return { lse: -Infinity, magnitude: 0 };
  // Where no key has a weight, a sink alone has: values count for nothing, as without keys.
  const inBase = lseBase === "2" ? Math.LN2 : 1;
  if (Number.isFinite(sink) && visible.every((score) => score === -Infinity))
    return { lse: sink / inBase, magnitude: 0 };
  const weights = scores.map((score, key) => (seen[key] ? Math.exp(score - maximum) : 0));
  const sum = weights.reduce((total, p) => total + p, Math.exp(sink - maximum));
  const { magnitude } = sumRow(input, weights, seen, kvHead, v, out);
  for (let d = 0; d < out.length; d++) out[d] /= sum;
  const lse = (maximum + Math.log(sum)) / inBase;
  return { lse, magnitude: magnitude / sum };
}

/** Writes a row's sum of weighted values: there is no log-sum-exp. */
function sumRow(
  { kvHeads, valueDim, rounding = {} }: OracleInput,
  scores: Float64Array,
  seen: readonly boolean[],
  kvHead: number,
  v: Float64Array,
  out: Float64Array,
): { lse: number; magnitude: number } {
  const { probabilities } = rounding;
  const weights = probabilities === undefined ? scores : roundTo(probabilities, scores);
  const sums = new Float64Array(valueDim);
  for (let key = 0; key < scores.length; key++) {
    if (!seen[key]) continue;
    const at = (key * kvHeads + kvHead) * valueDim;
    for (let d = 0; d < valueDim; d++) {
      out[d] += weights[key] * v[at + d];
      sums[d] += Math.abs(weights[key] * v[at + d]);
    }
  }
  return { lse: 0, magnitude: sums.reduce((most, x) => (x < Infinity && x > most ? x : most), 0) };
}

function dot(a: Float64Array, i: number, b: Float64Array, j: number, count: number): number {
  let sum = 0;
  for (let d = 0; d < count; d++) sum += a[i + d] * b[j + d];
  return sum;
}

/** The larger of two magnitudes, of those that are finite. */
function larger(a: number, b: number): number {
  return Math.abs(b) < Infinity && Math.abs(b) > a ? Math.abs(b) : a;
}

/** The sum of the products' magnitudes. */
function magnitudeOf(a: Float64Array, i: number, b: Float64Array, j: number, count: number) {
  let sum = 0;
  for (let d = 0; d < count; d++) sum += Math.abs(a[i + d] * b[j + d]);
  return sum;
}

/** Merges states [state][row, dim] over disjoint keys, in natural units. */
export function mergeOracle(
  states: readonly Pick<OracleResult, "out" | "lse">[],
  dim: number,
): Pick<OracleResult, "out" | "lse"> {
  const out = new Float64Array(states[0].out.length);
  const lse = new Float64Array(states[0].lse.length);
  for (let row = 0; row < lse.length; row++) {
    const maximum = Math.max(...states.map((state) => state.lse[row]));
    if (maximum === -Infinity) {
      lse[row] = -Infinity;
      continue;
    }
    const sum = states.reduce((total, state) => total + Math.exp(state.lse[row] - maximum), 0);
    lse[row] = maximum + Math.log(sum);
    for (const state of states) {
      if (state.lse[row] === -Infinity) continue; // whatever it holds
      const weight = Math.exp(state.lse[row] - lse[row]);
      for (let d = 0; d < dim; d++) out[row * dim + d] += weight * state.out[row * dim + d];
    }
  }
  return { out, lse };
}
