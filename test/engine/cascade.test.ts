import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { seeded } from "../support/random.ts";
import { gpuTarget } from "../support/targets.ts";
import { naiveGreedy, tinyModel, vocabularySize, writeFolder } from "../support/tiny-llama.ts";

const shape = { layers: 2, hidden: 32, intermediate: 48, queryHeads: 4, kvHeads: 2, headDim: 16 };
const folder = mkdtempSync(join(tmpdir(), "flashbun-cascade-"));
afterAll(() => rmSync(folder, { recursive: true }));
const model = tinyModel(1, { ...shape, context: 1024, tied: false });
const path = writeFolder(folder, model);
const random = seeded(3);
const draw = (length: number) =>
  Array.from({ length }, () => random.integer(0, vocabularySize - 3));
const system = draw(400);
const prompts = Array.from({ length: 8 }, (_, i) => [...system, ...draw(1 + i)]);
const expected = naiveGreedy(model, prompts[3], 3);

/** Answers to all prompts, once the system prompt is cached, and how many steps had two levels. */
async function answersOf(device: "cpu" | "cuda:0", cascade: boolean) {
  const dtype = device === "cpu" ? ("f32" as const) : ("f16" as const);
  await using engine = await Engine.load(path, { device, dtype, cascade, maxBatch: 8 });
  const { cache } = engine.model;
  let levels = 0;
  const share = cache.sharePrefixes.bind(cache);
  cache.sharePrefixes = (...step) => {
    const isShared = share(...step);
    if (isShared) levels++;
    return isShared;
  };
  const answer = async (tokens: readonly number[], maxTokens: number) => {
    const said: number[] = [];
    const options = { tokens, maxTokens, ignoreEnd: true, sampling: { temperature: 0 } };
    for await (const { token } of engine.generate(options)) said.push(token);
    return said;
  };
  await answer(system, 1);
  return { answers: await Promise.all(prompts.map((prompt) => answer(prompt, 8))), levels };
}

const devices = gpuTarget() === undefined ? ["cpu" as const] : ["cpu" as const, "cuda:0" as const];

test.each(devices)(
  "a prefix that requests share is a level of its own: %s",
  async (device) => {
    expect(expected.margin).toBeGreaterThan(0.01);
    const [shared, apart] = [await answersOf(device, true), await answersOf(device, false)];
    expect(shared.levels).toBeGreaterThan(4);
    expect(apart.levels).toBe(0);
    expect(shared.answers[3].slice(0, 3)).toEqual(expected.tokens);
    expect(shared.answers).toEqual(apart.answers);
  },
  300_000,
);
