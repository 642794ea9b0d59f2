/** Ranks that have parts of the keys of every request say what one rank says. */
import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import golden from "../models/families-golden.json";
import { answerOf } from "../support/answers.ts";
import { goldenModels, writeModel } from "../support/families.ts";
import { askRanks, refusedByRanks } from "../support/ranks.ts";
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

  const usual = { pages: 64, pageSize: 4, tokenBudget: 8, maxBatch: 3 };
  test.each<[number, object[]]>([
    [
      2,
      [
        usual,
        { pages: 64, pageSize: 1, tokenBudget: 512, maxBatch: 8 },
        // Pages for two of the requests, which lose them to others and compute them again.
        { pages: 15, pageSize: 4, tokenBudget: 64, maxBatch: 5 },
      ],
    ],
    [4, [usual]],
    [8, [{ pages: 8, pageSize: 2, tokenBudget: 16, maxBatch: 2 }]],
  ])(
    "%i ranks",
    async (tp, all) => {
      const requests = prompts.map(requestOf);
      const found = await askRanks(
        tp,
        all.map((options) => ({ path, requests, options: { ...options, dcp: tp } })),
      );
      const tokens = expected.map((each) => each.tokens);
      found.forEach(({ answers }, i) => {
        expect([all[i], answers.map((each) => each.tokens)]).toEqual([all[i], tokens]);
      });
    },
    seconds,
  );

  test(
    "together they hold a context that the pages of one cannot",
    async () => {
      const options = { pages: 30, pageSize: 4, tokenBudget: 64, maxBatch: 2 };
      const request = { ...requestOf(Array.from({ length: 140 }, (_, i) => 3 + i)), maxTokens: 40 };
      await using small = await Engine.load(path, options);
      expect(() => small.generate(request)).toThrow("pages must be at least the");
      await using engine = await Engine.load(path, { ...options, pages: 64 });
      const { pieces } = await answerOf(engine, request);
      const job = { path, requests: [request], options: { ...options, dcp: 2 } };
      const [two] = await askRanks(2, [job]);
      expect(two.answers[0].tokens).toEqual(pieces.map(({ token }) => token));
      expect(two.answers[0].tokens.length).toBe(40);
    },
    seconds,
  );
});

const cut = { pages: 32, pageSize: 4, tokenBudget: 7, maxBatch: 3, dcp: 2 };
test(
  "families of models, as transformers has them",
  async () => {
    // The last four have windows.
    const names = ["qwen3", "qwen3_moe", "phi3", "mixtral", "gemma2", "gemma3", "mistral"];
    const { prompt } = golden;
    const jobs = names.map((name) => {
      const request = { ...requestOf(prompt), maxTokens: goldenModels[name].tokens.length };
      return { path: writeModel(folder, name), requests: [request], options: cut };
    });
    const found = await askRanks(2, jobs);
    names.forEach((name, i) => {
      expect([name, found[i].answers[0].tokens]).toEqual([name, [...goldenModels[name].tokens]]);
    });
  },
  seconds,
);

test(
  "another number of parts is refused",
  async () => {
    expect(await refusedByRanks(2, [{ path, options: { ...cut, dcp: 4 } }])).toEqual([
      expect.stringContaining("dcp must be 1 or 2, as many ranks as tp says (got 4)"),
    ]);
  },
  seconds,
);
