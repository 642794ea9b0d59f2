import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { questions } from "../../src/cli/model/demo.ts";
import { type GenerateOptions, fetchSmolLm2 } from "../../src/engine/index.ts";
import { runRanks } from "../support/mpirun.ts";
import {
  naiveGreedy,
  packed,
  tinyModel,
  type TinyShape,
  writeFolder,
  writeGguf,
} from "../support/tiny-llama.ts";

const seconds = 240_000;
const shape: TinyShape = {
  layers: 2,
  hidden: 64,
  intermediate: 96,
  queryHeads: 8,
  kvHeads: 2,
  headDim: 8,
  context: 128,
  tied: false,
};
const mixture = { kind: "qwen3_moe", experts: 4, topK: 2, renormalize: true } as const;
const mixtureFields = {
  model_type: "qwen3_moe",
  num_experts: 4,
  num_experts_per_tok: 2,
  norm_topk_prob: true,
  moe_intermediate_size: shape.intermediate,
};
const folder = mkdtempSync(join(tmpdir(), "flashbun-ranks-"));
afterAll(() => rmSync(folder, { recursive: true }));
// Few pages, of which requests lose some on the way.
const options = { pages: 24, pageSize: 4, tokenBudget: 8, maxBatch: 3 };
const prompts = [
  [3, 4, 5, 6, 7],
  [3, 4, 5, 9],
  [100, 5],
  Array.from({ length: 30 }, (_, i) => 7 + i),
  [3, 4, 5, 6, 7, 8, 9, 10],
];
const greedy = { temperature: 0 };
const requestOf = (tokens: readonly number[]) => {
  return { tokens, maxTokens: 12, ignoreEnd: true, sampling: greedy };
};

interface Left {
  answers: { tokens: number[]; reason: string }[];
  pagesUsed: number;
  left: number;
}

async function ask(
  tp: number,
  path: string,
  requests: readonly GenerateOptions[],
  more: { options?: object; aborts?: object; environment?: Record<string, string> } = {},
): Promise<Left> {
  const job = { path, tp, options: more.options ?? options, requests, aborts: more.aborts ?? {} };
  const { environment = { FLASHBUN_SYNC: "1" } } = more;
  const run = await runRanks(tp, "engine/ranks.ts", [JSON.stringify(job)], { environment });
  expect(run.stderr).toBe("");
  expect(run.code).toBe(0);
  return JSON.parse(run.stdout) as Left;
}

describe("ranks say what one alone would, in f32", () => {
  const models: [string, TinyShape, (path: string, shape: TinyShape) => string][] = [
    ["8 query and 2 key heads", shape, (path, of) => writeFolder(path, tinyModel(1, of))],
    ["packed projections", shape, (path, of) => writeFolder(path, packed(tinyModel(1, of)))],
    [
      "a tied head and biases",
      { ...shape, tied: true, biased: true },
      (path, of) => writeFolder(path, tinyModel(1, of)),
    ],
    ["a GGUF file", { ...shape, tied: true }, (path, of) => writeGguf(path, tinyModel(1, of))],
    [
      "experts",
      { ...shape, mixture, headNorms: true },
      (path, of) => writeFolder(path, tinyModel(1, of), mixtureFields),
    ],
  ];
  test.each(
    models.flatMap(([name, of, write], i) =>
      (i === 0 ? [1, 2, 4] : [2]).map((tp) => [tp, name, of, write] as const),
    ),
  )(
    "%i of %s",
    async (tp, name, of, write) => {
      const path = write(join(folder, `${name}${name.includes("GGUF") ? ".gguf" : ""}`), of);
      const model = tinyModel(1, of);
      const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 12));
      // Sums in another order move logits by less.
      expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(1e-3);
      const { answers, left } = await ask(tp, path, prompts.map(requestOf));
      expect(answers.map(({ tokens }) => tokens)).toEqual(expected.map(({ tokens }) => tokens));
      expect(left).toBe(0);
    },
    seconds,
  );
});

test(
  "SmolLM2 of 9 query and 3 key heads says the same in 3 ranks",
  async () => {
    const golden = questions.filter(([, tokens]) => tokens !== undefined);
    const requests = golden.map(([content]) => {
      return { messages: [{ role: "user", content }], maxTokens: 64, sampling: greedy };
    });
    const path = await fetchSmolLm2();
    const { answers } = await ask(3, path, requests, { options: { pages: 64 }, environment: {} });
    expect(answers.map(({ tokens }) => tokens.join(" "))).toEqual(
      golden.map(([, tokens]) => `${tokens} 2`),
    );
  },
  seconds,
);

test(
  "requests that are sampled, constrained, stopped and left go as with one rank",
  async () => {
    const path = writeFolder(join(folder, "mixed"), tinyModel(1, shape));
    const requests: GenerateOptions[] = [
      { ...requestOf(prompts[0]), sampling: { temperature: 1, seed: 5, topP: 0.9 } },
      { ...requestOf(prompts[1]), sampling: { temperature: 0.7, seed: 6, logprobs: 3 } },
      { ...requestOf(prompts[2]), sampling: { ...greedy, frequencyPenalty: 1 } },
      { ...requestOf(prompts[3]), stop: "e" },
      requestOf(prompts[4]),
      { ...requestOf(prompts[1]), maxTokens: 60 },
    ];
    const runs = [];
    for (const tp of [1, 2]) runs.push(await ask(tp, path, requests, { aborts: { 4: 3, 5: 7 } }));
    expect(runs[1].answers).toEqual(runs[0].answers);
    expect(runs.map(({ left }) => left)).toEqual([0, 0]);
  },
  seconds,
);

test(
  "numbers of ranks that do not fit are refused, with those that do",
  async () => {
    const path = writeFolder(join(folder, "refused"), tinyModel(1, shape));
    const job = JSON.stringify({ path, tp: 3, options, requests: [], aborts: {} });
    const { code, stderr } = await runRanks(3, "engine/ranks.ts", [job]);
    expect(stderr).toMatch(
      /CommError: .*3 ranks do not divide 8 query heads.* Fix: start one of 1, 2, 4, 8 ranks\./,
    );
    expect(code).not.toBe(0);
    const other = JSON.stringify({ path, tp: 4, options, requests: [], aborts: {} });
    const wrong = await runRanks(2, "engine/ranks.ts", [other]);
    expect(wrong.stderr).toContain("CommError: tp is 4, and mpirun started 2. Fix: ");
  },
  seconds,
);

test(
  "ranks that want something else are refused before weights are read",
  async () => {
    const path = writeFolder(join(folder, "unequal"), tinyModel(1, shape));
    const parts = { path, tp: 2, options, others: { maxBatch: 2 }, requests: [], aborts: {} };
    const { code, stderr } = await runRanks(2, "engine/ranks.ts", [JSON.stringify(parts)]);
    expect(stderr).toMatch(/CommError: what is loaded of rank [01] differs from that of rank [01]/);
    expect(code).not.toBe(0);
  },
  seconds,
);
