/** Answers of engines, and whether they are the same. */
import { expect } from "bun:test";
import type { Drafter, Drafts } from "../../src/engine/drafter.ts";
import type { Engine, GeneratedToken, GenerateOptions } from "../../src/engine/index.ts";
import type { Random } from "./random.ts";

/** What came of a request. */
export interface Answer {
  readonly pieces: GeneratedToken[];
  readonly end: unknown[];
}

/** Asks and reads to the end. */
export async function answerOf(engine: Engine, options: GenerateOptions): Promise<Answer> {
  const pieces: GeneratedToken[] = [];
  const generation = engine.generate(options);
  for await (const piece of generation) pieces.push(piece);
  const { finishReason, stopString, usage } = generation;
  return { pieces, end: [finishReason, stopString, usage.generatedTokens] };
}

/** Log-probabilities may differ in their last bits by how many rows stand beside theirs. */
export function expectSame(
  answers: readonly Answer[],
  expected: readonly Answer[],
  seed: number,
): void {
  const plainly = (all: readonly Answer[]) =>
    all.map(({ pieces, end }) => ({
      end,
      pieces: pieces.map(({ token, text, logProb }) => [
        token,
        text,
        logProb?.top.map((each) => each.token),
      ]),
    }));
  expect(plainly(answers), `SEED=${seed}`).toEqual(plainly(expected));
  const numbers = (all: readonly Answer[]) =>
    all.flatMap(({ pieces }) =>
      pieces.flatMap(({ logProb }) =>
        logProb ? [logProb.logProb, ...logProb.top.map((each) => each.logProb)] : [],
      ),
    );
  const [ours, theirs] = [numbers(answers), numbers(expected)];
  ours.forEach((value, i) => expect(Math.abs(value - theirs[i])).toBeLessThan(1e-4));
}

/** Drafts that go on as the answers do, each token right with the given chance: chains or trees. */
export function partlyRight(
  random: Random,
  drafter: Drafter,
  answers: ReadonlyMap<number, readonly number[]>,
  rightness: number,
): void {
  drafter.draft = async (requests) =>
    requests.map(({ generation, tokens }): Drafts => {
      const said = answers.get(generation.sampling.seed)!;
      const from = tokens.length - generation.prompt.length;
      const count = random.integer(0, drafter.draftsMost);
      if (drafter.hasBranches) {
        const parents: number[] = [];
        const depths = [0];
        const ids = Array.from({ length: count }, (_, i) => {
          const parent = random.integer(Math.max(0, i - 2), i);
          parents.push(parent);
          depths.push(depths[parent] + 1);
          const token = said[from + depths[parent]] ?? 1;
          return random.chance(rightness) ? token : token ^ 1;
        });
        return { tokens: ids, parents };
      }
      const right = Array.from({ length: count }, (_, i) => said[from + i] ?? 1);
      return { tokens: right.map((token) => (random.chance(rightness) ? token : token ^ 1)) };
    });
}

/** No request holds anything any more. */
export function expectNoLeaks(engine: Engine): void {
  const { pool, options } = engine.model.cache;
  const { requests, pagesUsed } = engine.stats();
  expect(requests).toBe(0);
  expect(pool.sequenceCount).toBe(0);
  expect(pagesUsed + pool.groups[0].allocator.freeCount).toBe(options.pages);
}
