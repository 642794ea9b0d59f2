import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Encoder, Engine, type EngineOptions } from "../../src/engine/index.ts";
import { type Golden, goldenModels, writeModel } from "../support/families.ts";
import { vocabularySize } from "../support/tiny-llama.ts";
import { gpuTarget } from "../support/targets.ts";
import golden from "./families-golden.json";

const { prompt } = golden;
const gpu = gpuTarget();
const folder = mkdtempSync(join(tmpdir(), "flashbun-families-"));
afterAll(() => rmSync(folder, { recursive: true }));

async function tokensOf(engine: Engine, tokens: readonly number[], maxTokens: number) {
  const sampling = { temperature: 0, logprobs: 20 };
  const options = { tokens, maxTokens, ignoreEnd: true, sampling };
  const pieces = await Array.fromAsync(engine.generate(options));
  return { tokens: pieces.map(({ token }) => token), first: pieces[0].logProb!.top };
}

/** Log-probabilities of logits. */
function logSoftmax(logits: readonly number[]): number[] {
  const most = Math.max(...logits);
  const sum = logits.reduce((held, logit) => held + Math.exp(logit - most), 0);
  return logits.map((logit) => logit - most - Math.log(sum));
}

test("the vocabulary is that of the golden file", () => {
  expect(vocabularySize).toBe(266);
});

describe.each(Object.keys(goldenModels))("%s, as transformers has it", (name) => {
  const { tokens: expected, logits } = goldenModels[name];
  const ways: [string, EngineOptions][] = [
    ["at once", {}],
    ["in chunks of three tokens, and pages of four", { tokenBudget: 3, maxBatch: 3, pageSize: 4 }],
  ];
  test.each(ways)("%s", async (_, options) => {
    await using engine = await Engine.load(writeModel(folder, name), options);
    const count = expected.length;
    const { tokens, first } = await tokensOf(engine, prompt, count);
    expect(tokens).toEqual([...expected]);
    const logProbs = logSoftmax(logits);
    for (const { token, logProb } of first)
      expect(Math.abs(logProb - logProbs[token])).toBeLessThan(2e-4);
    // Again beside itself a token later, from cached pages, and beside another.
    const [again, later] = await Promise.all([
      tokensOf(engine, prompt, count),
      tokensOf(engine, [...prompt, expected[0]], count - 1),
      tokensOf(engine, prompt.slice(0, 9), 5),
    ]);
    expect(again.tokens).toEqual([...expected]);
    expect(later.tokens).toEqual(expected.slice(1));
  });

  test.skipIf(gpu === undefined)(
    "on a GPU, in f16",
    async () => {
      const options = { device: "cuda:0", dtype: "f16", tokenBudget: 16, maxBatch: 2 } as const;
      await using engine = await Engine.load(writeModel(folder, name), options);
      const logProbs = logSoftmax(logits);
      const [{ first }, { first: later }] = await Promise.all([
        tokensOf(engine, prompt, 2),
        tokensOf(engine, [...prompt, expected[0]], 1),
      ]);
      for (const { token, logProb } of first)
        expect(Math.abs(logProb - logProbs[token])).toBeLessThan(0.1);
      expect(later[0].token).toBe(expected[1]);
    },
    600_000,
  );
});

test("an encoder's vectors are those of transformers, whatever comes with them", async () => {
  const { config, tensors, vectors } = golden.bert as unknown as Golden & { vectors: number[][] };
  const at = writeModel(folder, "bert", { config, tensors });
  await using encoder = await Encoder.load(at, { tokenBudget: 32 });
  expect(encoder.dimensions).toBe(48);
  const short = prompt.slice(0, 5);
  const [[first, second, third], [alone]] = await Promise.all([
    encoder.embed([prompt, short, prompt]),
    encoder.embed([short]),
  ]);
  const pairs: [Float32Array, number[]][] = [
    [first, vectors[0]],
    [second, vectors[1]],
    [third, vectors[0]],
    [alone, vectors[1]],
  ];
  for (const [vector, expected] of pairs)
    vector.forEach((value, i) => expect(Math.abs(value - expected[i])).toBeLessThan(2e-5));
  const wrong = [[[]], [Array(33).fill(1)], [[266]], "text"];
  for (const inputs of wrong)
    expect(await encoder.embed(inputs as never).catch(String)).toMatch(/OptionError: inputs/);
});
