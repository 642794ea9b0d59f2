import { test } from "bun:test";
import { type Random, seeded } from "./random.ts";

/** How many cases a sweep takes: a slice in every run of the tests, the whole in `check:deep`. */
export interface Sizes {
  readonly slice: number;
  readonly whole: number;
}

/**
 * A test over random cases of a seed: `body` gets it and how many to try. FLASHBUN_DEEP=1 tries
 * them all, SEED=n those of another seed.
 */
export function sweep(
  title: string,
  { slice, whole }: Sizes,
  body: (seed: number, cases: number) => Promise<void>,
): void {
  const seed = Number(process.env["SEED"] ?? 1);
  const isDeep = process.env["FLASHBUN_DEEP"] === "1";
  const cases = isDeep ? whole : slice;
  const minutes = isDeep ? 60 : 10;
  test(`${title}: ${cases} cases of SEED=${seed}`, () => body(seed, cases), minutes * 60_000);
}

/** A test over random cases, each from a seed of its own; a failure names it. */
export function sweepSeeds(title: string, sizes: Sizes, body: (random: Random) => void): void {
  sweep(title, sizes, async (first, cases) => {
    for (let seed = first; seed < first + cases; seed++) {
      try {
        body(seeded(seed));
      } catch (cause) {
        throw new Error(`failed with SEED=${seed}: ${(cause as Error).message}`, { cause });
      }
    }
  });
}

/**
 * A test over a list of cases, each of a seed of its own: `slice` of them, which the seed picks, or
 * each of them twice.
 */
export function sweepCases<C extends { name: string }>(
  title: string,
  list: readonly C[],
  slice: number,
  body: (c: C, seed: number) => void,
): void {
  const sizes = { slice: Math.min(slice, list.length), whole: 2 * list.length };
  sweep(title, sizes, async (first, count) => {
    const random = seeded(first);
    const drawn = list.map((c) => ({ c, place: random.next() }));
    const order = drawn.sort((a, b) => a.place - b.place).map(({ c }) => c);
    for (let i = 0; i < count; i++) {
      const [c, seed] = [order[i % list.length], first + i];
      try {
        body(c, seed);
      } catch (cause) {
        throw new Error(`${c.name}, seed ${seed}: ${(cause as Error).message}`, { cause });
      }
    }
  });
}
