/** A small seeded generator (splitmix32) for property tests: same seed, same cases. */
export interface Random {
  readonly seed: number;
  /** Uniform in [0, 1). */
  next(): number;
  /** Uniform integer in [least, most]. */
  integer(least: number, most: number): number;
  /** One of the given values. */
  pick<T>(values: readonly T[]): T;
  /** True with the given probability. */
  chance(probability: number): boolean;
  /** N(0, 1) by Box-Muller. */
  normal(): number;
}

export function seeded(seed: number): Random {
  let state = seed | 0;
  const next = (): number => {
    state = (state + 0x9e3779b9) | 0;
    let z = state ^ (state >>> 16);
    z = Math.imul(z, 0x21f0aaad);
    z ^= z >>> 15;
    z = Math.imul(z, 0x735a2d97);
    return ((z ^ (z >>> 15)) >>> 0) / 4294967296;
  };
  return {
    seed,
    next,
    integer: (least, most) => least + Math.floor(next() * (most - least + 1)),
    pick: (values) => values[Math.floor(next() * values.length)]!,
    chance: (probability) => next() < probability,
    normal: () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()),
  };
}

/**
 * Runs `body` for `cases` seeds from `first`; a failure names the seed, and `SEED=n` replays only
 * that one.
 */
export function forSeeds(cases: number, body: (random: Random) => void, first = 1): void {
  const replay = process.env["SEED"];
  const seeds = replay === undefined ? cases : 1;
  for (let i = 0; i < seeds; i++) {
    const seed = replay === undefined ? first + i : Number(replay);
    try {
      body(seeded(seed));
    } catch (cause) {
      throw new Error(`failed with SEED=${seed}: ${(cause as Error).message}`, { cause });
    }
  }
}
