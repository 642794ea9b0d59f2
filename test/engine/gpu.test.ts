import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { gpuTarget } from "../support/targets.ts";
import { naiveGreedy, tinyModel, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 16 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-engine-gpu-"));
afterAll(() => rmSync(folder, { recursive: true }));
const gpu = gpuTarget();

test.skipIf(gpu === undefined)("a whole decoder runs on a GPU, from ids to ids", async () => {
  const model = tinyModel(1, { ...shape, context: 128, tied: false });
  const path = writeFolder(folder, model);
  const prompts = [
    [3, 4, 5, 6, 7],
    [3, 4, 5, 9],
    [100, 5],
  ];
  const expected = prompts.map((prompt) => naiveGreedy(model, prompt, 8));
  // Rounding to f16 moves logits of this size by less.
  expect(Math.min(...expected.map(({ margin }) => margin))).toBeGreaterThan(0.02);
  await using engine = await Engine.load(path, {
    device: "cuda:0",
    dtype: "f16",
    tokenBudget: 6,
    maxBatch: 3,
  });
  const answers = await Promise.all(
    prompts.map(async (tokens) => {
      const sampling = { temperature: 0, presencePenalty: 0, logprobs: 0 };
      const said: number[] = [];
      for await (const { token, logProb } of engine.generate({
        tokens,
        maxTokens: 8,
        ignoreEnd: true,
        sampling,
      })) {
        said.push(token);
        expect(logProb!.logProb).toBeLessThan(0);
      }
      return said;
    }),
  );
  expect(answers).toEqual(expected.map(({ tokens }) => tokens));
});
