/** Ranks that have parts of the keys of every request say what one rank says. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import golden from "../models/families-golden.json";
import { goldenModels, writeModel } from "../support/families.ts";
import { askRanks, startRanks } from "../support/ranks.ts";
import { naiveGreedy, tinyModel, type TinyShape, writeFolder } from "../support/tiny-llama.ts";

const seconds = 240_000;
const folder = mkdtempSync(join(tmpdir(), "flashbun-rank-context-"));
afterAll(() => rmSync(folder, { recursive: true }));
const shape: TinyShape = {
  layers: 2,
  hidden: 64,
  intermediate: 96,
  queryHeads: 8,
  kvHeads: 2,
  headDim: 8,
  context: 256,
  tied: false,
};
const model = tinyModel(1, shape);
const path = writeFolder(join(folder, "tiny"), model);
/** Prompts of one token, fewer than there are ranks, in several chunks, that begin alike. */
const prompts = [
  [100],
  [3, 4],
  [3, 4, 5, 6, 7],
  Array.from({ length: 90 }, (_, i) => 7 + i),
  Array.from({ length: 61 }, (_, i) => 7 + i),
];
const requestOf = (tokens: readonly number[]) => {
  return { tokens, maxTokens: 12, ignoreEnd: true, sampling: { temperature: 0 } };
};

describe("keys of each request lie on several ranks", () => {
  const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 12));

  test("logits are further apart than sums in another order move them", () => {
    expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(1e-3);
  });

  test.each([
    [2, { pages: 64, pageSize: 4, tokenBudget: 8, maxBatch: 3 }],
    [4, { pages: 64, pageSize: 4, tokenBudget: 8, maxBatch: 3 }],
    [2, { pages: 64, pageSize: 1, tokenBudget: 512, maxBatch: 8 }],
    // Pages for two of the requests, which lose them to others and compute them again.
    [2, { pages: 15, pageSize: 4, tokenBudget: 64, maxBatch: 5 }],
    [8, { pages: 8, pageSize: 2, tokenBudget: 16, maxBatch: 2 }],
  ])(
    "%i ranks, %j",
    async (tp, options) => {
      const ask = { options: { ...options, dcp: tp }, inTurn: false };
      const { answers, left } = await askRanks(tp, path, prompts.map(requestOf), ask);
      expect(answers.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens));
      expect(left).toBe(0);
    },
    seconds,
  );

  test(
    "together they hold a context that the pages of one cannot",
    async () => {
      const options = { pages: 30, pageSize: 4, tokenBudget: 64, maxBatch: 2 };
      const request = { ...requestOf(Array.from({ length: 140 }, (_, i) => 3 + i)), maxTokens: 40 };
      const one = await startRanks(1, path, [request], { options });
      expect(one.stderr).toContain("pages must be at least the");
      const whole = await askRanks(1, path, [request], { options: { ...options, pages: 64 } });
      const two = await askRanks(2, path, [request], { options: { ...options, dcp: 2 } });
      expect(two.answers[0].tokens).toEqual(whole.answers[0].tokens);
      expect(two.answers[0].tokens.length).toBe(40);
    },
    seconds,
  );
});

test.each(["qwen3", "qwen3_moe", "phi3"])(
  "%s, as transformers has it",
  async (name) => {
    const { prompt } = golden;
    const { tokens: expected } = goldenModels[name];
    const options = { pages: 32, pageSize: 4, tokenBudget: 7, maxBatch: 3, dcp: 2 };
    const request = { ...requestOf(prompt), maxTokens: expected.length };
    const { answers } = await askRanks(2, writeModel(folder, name), [request], { options });
    expect(answers[0].tokens).toEqual([...expected]);
  },
  seconds,
);

test.each([
  [
    "gemma2",
    { dcp: 2 },
    "CommError: dcp splits the keys of full attention, and this model has win",
  ],
  [
    "deepseek2",
    { dcp: 2 },
    "CommError: dcp splits the keys of full attention, and this model has la",
  ],
  ["llama", { dcp: 4 }, "dcp must be 1 or 2, as many ranks as tp says (got 4)"],
])(
  "%s with %j is refused",
  async (name, options, says) => {
    const { code, stderr } = await startRanks(2, writeModel(folder, name), [], { options });
    expect(stderr).toContain(says);
    expect(code).not.toBe(0);
  },
  seconds,
);
