import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { questions } from "../../src/cli/model/demo.ts";
import {
  type GenerateOptions,
  fetchSmolLm2,
  type SamplingOptions,
} from "../../src/engine/index.ts";
import {
  askRanks,
  type LogProb,
  type RanksLeft,
  refusedByRanks,
  startRanks,
} from "../support/ranks.ts";
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
  test.each([1, 2, 4])(
    "%i of them",
    async (tp) => {
      // Where heads are copied there is one more way; the rest is alike.
      const some = tp === 2 ? models : models.slice(0, 1);
      const jobs = some.map(([name, of, write]) => {
        const path = write(
          join(folder, `${tp} ${name}${name.includes("GGUF") ? ".gguf" : ""}`),
          of,
        );
        return { path, requests: prompts.map(requestOf) };
      });
      const found = await askRanks(tp, jobs);
      for (const [i, [name, of]] of some.entries()) {
        const model = tinyModel(1, of);
        const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 12));
        // Sums in another order move logits by less.
        expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(1e-3);
        const { answers } = found[i];
        expect([name, answers.map(({ tokens }) => tokens)]).toEqual([
          name,
          expected.map(({ tokens }) => tokens),
        ]);
      }
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
    const job = { path, requests, options: { pages: 64 } };
    const [{ answers }] = await askRanks(3, [job], { environment: {} });
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
    for (const tp of [1, 2])
      runs.push(...(await askRanks(tp, [{ path, requests, aborts: { 4: 3, 5: 7 } }])));
    const said = ({ answers }: RanksLeft) =>
      answers.map(({ tokens, reason }) => ({ tokens, reason }));
    expect(said(runs[1])).toEqual(said(runs[0]));
    expectClose(runs[1].answers[1].logProbs, runs[0].answers[1].logProbs);
  },
  seconds,
);

function expectClose(found: readonly LogProb[], expected: readonly LogProb[]): void {
  const flat = (all: readonly LogProb[]) =>
    all.flatMap(({ logProb, top }) => [logProb, ...top.map((each) => each.logProb)]);
  const tokens = (all: readonly LogProb[]) =>
    all.map(({ top }) => top.map(({ token }) => token).sort());
  expect(flat(expected).length).toBeGreaterThan(0);
  expect(tokens(found)).toEqual(tokens(expected));
  flat(found).forEach((value, i) => expect(value).toBeCloseTo(flat(expected)[i], 4));
}

describe("ranks tell rank 0 no more of their logits than the choice needs", () => {
  const seeded = { temperature: 1.3, seed: 11 };
  const candidates = "allGather u8";
  const whole = "allGather f32";
  const cases: [string, SamplingOptions, string, Partial<GenerateOptions>?][] = [
    ["greedy", greedy, candidates],
    ["of the 40 likeliest", { ...seeded, topK: 40 }, candidates],
    [
      "of the 64 likeliest, by all filters",
      { ...seeded, topK: 64, topP: 0.9, minP: 0.01 },
      candidates,
    ],
    ["greedy, with log-probabilities", { ...greedy, logprobs: 5 }, candidates],
    ["of a top-k, with log-probabilities", { ...seeded, topK: 20, logprobs: 0 }, candidates],
    ["of the 65 likeliest", { ...seeded, topK: 65 }, whole],
    ["by temperature", seeded, whole],
    ["by top-p", { ...seeded, topP: 0.8 }, whole],
    ["by min-p", { ...seeded, minP: 0.05 }, whole],
    ["greedy, with a bias", { ...greedy, logitBias: { 9: 4 } }, whole],
    ["greedy, with a penalty", { ...greedy, repetitionPenalty: 1.2 }, whole],
    ["JSON", greedy, whole, { json: true, ignoreEnd: false }],
  ];
  const path = writeFolder(join(folder, "parts"), tinyModel(3, shape));
  // What a graph does is not counted: each begins with a step of tokens that were not seen.
  const requests = cases.map(([, sampling, , more], i) => {
    return { ...requestOf([20 + i, ...prompts[0]]), sampling, ...more };
  });

  const gathersOf = (traffic: Record<string, number>) =>
    Object.keys(traffic).filter((what) => what.startsWith("allGather"));

  test(
    "of one request, and of several, what the most demanding one needs",
    async () => {
      const jobs = [true, false].map((inTurn) => ({ path, requests, inTurn }));
      const [[one, ones], [two, twos]] = await Promise.all(
        [1, 2].map((tp) => askRanks(tp, jobs, { environment: {} })),
      );
      for (const [i, [name, , gathers]] of cases.entries()) {
        const [answer, expected] = [two.answers[i], one.answers[i]];
        expect([name, answer.tokens]).toEqual([name, expected.tokens]);
        if (expected.logProbs.length > 0) expectClose(answer.logProbs, expected.logProbs);
        const gathered = gathersOf(two.traffic[i]);
        expect([name, ...gathered.map((what) => what.startsWith(gathers))]).toEqual([name, true]);
      }
      expect(one.answers.filter(({ logProbs }) => logProbs.length > 0).length).toBe(2);
      expect(twos.answers.map(({ tokens }) => tokens)).toEqual(
        ones.answers.map(({ tokens }) => tokens),
      );
      const gathered = gathersOf(twos.traffic[0]);
      for (const kind of [candidates, whole])
        expect(gathered.some((what) => what.startsWith(kind))).toBe(true);
    },
    seconds,
  );

  test(
    "NaN in the part of another rank ends the request as it does with one",
    async () => {
      const model = tinyModel(3, shape);
      model.tensors.get("lm_head.weight")!.values.fill(NaN, -1);
      const broken = writeFolder(join(folder, "nan"), model);
      const one = requestOf(prompts[0]);
      for (const tp of [1, 2]) {
        const [{ answers }] = await askRanks(tp, [{ path: broken, requests: [one] }]);
        expect(answers[0].reason).toContain("the logits after 5 tokens hold NaN");
      }
    },
    seconds,
  );
});

test(
  "a step takes one broadcast of 512 bytes beside the tokens that were chosen",
  async () => {
    const path = writeFolder(join(folder, "turns"), tinyModel(1, shape));
    const requests = prompts.slice(0, 3).map(requestOf);
    // What does not fit, as a long prompt, comes in a second one.
    const long = Array.from({ length: 100 }, (_, i) => 100 + (i % 90));
    const options = { pages: 64, pageSize: 4, tokenBudget: 8, maxBatch: 3 };
    const another = { path, requests: [{ ...requestOf(long), maxTokens: 2 }], options };
    const jobs = [{ path, requests }, another];
    const [{ traffic: all, steps }, more] = await askRanks(2, jobs, { environment: {} });
    const [traffic] = all;
    const told = Object.entries(traffic).filter(([what]) => what.startsWith("broadcast"));
    const [turns] = told.filter(([what]) => what.startsWith("broadcast u8"));
    // Tokens are 4 bytes for each of up to three rows.
    const tokens = told.filter(([what]) => /^broadcast i32 (4|8|12)$/.test(what));
    expect(turns[0]).toBe("broadcast u8 512");
    expect(tokens.length + 1).toBe(told.length);
    const sum = tokens.reduce((total, [, count]) => total + count, 0);
    expect(sum).toBeGreaterThan(12);
    expect(sum).toBeLessThanOrEqual(steps);
    // A turn before each step, and one in which the last is settled.
    expect(turns[1]).toBeGreaterThanOrEqual(steps);
    expect(turns[1]).toBeLessThanOrEqual(steps + 4);
    expect(more.traffic[0]["broadcast u8 4096"]).toBe(1);
  },
  seconds,
);

test(
  "numbers of ranks that do not fit are refused, with those that do, and ranks that differ",
  async () => {
    const path = writeFolder(join(folder, "refused"), tinyModel(1, shape));
    expect(await refusedByRanks(3, [{ path }])).toEqual([
      expect.stringMatching(
        /CommError: .*3 ranks do not divide 8 query heads.* Fix: start one of 1, 2, 4, 8 ranks\./,
      ),
    ]);
    const wrong = await startRanks(4, [{ path, requests: [] }], { started: 2 });
    expect(wrong.stderr).toContain("CommError: tp is 4, and mpirun started 2. Fix: ");
    expect(wrong.code).not.toBe(0);
    // Before weights are read.
    const differs = /^CommError: what is loaded of rank 1 differs from that of rank 0/;
    const unequal = [{ maxBatch: 2 }, { exact: true }].map((others) => ({ path, others }));
    expect(await refusedByRanks(2, unequal)).toEqual([
      expect.stringMatching(differs),
      expect.stringMatching(differs),
    ]);
  },
  seconds,
);
