/** Sampling by its definition, in f64. */

/** Options of one row. */
export interface Filter {
  from?: "logits" | "probabilities";
  temperature?: number;
  topK?: number;
  topP?: number;
  minP?: number;
  order?: "topKFirst" | "joint";
}

/** What a row's filters keep. */
export interface Kept {
  /** Tokens by falling likelihood, of equal ones the first first. */
  readonly order: number[];
  /** By token, relative to the largest. */
  readonly weights: Float64Array;
  /** How many of the order are kept at least and at most, for sums that are off by rounding. */
  readonly least: number;
  readonly most: number;
}

/** How far sums of weights may be off, relative to the sum. */
const sumError = 2e-6;

export function keptOf(row: ArrayLike<number>, filter: Filter): Kept {
  const { from = "logits", temperature = 1, topP = 1, minP = 0, order: kind } = filter;
  const { topK = row.length } = filter;
  const isLogits = from === "logits";
  const nothing = isLogits ? -Infinity : 0;
  const x = Array.from(row, (value) =>
    Number.isNaN(value) || (!isLogits && value < 0) ? nothing : value,
  );
  const largest = Math.max(...x);
  const weights = Float64Array.from(x, (value) => {
    if (value === largest) return largest === nothing ? 0 : 1;
    return isLogits ? Math.exp((value - largest) / temperature) : value / largest;
  });
  const order = [...x.keys()].sort((a, b) => x[b] - x[a] || a - b);
  if (temperature === 0) return { order, weights, least: 1, most: 1 };
  const within = (slack: number) => {
    const heavy = order.filter((token) => weights[token] >= minP * (1 + slack)).length;
    const byK = Math.min(topK, heavy);
    if (topP === 1) return byK;
    const counted = kind === "joint" ? order : order.slice(0, byK);
    const total = counted.reduce((sum, token) => sum + weights[token], 0);
    let sum = 0;
    let count = 0;
    while (count < counted.length && sum < total * (topP - slack)) sum += weights[order[count++]];
    return Math.min(Math.max(count, 1), byK);
  };
  return { order, weights, least: within(sumError), most: within(-sumError) };
}

/** Philox 4x32 of ten rounds: number `index` of a seed and a position. */
export function philox(seed: bigint, position: bigint, purpose: number, index: number): number {
  let [x, y] = [BigInt(index >>> 2), BigInt(purpose)];
  let [z, w] = [position & 0xffffffffn, position >> 32n];
  let [low, high] = [seed & 0xffffffffn, seed >> 32n];
  for (let round = 0; round < 10; round++) {
    const a = x * 0xd2511f53n;
    const b = z * 0xcd9e8d57n;
    [x, y, z, w] = [(b >> 32n) ^ y ^ low, b & 0xffffffffn, (a >> 32n) ^ w ^ high, a & 0xffffffffn];
    low = (low + 0x9e3779b9n) & 0xffffffffn;
    high = (high + 0xbb67ae85n) & 0xffffffffn;
  }
  return Number([x, y, z, w][index & 3]);
}

/** The uniform number of Philox's bits. */
export function uniform(bits: number): number {
  return Math.min(Math.fround((bits >>> 1) * 2 ** -31 + 2 ** -32), 1 - 2 ** -24);
}

/** Which of the tokens wins the race, and by which factor it is ahead of the second. */
export function race(
  weights: (token: number) => number,
  tokens: readonly number[],
  seed: bigint,
  position: bigint,
  purpose = 0,
): { token: number; lead: number } {
  const scores = tokens.map((token) => {
    const v = uniform(philox(seed, position, purpose, token));
    return { token, score: weights(token) / -Math.log1p(-v) };
  });
  scores.sort((a, b) => b.score - a.score || a.token - b.token);
  const [first, second] = scores;
  return { token: first.token, lead: scores.length > 1 ? first.score / second.score : Infinity };
}

/**
 * How far counts are from what probabilities predict: Pearson's statistic less its mean, in
 * standard deviations. Bins of fewer than 5 expected draws are taken together.
 */
export function chiSquare(counts: ArrayLike<number>, probabilities: ArrayLike<number>): number {
  const total = Array.from(counts).reduce((a, b) => a + b, 0);
  let [statistic, bins] = [0, 0];
  let [restSeen, restExpected] = [0, 0];
  const add = (seen: number, expected: number) => {
    statistic += (seen - expected) ** 2 / expected;
    bins++;
  };
  for (let i = 0; i < counts.length; i++) {
    const expected = probabilities[i] * total;
    if (expected === 0 && counts[i] > 0) return Infinity;
    if (expected >= 5) add(counts[i], expected);
    else [restSeen, restExpected] = [restSeen + counts[i], restExpected + expected];
  }
  if (restExpected >= 5) add(restSeen, restExpected);
  const freedom = Math.max(1, bins - 1);
  // Wilson and Hilferty: the cube root of a mean of squares is nearly normal.
  const variance = 2 / (9 * freedom);
  return (Math.cbrt(statistic / freedom) - (1 - variance)) / Math.sqrt(variance);
}
