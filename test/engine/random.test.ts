import { afterAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Engine } from "../../src/engine/index.ts";
import { Config } from "../../src/models/config.ts";
import { familyOf } from "../../src/models/families.ts";
import { namedShapes } from "../../src/weights/shapes.ts";
import { tinyConfig } from "../support/tiny-config.ts";

const folder = mkdtempSync(join(tmpdir(), "flashbun-random-"));
afterAll(() => rmSync(folder, { recursive: true }));

const tiny = { ...tinyConfig, max_position_embeddings: 64 };
const mixture = {
  num_experts: 4,
  num_local_experts: 4,
  num_experts_per_tok: 2,
  moe_intermediate_size: 32,
};

/** Parameters by what the makers say: in billions, to the digit that the name rounds to. */
const billions: Record<string, number> = {
  "smollm2-135m": 0.1345,
  "llama-8b": 8.03,
  "llama-70b": 70.55,
  "llama-13b": 13.02,
  "qwen2.5-7b": 7.62,
  "qwen3-8b": 8.19,
  "qwen3-30b-a3b": 30.53,
};

test.each(Object.keys(namedShapes))("%s has as many parameters as its makers say", (name) => {
  const config = new Config(name, namedShapes[name]);
  const shape = familyOf(config).shape(config);
  const { layers, hidden, intermediate, queryHeads, kvHeads, headDim, vocabulary } = shape;
  const attention = 2 * hidden * (queryHeads + kvHeads) * headDim;
  const { experts = 1, intermediate: inside = intermediate } = shape.mixture ?? {};
  const router = shape.mixture === undefined ? 0 : hidden * experts;
  const layer = attention + router + 3 * experts * hidden * inside;
  const count = layers * layer + (shape.isTied ? 1 : 2) * vocabulary * hidden;
  expect(count / 1e9 / billions[name]).toBeCloseTo(1, 2);
});

describe("random weights answer to the length asked for, the same each time", () => {
  test.each(["llama", "qwen2", "qwen3", "mixtral", "qwen3_moe"])("%s", async (model_type) => {
    const path = join(folder, `${model_type}.json`);
    writeFileSync(path, JSON.stringify({ ...tiny, ...mixture, model_type }));
    const answer = async () => {
      await using engine = await Engine.load(path, { randomWeights: true });
      const tokens: number[] = [];
      const sampling = { temperature: 1, seed: 3 };
      const messages = [{ role: "user", content: "hello" }];
      for await (const { token } of engine.generate({ messages, maxTokens: 20, sampling }))
        tokens.push(token);
      return tokens;
    };
    const tokens = await answer();
    expect(tokens.length).toBe(20);
    expect(new Set(tokens).size).toBeGreaterThan(5);
    expect(await answer()).toEqual(tokens);
  });
});

test("a shape that is neither known nor a file is refused by name", async () => {
  const said = await Engine.load("llama-9b", { randomWeights: true }).catch(String);
  expect(said).toMatch(/: model must be one of smollm2-135m, llama-8b.*config\.json.*llama-9b/);
});
