import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine, type GeneratedToken, type SamplingOptions } from "../../src/engine/index.ts";
import { naiveLogits, tinyModel, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 1, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 8 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-sampling-"));
const model = tinyModel(5, { ...shape, context: 256, tied: false });
const prompt = [7, 70, 71, 72, 7, 3];
let engine: Engine;

beforeAll(async () => {
  engine = await Engine.load(writeFolder(folder, model), { maxBatch: 8 });
});

afterAll(async () => {
  await engine[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

async function piecesOf(sampling: SamplingOptions, maxTokens = 16): Promise<GeneratedToken[]> {
  const pieces: GeneratedToken[] = [];
  for await (const piece of engine.generate({
    tokens: prompt,
    maxTokens,
    ignoreEnd: true,
    sampling,
  }))
    pieces.push(piece);
  return pieces;
}

async function tokensOf(sampling: SamplingOptions, maxTokens?: number): Promise<number[]> {
  return (await piecesOf(sampling, maxTokens)).map(({ token }) => token);
}

/** Greedy tokens by f64 arithmetic after a change of the logits, and the smallest lead. */
function naive(count: number, change: (logits: number[], said: readonly number[]) => void) {
  const said: number[] = [];
  let lead = Infinity;
  while (said.length < count) {
    const logits = naiveLogits(model, [...prompt, ...said]).at(-1)!;
    change(logits, said);
    const [best, second] = logits
      .map((logit, token) => ({ logit, token }))
      .sort((a, b) => b.logit - a.logit);
    lead = Math.min(lead, best.logit - second.logit);
    said.push(best.token);
  }
  return { tokens: said, lead };
}

test("a seed gives the same tokens alone and beside others; another seed others", async () => {
  const wanted = { temperature: 1.2, topP: 0.95, minP: 0.001, seed: 2 ** 40 + 7 };
  const alone = await tokensOf(wanted);
  const [again, other] = await Promise.all([
    tokensOf(wanted),
    tokensOf({ ...wanted, seed: 8 }),
    tokensOf({ temperature: 0 }),
    tokensOf({ temperature: 2, topK: 5, seed: 1 }),
  ]);
  expect(again).toEqual(alone);
  expect(other).not.toEqual(alone);
  expect(new Set(alone).size).toBeGreaterThan(4);
});

test("the likeliest alone is greedy", async () => {
  const greedy = await tokensOf({ temperature: 0 });
  expect(await tokensOf({ temperature: 3, topK: 1, seed: 3 })).toEqual(greedy);
  expect(await tokensOf({ temperature: 3, minP: 1, seed: 3 })).toEqual(greedy);
});

describe("what was said counts", () => {
  const repetition = (logits: number[], said: readonly number[], factor: number) => {
    for (const token of new Set([...prompt, ...said]))
      logits[token] = logits[token] > 0 ? logits[token] / factor : logits[token] * factor;
  };
  const cases: [string, SamplingOptions, (logits: number[], said: readonly number[]) => void][] = [
    [
      "presence",
      { presencePenalty: 2 },
      (logits, said) => new Set(said).forEach((token) => (logits[token] -= 2)),
    ],
    [
      "frequency",
      { frequencyPenalty: 0.7 },
      (logits, said) => said.forEach((token) => (logits[token] -= 0.7)),
    ],
    ["repetition", { repetitionPenalty: 1.8 }, (logits, said) => repetition(logits, said, 1.8)],
    [
      "bias",
      { logitBias: { 9: 3, 200: -5 } },
      (logits) => {
        logits[9] += 3;
        logits[200] -= 5;
      },
    ],
  ];

  test.each(cases)("%s", async (_, sampling, change) => {
    const expected = naive(16, change);
    expect(expected.lead).toBeGreaterThan(1e-4);
    // Beside others that ask for nothing, or for something else.
    const [tokens] = await Promise.all([
      tokensOf({ temperature: 0, ...sampling }),
      tokensOf({ temperature: 0 }),
      tokensOf({ temperature: 0, presencePenalty: -2 }),
    ]);
    expect(tokens).toEqual(expected.tokens);
    expect(tokens).not.toEqual(naive(16, () => {}).tokens);
  });

  test("where logits are rounded to bf16", async () => {
    const path = join(folder, "rounded");
    await using rounded = await Engine.load(writeFolder(path, model), { dtype: "bf16" });
    const first = naive(1, () => {}).tokens[0];
    const sampling = { temperature: 0, logitBias: { [first]: -100 } };
    const options = { tokens: prompt, maxTokens: 1, ignoreEnd: true, sampling };
    for await (const { token } of rounded.generate(options)) expect(token).not.toBe(first);
  });

  test("more requests than there are slots, one after the other", async () => {
    const expected = await tokensOf({ temperature: 0, presencePenalty: 2 });
    const all = await Promise.all(
      Array.from({ length: 20 }, () => tokensOf({ temperature: 0, presencePenalty: 2 })),
    );
    for (const tokens of all) expect(tokens).toEqual(expected);
  });
});

test("log-probabilities are those of the logits", async () => {
  const [pieces, none] = await Promise.all([
    piecesOf({ temperature: 0, logprobs: 3 }, 4),
    piecesOf({ temperature: 0 }, 4),
  ]);
  expect(none.every(({ logProb }) => logProb === undefined)).toBe(true);
  const said: number[] = [];
  for (const { token, logProb } of pieces) {
    const logits = naiveLogits(model, [...prompt, ...said]).at(-1)!;
    const most = Math.max(...logits);
    const total = most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
    const sorted = logits.map((logit, id) => ({ id, logit })).sort((a, b) => b.logit - a.logit);
    expect(logProb!.logProb).toBeCloseTo(logits[token] - total, 4);
    expect(logProb!.top.map((each) => each.token)).toEqual(sorted.slice(0, 3).map(({ id }) => id));
    logProb!.top.forEach((each, i) => expect(each.logProb).toBeCloseTo(sorted[i].logit - total, 4));
    said.push(token);
  }
});

test("logits of NaN end their request with the position", async () => {
  const broken = tinyModel(5, { ...shape, context: 64, tied: false });
  broken.tensors.get("lm_head.weight")!.values.fill(NaN);
  await using other = await Engine.load(writeFolder(join(folder, "broken"), broken));
  const failure = await other.generate({ tokens: prompt }).text().catch(String);
  expect(failure).toMatch(/the logits after 6 tokens hold NaN/);
  expect(other.stats().requests).toBe(0);
});
