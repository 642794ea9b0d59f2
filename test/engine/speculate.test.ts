import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Drafter, Drafts } from "../../src/engine/drafter.ts";
import {
  Engine,
  type EngineOptions,
  type GeneratedToken,
  type GenerateOptions,
} from "../../src/engine/index.ts";
import { sweep } from "../support/deep.ts";
import { type Random, seeded } from "../support/random.ts";
import { PromptLookup } from "../../src/engine/prompt-lookup.ts";
import { naiveLogits, tinyModel, vocabularySize, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-speculate-"));
const model = tinyModel(9, { ...shape, context: 96, tied: false });
const path = writeFolder(folder, model);
const speculate = { method: "prompt-lookup", draftTokensMost: 4, ngramLeast: 1 } as const;
let plain: Engine;

beforeAll(async () => {
  plain = await Engine.load(path);
});

afterAll(async () => {
  await plain[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

/** Requests of every kind; the seed of each names it. */
function requestOf(random: Random, seed: number): GenerateOptions {
  const shared = Array.from({ length: 5 * random.integer(0, 5) }, (_, i) => (7 * i) % 200);
  const own = Array.from({ length: random.integer(1, 12) }, () =>
    random.integer(0, vocabularySize - 3),
  );
  const sampling = random.pick([
    { temperature: 0 },
    { temperature: 0, logprobs: 2 },
    { temperature: 1 },
    { temperature: 0.7, topK: 20, topP: 0.9, logprobs: 0 },
    { temperature: 1, presencePenalty: 0.5 },
    { temperature: 0, logitBias: { 65: 3 } },
  ]);
  return {
    tokens: [...shared, ...own],
    maxTokens: random.integer(1, 30),
    ignoreEnd: random.chance(0.5),
    sampling: { ...sampling, seed },
    ...(random.chance(0.2) && { stop: [random.pick(["a", "e", "01", " "])] }),
    ...(random.chance(0.2) && { stopTokens: [random.integer(0, 255)] }),
  };
}

interface Answer {
  readonly pieces: GeneratedToken[];
  readonly end: unknown[];
}

async function answerOf(engine: Engine, options: GenerateOptions): Promise<Answer> {
  const pieces: GeneratedToken[] = [];
  const generation = engine.generate(options);
  for await (const piece of generation) pieces.push(piece);
  const { finishReason, stopString, usage } = generation;
  return { pieces, end: [finishReason, stopString, usage.generatedTokens] };
}

/** Log-probabilities may differ in their last bits by how many rows stand beside theirs. */
function expectSame(answers: readonly Answer[], expected: readonly Answer[], seed: number): void {
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

/** Drafts that go on as the answers do, each token right with the given chance. */
function partlyRight(
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
      const right = Array.from({ length: count }, (_, i) => said[from + i] ?? 1);
      return { tokens: right.map((token) => (random.chance(rightness) ? token : token ^ 1)) };
    });
}

function expectNoLeaks(engine: Engine): void {
  const { pool, options } = engine.model.cache;
  const { requests, pagesUsed } = engine.stats();
  expect(requests).toBe(0);
  expect(pool.sequenceCount).toBe(0);
  expect(pagesUsed + pool.groups[0].allocator.freeCount).toBe(options.pages);
}

const engines: [string, EngineOptions][] = [
  ["by default", {}],
  ["prompts in chunks", { tokenBudget: 9, maxBatch: 5 }],
  ["with few pages", { pages: 40, pageSize: 4, maxBatch: 12 }],
  ["with pages of one token", { pageSize: 1, pages: 150 }],
];

for (const [name, options] of engines)
  sweep(
    `answers ${name} are those without drafts`,
    { slice: 4, whole: 60 },
    async (seed, cases) => {
      const sums = { drafted: 0, accepted: 0, cached: 0, preemptions: 0 };
      for (const rightness of [undefined, 0, 0.7, 1]) {
        await using engine = await Engine.load(path, { ...options, speculate });
        for (let i = 0; i < cases; i++) {
          const random = seeded(seed + i);
          const requests = Array.from({ length: 16 }, (_, each) => requestOf(random, each));
          const expected = await Promise.all(requests.map((each) => answerOf(plain, each)));
          const ids = expected.map(({ pieces }) => pieces.map(({ token }) => token));
          if (rightness !== undefined)
            partlyRight(random, engine.drafter!, new Map(ids.entries()), rightness);
          const answers = await Promise.all(requests.map((each) => answerOf(engine, each)));
          expectSame(answers, expected, seed + i);
          expectNoLeaks(engine);
        }
        const { draftedTokens, acceptedTokens, cachedTokens, preemptions } = engine.stats();
        sums.drafted += draftedTokens;
        sums.accepted += acceptedTokens;
        sums.cached += cachedTokens;
        sums.preemptions += preemptions;
        if (rightness === 0) expect(acceptedTokens).toBe(0);
        if (rightness === 1) expect(acceptedTokens / draftedTokens).toBeGreaterThan(0.9);
      }
      expect(sums.drafted).toBeGreaterThan(500);
      expect(sums.accepted).toBeGreaterThan(200);
      expect(sums.cached).toBeGreaterThan(0);
      if (name === "with few pages") expect(sums.preemptions).toBeGreaterThan(0);
    },
  );

test("sampled answers have the model's probabilities (chi-square, 1 in 10,000)", async () => {
  const prompt = [9, 80, 81, 9, 80];
  const requests = 3000;
  const keeps = 3;
  await using engine = await Engine.load(path, { speculate });
  // The likeliest token each time: right as often as the model says.
  engine.drafter!.draft = async (all) =>
    all.map(({ tokens }) => ({ tokens: [likeliest(tokens)[0].token] }));
  const known = new Map<string, { token: number; probability: number }[]>();
  const likeliest = (tokens: Iterable<number>) => {
    const ids = [...tokens];
    const key = ids.join();
    if (known.has(key)) return known.get(key)!;
    const logits = naiveLogits(model, ids).at(-1)!;
    const best = logits
      .map((logit, token) => ({ token, weight: Math.exp(logit) }))
      .sort((a, b) => b.weight - a.weight)
      .slice(0, keeps);
    const sum = best.reduce((total, { weight }) => total + weight, 0);
    known.set(
      key,
      best.map(({ token, weight }) => ({ token, probability: weight / sum })),
    );
    return known.get(key)!;
  };
  const counts = new Map<string, number>();
  const sampling = { temperature: 1, topK: keeps };
  await Promise.all(
    Array.from({ length: requests }, async (_, seed) => {
      const request = { tokens: prompt, maxTokens: 3, sampling: { ...sampling, seed } };
      const { pieces } = await answerOf(engine, { ...request, ignoreEnd: true });
      const key = pieces.map(({ token }) => token).join();
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }),
  );
  const { draftedTokens, acceptedTokens } = engine.stats();
  expect(draftedTokens).toBe(requests);
  expect(acceptedTokens).toBeGreaterThan(requests / 3);
  expect(acceptedTokens).toBeLessThan(requests);
  let [chiSquare, cells, seen] = [0, 0, 0];
  for (const a of likeliest(prompt))
    for (const b of likeliest([...prompt, a.token]))
      for (const c of likeliest([...prompt, a.token, b.token])) {
        const expected = requests * a.probability * b.probability * c.probability;
        const count = counts.get([a.token, b.token, c.token].join()) ?? 0;
        chiSquare += (count - expected) ** 2 / expected;
        seen += count;
        cells++;
      }
  expect([cells, seen]).toEqual([keeps ** 3, requests]);
  // The quantile of 0.9999 at 26 degrees of freedom.
  expect(chiSquare).toBeLessThan(61.7);
});

describe("prompt lookup", () => {
  const limits = { draftTokensMost: 4, ngramMost: 3, ngramLeast: 1 };
  const draftOf = async (tokens: number[], over = {}) => {
    const lookup = new PromptLookup({ ...limits, ...over });
    const [{ tokens: drafted }] = await lookup.draft([
      { generation: undefined as never, tokens: Int32Array.from(tokens) },
    ]);
    return drafted;
  };
  const cases: [string, number[], object, number[]][] = [
    ["what followed", [1, 2, 3, 4, 5, 6, 1, 2], {}, [3, 4, 5, 6]],
    ["the longest end counts", [7, 1, 2, 8, 1, 2, 9, 9, 7, 1, 2], {}, [8, 1, 2, 9]],
    ["of equal ones the last", [1, 2, 8, 1, 2, 9, 3, 1, 2], { ngramMost: 2 }, [9, 3, 1, 2]],
    ["no longer than asked for", [7, 1, 2, 8, 1, 2, 9, 9, 7, 1, 2], { ngramMost: 2 }, [9, 9, 7, 1]],
    ["past the end it repeats itself", [5, 1, 2, 1, 2], {}, [1, 2, 1, 2]],
    ["one token again and again", [3, 3, 3, 3], {}, [3, 3, 3, 3]],
    ["at the very start", [4, 6, 7, 4], {}, [6, 7, 4, 6]],
    ["nothing stood there before", [1, 2, 3], {}, []],
    ["too short an end", [1, 2, 3, 4, 3], { ngramLeast: 2 }, []],
    ["a single token", [1], {}, []],
  ];
  test.each(cases)("%s", async (_, tokens, over, expected) => {
    expect(await draftOf(tokens, over)).toEqual(expected);
  });

  test("is that of a search from the end by definition", async () => {
    const random = seeded(3);
    for (let i = 0; i < 500; i++) {
      const length = random.integer(1, 30);
      const tokens = Array.from({ length }, () => random.integer(0, 3));
      const ngramLeast = random.integer(1, 3);
      let expected: number[] = [];
      for (let n = 3; n >= ngramLeast && expected.length === 0; n--)
        for (let at = length - n - 1; at >= 0 && expected.length === 0; at--) {
          const end = tokens.slice(length - n);
          if (end.some((token, j) => tokens[at + j] !== token)) continue;
          const on = [...tokens];
          while (on.length < length + 4) on.push(on[at + n + on.length - length]);
          expected = on.slice(length);
        }
      expect(await draftOf(tokens, { ngramLeast })).toEqual(expected);
    }
  });
});

test("what is wrong is said", async () => {
  const wrong: [object, RegExp][] = [
    [{ speculate: {} }, /speculate\.method must be one of prompt-lookup/],
    [{ speculate: null }, /speculate must be/],
    [{ speculate: { method: "guess" } }, /method must be one of prompt-lookup.*"guess"/],
    [{ speculate: { ...speculate, draftTokensMost: 0 } }, /draftTokensMost must be an integer/],
    [{ speculate: { ...speculate, ngramMost: 0 } }, /ngramMost must be an integer/],
    [{ speculate: { ...speculate, ngramLeast: 4 } }, /ngramLeast must be .*1.*3/],
    [{ speculate: { ...speculate, surprise: 1 } }, /surprise/],
  ];
  for (const [options, said] of wrong)
    expect(await Engine.load(path, options as never).catch(String)).toMatch(said);
});
