import { test } from "bun:test";

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
  const cases = process.env["FLASHBUN_DEEP"] === "1" ? whole : slice;
  test(`${title}: ${cases} cases of SEED=${seed}`, () => body(seed, cases), 600_000);
}
